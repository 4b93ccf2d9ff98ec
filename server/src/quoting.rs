//! Names and values as SQL text.
//!
//! `COPY` takes no parameters, so whatever comes from a cursor or the catalog goes into a
//! statement through these two functions and no other way.

/// A name, always quoted.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The text has a NUL. Postgres has none in text, so no row can hold it, and a statement would end at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Postgres has no NUL in text")]
pub struct NulInText;

/// A text value.
///
/// The `E` form means the same whatever `standard_conforming_strings` says.
pub fn literal(value: &str) -> Result<String, NulInText> {
    let mut out = String::with_capacity(value.len() + 3);
    out.push_str("E'");
    for character in value.chars() {
        match character {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            // Left out, it would make another value of this one.
            '\0' => return Err(NulInText),
            other => out.push(other),
        }
    }
    out.push('\'');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_are_doubled() {
        assert_eq!(identifier("Odd \"Name\""), "\"Odd \"\"Name\"\"\"");
        assert_eq!(literal("o'clock \\ x").as_deref(), Ok("E'o''clock \\\\ x'"));
    }

    #[test]
    fn a_nul_is_refused_and_not_left_out() {
        assert_eq!(literal("7\0"), Err(NulInText));
    }
}
