//! Names and values as SQL text.
//!
//! `COPY` takes no parameters, so whatever comes from a cursor or the catalog goes into a
//! statement through these two functions and no other way.

/// A name, always quoted.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text value.
///
/// The `E` form means the same whatever `standard_conforming_strings` says. Postgres has no NUL
/// in text: the statement as a whole would end there, so it is left out.
pub fn literal(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 3);
    out.push_str("E'");
    for character in value.chars() {
        match character {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\0' => {}
            other => out.push(other),
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_are_doubled() {
        assert_eq!(identifier("Odd \"Name\""), "\"Odd \"\"Name\"\"\"");
        assert_eq!(literal("o'clock \\ \0x"), "E'o''clock \\\\ x'");
    }
}
