//! Postgres `COPY` text: one row a line, fields apart by tabs, `\N` for null.
//!
//! The form is that of the Postgres manual, "COPY", "Text Format". Newlines, tabs and
//! backslashes inside a value are always escaped, so lines and fields can be cut without a
//! look at what they hold.

use std::borrow::Cow;

/// The fields of one line, still escaped; `None` is null.
pub fn fields(line: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest?;
        let (field, after) = match memchr::memchr(b'\t', text) {
            Some(tab) => {
                let (field, after) = text.split_at(tab);
                (field, after.get(1..))
            }
            None => (text, None),
        };
        rest = after;
        Some((field != b"\\N").then_some(field))
    })
}

/// The value of a field that is not null. Borrows where nothing was escaped.
///
/// Every input has a value: an escape that the manual does not name stands for its character.
pub fn unescape(field: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'\\', field) else {
        return Cow::Borrowed(field);
    };
    let (plain, mut rest) = field.split_at(first);
    let mut value = Vec::with_capacity(field.len());
    value.extend_from_slice(plain);
    while let [b'\\', after @ ..] = rest {
        let (byte, tail) = unescape_one(after);
        value.push(byte);
        let next = memchr::memchr(b'\\', tail).unwrap_or(tail.len());
        let (plain, escaped) = tail.split_at(next);
        value.extend_from_slice(plain);
        rest = escaped;
    }
    Cow::Owned(value)
}

/// Appends `value` as the field of a `COPY` text line.
pub fn escape_into(value: &[u8], line: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\t' => line.extend_from_slice(b"\\t"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            other => line.push(other),
        }
    }
}

/// The byte that the escape after a backslash stands for, and what follows it.
fn unescape_one(after: &[u8]) -> (u8, &[u8]) {
    match after {
        [] => (b'\\', after),
        [b'b', tail @ ..] => (0x08, tail),
        [b'f', tail @ ..] => (0x0c, tail),
        [b'n', tail @ ..] => (b'\n', tail),
        [b'r', tail @ ..] => (b'\r', tail),
        [b't', tail @ ..] => (b'\t', tail),
        [b'v', tail @ ..] => (0x0b, tail),
        [b'0'..=b'7', ..] => numeric(after, 8, 3),
        [b'x', digits @ ..] if digits.first().is_some_and(u8::is_ascii_hexdigit) => numeric(digits, 16, 2),
        [other, tail @ ..] => (*other, tail),
    }
}

/// A byte written as up to `digits_max` digits of `radix`; as in Postgres the high bits are cut.
fn numeric(text: &[u8], radix: u32, digits_max: usize) -> (u8, &[u8]) {
    let digits = text
        .iter()
        .take(digits_max)
        .take_while(|byte| char::from(**byte).is_digit(radix))
        .count();
    let (number, tail) = text.split_at(digits);
    let value = number.iter().fold(0u32, |value, byte| {
        value * radix + char::from(*byte).to_digit(radix).unwrap_or(0)
    });
    ((value & 0xff) as u8, tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn null_is_told_from_text() {
        let row: Vec<_> = fields(b"\\N\t\\\\N\t").collect();
        assert_eq!(row, [None, Some(b"\\\\N".as_slice()), Some(b"".as_slice())]);
        assert_eq!(&*unescape(b"\\\\N"), b"\\N");
    }

    #[test]
    fn every_escape_of_the_manual_is_read() {
        assert_eq!(
            &*unescape(b"\\b\\f\\n\\r\\t\\v\\\\\\101\\x41\\q"),
            b"\x08\x0c\n\r\t\x0b\\AAq"
        );
    }

    proptest! {
        #[test]
        fn what_is_escaped_comes_back(value: Vec<u8>) {
            let mut line = Vec::new();
            escape_into(&value, &mut line);
            prop_assert!(!line.contains(&b'\t') && !line.contains(&b'\n'));
            prop_assert_eq!(unescape(&line).into_owned(), value);
        }

        #[test]
        fn any_bytes_have_fields_and_values(line: Vec<u8>) {
            for field in fields(&line).flatten() {
                prop_assert!(unescape(field).len() <= field.len());
            }
        }
    }
}
