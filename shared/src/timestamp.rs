//! Dates of the sync: instants with microseconds, written the way text sorts.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An instant in UTC, microseconds since 1970-01-01T00:00:00Z.
///
/// Written as `2026-11-22T10:00:00.123456Z`, always with six digits, so that the order of the
/// text is the order of time. The epoch alone is written `1970-01-01T00:00:00Z`: it is the date
/// of a device that has synchronised nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String, format = DateTime))]
pub struct Timestamp(i64);

/// 0001-01-01T00:00:00Z.
const FIRST_MICROS: i64 = -62_135_596_800_000_000;

/// 9999-12-31T23:59:59.999999Z.
const LAST_MICROS: i64 = 253_402_300_799_999_999;

/// The text is not an RFC 3339 date.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an RFC 3339 date such as 2026-11-22T10:00:00Z")]
pub struct TimestampError {
    text: String,
}

impl Timestamp {
    /// 1970-01-01T00:00:00Z, which as `since` means the same as no `since`.
    pub const EPOCH: Self = Self(0);

    /// The instant `micros` microseconds after the epoch.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The instant `micros` microseconds after the epoch, if it lies in the years 1 to 9999, which
    /// RFC 3339 and Postgres both can write.
    pub fn checked_from_micros(micros: i64) -> Option<Self> {
        (FIRST_MICROS..=LAST_MICROS)
            .contains(&micros)
            .then_some(Self(micros))
    }

    /// Microseconds since the epoch.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Reads what Postgres prints for a `timestamptz` with `DateStyle` ISO and `TimeZone` UTC,
    /// such as `2026-11-22 10:00:00.12+00`. `None` for what this type cannot hold: BC, infinity
    /// and years above 9999.
    pub fn from_postgres(text: &str) -> Option<Self> {
        let civil = text.strip_suffix("+00")?;
        let parsed = NaiveDateTime::parse_from_str(civil, "%Y-%m-%d %H:%M:%S%.f").ok()?;
        Self::checked_from_micros(parsed.and_utc().timestamp_micros())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(date) if self.0 == 0 => f.write_str(&date.to_rfc3339_opts(SecondsFormat::Secs, true)),
            Some(date) => f.write_str(&date.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// Reads an RFC 3339 date. A space before the offset is taken for a `+` that a URL lost.
    ///
    /// An offset can lead out of the years 1 to 9999, which is all that RFC 3339 and Postgres both
    /// can write: such a date is read as the first or the last instant of these.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mended = match text.rsplit_once(' ') {
            Some((date, offset)) if date.contains(['T', 't']) && offset.len() == 5 => {
                format!("{date}+{offset}")
            }
            _ => text.to_owned(),
        };
        DateTime::parse_from_rfc3339(&mended)
            .map(|date| Self(date.timestamp_micros().clamp(FIRST_MICROS, LAST_MICROS)))
            .map_err(|_| TimestampError {
                text: text.to_owned(),
            })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_has_its_own_form_and_others_have_six_digits() {
        assert_eq!(Timestamp::EPOCH.to_string(), "1970-01-01T00:00:00Z");
        let date: Timestamp = "2026-11-22T10:00:00.1+01:00".parse().expect("a date");
        assert_eq!(date.to_string(), "2026-11-22T09:00:00.100000Z");
    }

    #[test]
    fn a_plus_that_arrived_as_a_space_is_read() {
        let lost: Timestamp = "2026-11-22T10:00:00 01:00".parse().expect("a date");
        let kept: Timestamp = "2026-11-22T10:00:00+01:00".parse().expect("a date");
        assert_eq!(lost, kept);
    }

    #[test]
    fn an_offset_does_not_lead_out_of_the_years_that_can_be_written() {
        for (text, read) in [
            ("9999-12-31T23:59:59.5-00:01", "9999-12-31T23:59:59.999999Z"),
            ("0001-01-01T00:00:00+00:01", "0001-01-01T00:00:00.000000Z"),
            ("0000-01-01T00:00:00+23:59", "0001-01-01T00:00:00.000000Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ] {
            let date: Timestamp = text.parse().expect("a date");
            assert_eq!(date.to_string(), read);
            assert_eq!(Timestamp::checked_from_micros(date.micros()), Some(date));
            assert_eq!(read.parse(), Ok(date));
        }
    }

    #[test]
    fn what_postgres_prints_is_read() {
        let date = Timestamp::from_postgres("2026-11-22 10:00:00.12+00").expect("a date");
        assert_eq!(date.to_string(), "2026-11-22T10:00:00.120000Z");
        assert_eq!(Timestamp::from_postgres("infinity"), None);
        assert_eq!(Timestamp::from_postgres("0044-03-15 00:00:00+00 BC"), None);
    }

    #[test]
    fn years_that_postgres_does_not_print_so_are_not_read() {
        for text in [
            "-2026-11-22 10:00:00+00",
            "+10000-01-01 00:00:00+00",
            "0000-01-01 00:00:00+00",
        ] {
            assert_eq!(Timestamp::from_postgres(text), None, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-22", "10:00"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
