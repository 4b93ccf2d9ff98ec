//! Turns fields of `COPY` text into SQLite values, once for every row of every pull.
//!
//! No bytes can make this panic; what is not a value of the announced type is refused, so that
//! a store never holds something under a wrong type.

use std::borrow::Cow;

use highwater_shared::{ValueKind, copy_text};
use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::error::Error;

/// Bytes of `2026-11-22T10:00:00.123456Z`.
const DATE_BYTES: usize = 27;

/// A value on its way into a prepared statement.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(Cow<'a, [u8]>),
    Blob(Vec<u8>),
    /// A date: its bytes, and how many of them count.
    Date([u8; DATE_BYTES], usize),
}

/// The field is not a value of its type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotAValue;

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
            Self::Date(text, length) => ValueRef::Text(text.get(..*length).unwrap_or_default()),
        }))
    }
}

/// Reads one field; `None` is null.
pub(super) fn read(kind: ValueKind, field: Option<&[u8]>) -> Result<Value<'_>, NotAValue> {
    let Some(field) = field else {
        return Ok(Value::Null);
    };
    match kind {
        ValueKind::Integer => integer(field).map(Value::Integer),
        ValueKind::Boolean => match field {
            b"t" => Ok(Value::Integer(1)),
            b"f" => Ok(Value::Integer(0)),
            _ => Err(NotAValue),
        },
        ValueKind::Float => float(field),
        ValueKind::Bytes => bytes(field).map(Value::Blob),
        ValueKind::TimestampWithZone => match date(field, b"+00") {
            Some(date) => Ok(date),
            None => text(field),
        },
        ValueKind::Timestamp => match date(field, b"") {
            Some(date) => Ok(date),
            None => text(field),
        },
        ValueKind::Text => text(field),
    }
}

/// The value of a key's field in a form that people read: as in the store, with hexadecimal digits for
/// bytes.
pub(crate) fn key_value(kind: ValueKind, field: Option<&[u8]>) -> Result<serde_json::Value, Error> {
    let text = |bytes: &[u8]| serde_json::Value::from(String::from_utf8_lossy(bytes));
    let Ok(value) = read(kind, field) else {
        return Err(Error::Malformed("it holds a key that cannot be read".to_owned()));
    };
    Ok(match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(number) if kind == ValueKind::Boolean => (number != 0).into(),
        Value::Integer(number) => number.into(),
        Value::Real(number) => number.into(),
        Value::Text(value) => text(&value),
        Value::Blob(_) => text(&copy_text::unescape(field.unwrap_or_default())),
        Value::Date(value, length) => text(value.get(..length).unwrap_or_default()),
    })
}

/// How SQLite declares a column of this kind.
pub(super) fn sqlite_type(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Integer | ValueKind::Boolean => "integer",
        ValueKind::Float => "real",
        ValueKind::Bytes => "blob",
        ValueKind::TimestampWithZone | ValueKind::Timestamp | ValueKind::Text => "text",
    }
}

fn integer(field: &[u8]) -> Result<i64, NotAValue> {
    let (negative, digits) = match field {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(NotAValue);
    }
    // Summed up below zero, where there is room for one more than above.
    let mut number: i64 = 0;
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return Err(NotAValue);
        }
        number = number
            .checked_mul(10)
            .and_then(|number| number.checked_sub(i64::from(byte - b'0')))
            .ok_or(NotAValue)?;
    }
    if negative {
        Ok(number)
    } else {
        number.checked_neg().ok_or(NotAValue)
    }
}

fn float(field: &[u8]) -> Result<Value<'_>, NotAValue> {
    let text = std::str::from_utf8(field).map_err(|_| NotAValue)?;
    let number: f64 = text.parse().map_err(|_| NotAValue)?;
    // SQLite has no NaN; it would turn it into null on its own.
    Ok(if number.is_nan() {
        Value::Null
    } else {
        Value::Real(number)
    })
}

/// `bytea` as Postgres prints it with `bytea_output = hex`; the backslash is escaped.
fn bytes(field: &[u8]) -> Result<Vec<u8>, NotAValue> {
    let digits = field.strip_prefix(b"\\\\x").ok_or(NotAValue)?;
    if !digits.len().is_multiple_of(2) {
        return Err(NotAValue);
    }
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    let (pairs, _) = digits.as_chunks::<2>();
    for [high, low] in pairs {
        bytes.push(digit(*high)? << 4 | digit(*low)?);
    }
    Ok(bytes)
}

fn digit(byte: u8) -> Result<u8, NotAValue> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => Err(NotAValue),
    }
}

/// `2026-11-22 10:00:00.12` and the zone's suffix, in the form whose text order is time order.
///
/// `None` for all else: BC, years above 9999 and infinity stay as Postgres prints them.
pub(super) fn date(field: &[u8], zone: &[u8]) -> Option<Value<'static>> {
    const SHAPE: &[u8; 19] = b"0000-00-00 00:00:00";
    let civil = field.strip_suffix(zone)?;
    let (seconds, fraction) = civil.split_first_chunk::<19>()?;
    let fits = seconds.iter().zip(SHAPE).all(|(byte, shape)| {
        if *shape == b'0' {
            byte.is_ascii_digit()
        } else {
            byte == shape
        }
    });
    if !fits {
        return None;
    }
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    for (to, from) in text.iter_mut().zip(seconds) {
        if *from != b' ' {
            *to = *from;
        }
    }
    if let [point, digits @ ..] = fraction {
        if *point != b'.' || digits.is_empty() || digits.len() > 6 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for (to, from) in text.iter_mut().skip(20).zip(digits) {
            *to = *from;
        }
    }
    let length = if zone.is_empty() {
        DATE_BYTES - 1
    } else {
        DATE_BYTES
    };
    Some(Value::Date(text, length))
}

fn text(field: &[u8]) -> Result<Value<'_>, NotAValue> {
    let value = copy_text::unescape(field);
    match std::str::from_utf8(&value) {
        Ok(_) => Ok(Value::Text(value)),
        Err(_) => Err(NotAValue),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [ValueKind; 7] = [
        ValueKind::Integer,
        ValueKind::Boolean,
        ValueKind::Float,
        ValueKind::Bytes,
        ValueKind::TimestampWithZone,
        ValueKind::Timestamp,
        ValueKind::Text,
    ];

    /// What SQLite gets to see, as text.
    fn seen(kind: ValueKind, field: &str) -> String {
        let value = read(kind, Some(field.as_bytes())).expect("a value");
        match value {
            Value::Text(text) => String::from_utf8(text.into_owned()).expect("text"),
            Value::Date(text, length) => String::from_utf8(text[..length].to_vec()).expect("text"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn integers_reach_both_ends() {
        for number in [0, 1, -1, i64::MAX, i64::MIN] {
            let field = number.to_string();
            assert_eq!(
                read(ValueKind::Integer, Some(field.as_bytes())),
                Ok(Value::Integer(number))
            );
        }
        for bad in [
            "",
            "-",
            "+1",
            "1.0",
            "9223372036854775808",
            "-9223372036854775809",
            "x",
        ] {
            assert_eq!(
                read(ValueKind::Integer, Some(bad.as_bytes())),
                Err(NotAValue),
                "{bad}"
            );
        }
    }

    #[test]
    fn floats_keep_infinity_and_lose_nan() {
        assert_eq!(read(ValueKind::Float, Some(b"NaN")), Ok(Value::Null));
        assert_eq!(
            read(ValueKind::Float, Some(b"-Infinity")),
            Ok(Value::Real(f64::NEG_INFINITY))
        );
        assert_eq!(
            read(ValueKind::Float, Some(b"Infinity")),
            Ok(Value::Real(f64::INFINITY))
        );
        assert_eq!(
            read(ValueKind::Float, Some(b"1.7976931348623157e+308")),
            Ok(Value::Real(f64::MAX))
        );
        assert_eq!(read(ValueKind::Float, Some(b"one")), Err(NotAValue));
    }

    #[test]
    fn booleans_are_one_and_zero() {
        assert_eq!(read(ValueKind::Boolean, Some(b"t")), Ok(Value::Integer(1)));
        assert_eq!(read(ValueKind::Boolean, Some(b"f")), Ok(Value::Integer(0)));
        assert_eq!(read(ValueKind::Boolean, Some(b"true")), Err(NotAValue));
    }

    #[test]
    fn bytes_come_from_hexadecimal_digits() {
        assert_eq!(
            read(ValueKind::Bytes, Some(b"\\\\x00ffAb")),
            Ok(Value::Blob(vec![0, 255, 0xab]))
        );
        assert_eq!(
            read(ValueKind::Bytes, Some(b"\\\\x")),
            Ok(Value::Blob(Vec::new()))
        );
        for bad in ["", "00", "\\\\x0", "\\\\x0g"] {
            assert_eq!(
                read(ValueKind::Bytes, Some(bad.as_bytes())),
                Err(NotAValue),
                "{bad}"
            );
        }
    }

    #[test]
    fn dates_have_six_digits_always() {
        let zoned = |field| seen(ValueKind::TimestampWithZone, field);
        assert_eq!(zoned("2026-11-22 10:00:00+00"), "2026-11-22T10:00:00.000000Z");
        assert_eq!(zoned("2026-11-22 10:00:00.12+00"), "2026-11-22T10:00:00.120000Z");
        assert_eq!(
            zoned("0001-01-01 00:00:00.123456+00"),
            "0001-01-01T00:00:00.123456Z"
        );
        let civil = |field| seen(ValueKind::Timestamp, field);
        assert_eq!(civil("2026-11-22 10:00:00"), "2026-11-22T10:00:00.000000");
        assert_eq!(civil("2026-11-22 10:00:00.5"), "2026-11-22T10:00:00.500000");
    }

    #[test]
    fn dates_beyond_the_form_stay_as_postgres_prints_them() {
        for odd in [
            "infinity",
            "-infinity",
            "0044-03-15 00:00:00+00 BC",
            "10000-01-01 00:00:00+00",
            "294276-12-31 23:59:59.999999+00",
            "2026-11-22 10:00:00+01",
        ] {
            assert_eq!(seen(ValueKind::TimestampWithZone, odd), odd);
        }
        for odd in ["infinity", "0044-03-15 00:00:00 BC", "10000-01-01 00:00:00"] {
            assert_eq!(seen(ValueKind::Timestamp, odd), odd);
        }
    }

    #[test]
    fn text_is_exact() {
        assert_eq!(
            seen(ValueKind::Text, "tab\\tline\\nback\\\\ \u{1F30A}"),
            "tab\tline\nback\\ \u{1F30A}"
        );
        assert_eq!(
            seen(ValueKind::Text, "123456789012345678901234567890.10"),
            "123456789012345678901234567890.10"
        );
        assert_eq!(read(ValueKind::Text, Some(b"\xff")), Err(NotAValue));
        assert_eq!(read(ValueKind::Text, None), Ok(Value::Null));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(field: Vec<u8>) {
            for kind in KINDS {
                let _ = read(kind, Some(&field));
            }
        }

        #[test]
        fn nearly_dates_do_not_panic(field in "[0-9-]{0,12} ?[0-9:.]{0,20}(\\+00)?") {
            for kind in KINDS {
                let _ = read(kind, Some(field.as_bytes()));
            }
        }
    }
}
