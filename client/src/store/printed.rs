//! Turns values of SQLite back into what Postgres prints for them, so that both sides compute one hash.
//!
//! The inverse of [`value`](super::value), but for doubles, which both sides take bit by bit. What no
//! value of Postgres could have become is printed as what none prints, so that it differs.

use std::io::Write as _;

use highwater_shared::ValueKind;
use rusqlite::types::ValueRef;

use super::value;

/// Begins what is no value of its column's type. Never part of a text in UTF-8.
const ODD: u8 = 0xff;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes what Postgres prints into `out`, which is emptied first. Tells whether it is a value: null
/// is none.
pub(super) fn print(kind: ValueKind, value: ValueRef<'_>, out: &mut Vec<u8>) -> bool {
    out.clear();
    match (kind, value) {
        (_, ValueRef::Null) => return false,
        (ValueKind::Integer, ValueRef::Integer(number)) => decimal(number, out),
        (ValueKind::Boolean, ValueRef::Integer(1)) => out.push(b't'),
        (ValueKind::Boolean, ValueRef::Integer(0)) => out.push(b'f'),
        // Where zero was negative it is no longer.
        (ValueKind::Float, ValueRef::Real(number)) => hex(&(number + 0.0).to_bits().to_be_bytes(), out),
        (ValueKind::Bytes, ValueRef::Blob(bytes)) => {
            out.extend_from_slice(b"\\x");
            hex(bytes, out);
        }
        (ValueKind::TimestampWithZone, ValueRef::Text(text)) => date(text, b"Z", b"+00", out),
        (ValueKind::Timestamp, ValueRef::Text(text)) => date(text, b"", b"", out),
        (ValueKind::Text, ValueRef::Text(text)) => out.extend_from_slice(text),
        (_, odd) => {
            out.push(ODD);
            // Writing into memory does not fail.
            let _ = write!(out, "{odd:?}");
        }
    }
    true
}

fn decimal(number: i64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut rest = number.unsigned_abs();
    let mut first = digits.len();
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        first = place;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(digits.get(first..).unwrap_or_default());
}

fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            out.extend(HEX.get(usize::from(half)));
        }
    }
}

/// `2026-11-22T10:00:00.120000` and the zone's suffix, as Postgres prints it with its own.
fn date(text: &[u8], zone: &[u8], zone_printed: &[u8], out: &mut Vec<u8>) {
    let is_digit = |byte: &&u8| byte.is_ascii_digit();
    if let Some(civil) = text.strip_suffix(zone)
        && let Some((day, b"T", time)) = cut(civil, 10)
        && let Some((seconds, b".", fraction)) = cut(time, 8)
        && fraction.len() == 6
        && fraction.iter().all(|byte| is_digit(&byte))
    {
        out.extend_from_slice(day);
        out.push(b' ');
        out.extend_from_slice(seconds);
        let digits = fraction.iter().rposition(|digit| *digit != b'0');
        if let Some(last) = digits {
            out.push(b'.');
            out.extend_from_slice(fraction.get(..=last).unwrap_or_default());
        }
        out.extend_from_slice(zone_printed);
        return;
    }
    // What Postgres prints so would have another form in a store.
    if value::date(text, zone_printed).is_some() {
        out.push(ODD);
    }
    out.extend_from_slice(text);
}

/// What stands before a byte, the byte, and what follows it.
fn cut(text: &[u8], at: usize) -> Option<(&[u8], &[u8], &[u8])> {
    let (before, rest) = text.split_at_checked(at)?;
    let (byte, after) = rest.split_at_checked(1)?;
    Some((before, byte, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rusqlite::ToSql as _;
    use rusqlite::types::{ToSqlOutput, Value};

    fn printed(kind: ValueKind, value: &Value) -> Option<String> {
        let mut out = Vec::new();
        let some = print(kind, value.into(), &mut out);
        some.then(|| String::from_utf8_lossy(&out).into_owned())
    }

    /// What becomes of a field of `COPY` text that is stored and printed again.
    fn round(kind: ValueKind, field: &str) -> Option<String> {
        let value = value::read(kind, Some(field.as_bytes())).expect("a value");
        let ToSqlOutput::Borrowed(stored) = value.to_sql().expect("a value of SQLite") else {
            panic!("a value of its own");
        };
        printed(kind, &stored.try_into().expect("text"))
    }

    #[test]
    fn what_postgres_prints_comes_back() {
        for (kind, fields) in [
            (
                ValueKind::Integer,
                &["0", "-7", "9223372036854775807", "-9223372036854775808"][..],
            ),
            (ValueKind::Boolean, &["t", "f"]),
            (ValueKind::Text, &["", "a\"b", "1.50", "zß水🍌"]),
            (
                ValueKind::TimestampWithZone,
                &[
                    "2026-11-22 10:00:00+00",
                    "2026-11-22 10:00:00.12+00",
                    "0001-01-01 00:00:00.123456+00",
                    "0044-03-15 00:00:00+00 BC",
                    "10000-01-01 00:00:00+00",
                    "infinity",
                ],
            ),
            (
                ValueKind::Timestamp,
                &["2026-11-22 10:00:00", "2026-11-22 10:00:00.5", "-infinity"],
            ),
        ] {
            for field in fields {
                assert_eq!(round(kind, field).as_deref(), Some(*field), "{kind:?}");
            }
        }
        assert_eq!(round(ValueKind::Bytes, "\\\\x00ff").as_deref(), Some("\\x00ff"));
        assert_eq!(round(ValueKind::Float, "NaN"), None);
        assert_eq!(round(ValueKind::Float, "-0").as_deref(), Some("0000000000000000"));
        assert_eq!(
            round(ValueKind::Float, "0.1").as_deref(),
            Some("3fb999999999999a")
        );
    }

    #[test]
    fn what_a_pull_does_not_write_prints_otherwise() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (kind, right, edited) in [
            (ValueKind::Boolean, Value::Integer(1), Value::Integer(2)),
            (
                ValueKind::TimestampWithZone,
                text("2026-11-22T10:00:00.120000Z"),
                text("2026-11-22 10:00:00.12+00"),
            ),
            (
                ValueKind::Timestamp,
                text("2026-11-22T10:00:00.500000"),
                text("2026-11-22 10:00:00.5"),
            ),
            (ValueKind::Integer, Value::Integer(7), text("7")),
            (ValueKind::Text, text("7"), Value::Integer(7)),
            (ValueKind::Float, Value::Real(7.0), Value::Integer(7)),
            (ValueKind::Text, text(""), Value::Null),
        ] {
            assert_ne!(printed(kind, &right), printed(kind, &edited), "{edited:?}");
        }
    }

    proptest! {
        #[test]
        fn dates_come_back(field in "[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,5}[1-9])?") {
            prop_assert_eq!(round(ValueKind::Timestamp, &field), Some(field.clone()));
            let zoned = format!("{field}+00");
            prop_assert_eq!(round(ValueKind::TimestampWithZone, &zoned), Some(zoned));
        }

        #[test]
        fn numbers_come_back(number: i64) {
            let field = number.to_string();
            prop_assert_eq!(round(ValueKind::Integer, &field), Some(field));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}", kind in 0..7_usize) {
            let kinds = [
                ValueKind::Integer, ValueKind::Boolean, ValueKind::Float, ValueKind::Bytes,
                ValueKind::TimestampWithZone, ValueKind::Timestamp, ValueKind::Text,
            ];
            prop_assert!(printed(kinds[kind], &Value::Text(text)).is_some());
        }
    }
}
