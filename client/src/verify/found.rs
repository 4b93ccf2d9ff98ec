//! What a comparison found.

use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

use highwater_shared::{EntityName, ValueKind, copy_text};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;

use crate::error::Error;
use crate::store::key_value;
use crate::sync_helper::Cursor;

/// The longest list of keys that is sent, in bytes of JSON. A request has a cursor besides, and a server reads 1 MiB.
const KEYS_BYTES_MAX: usize = 512 * 1024;

/// What of a row is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Its key and its `changed_date`. A row that the sync has lost, or brought too often, shows.
    Dates,
    /// All of its values: what somebody edited in the store shows too, or a disk that lied.
    Values,
}

/// How a store compares with its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// What was found, by entity.
    pub entities: Vec<EntityVerified>,
    /// Whether what was found is mended; `None` where that was not asked for.
    pub repaired: Option<bool>,
    /// Bytes of the bodies that arrived.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// How an entity compares with its source, as of the store's cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntityVerified {
    /// The entity, and the name of its table.
    pub entity: EntityName,
    /// Rows of the store that were compared.
    pub rows: u64,
    /// Parts that they were compared in.
    pub parts: u64,
    /// Keys that changed at the source since, and so were left out on both sides.
    pub left_out: u64,
    /// Rows of the source that the store lacks.
    pub missing: Vec<RowKey>,
    /// Rows of the store that the source does not have.
    pub extra: Vec<RowKey>,
    /// Rows that are not the same.
    pub stale: Vec<RowKey>,
    /// The cursor as of which it was found.
    pub(crate) cursor: Option<Cursor>,
}

/// The key of a row: its columns, with the values that the store has for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowKey {
    columns: Vec<(String, Value)>,
    /// As a line of `COPY` text.
    pub(crate) line: Vec<u8>,
}

impl VerifyReport {
    /// Whether no difference was found.
    pub fn is_equal(&self) -> bool {
        self.entities.iter().all(EntityVerified::is_equal)
    }
}

impl EntityVerified {
    pub(super) fn new(entity: &EntityName) -> Self {
        Self {
            entity: entity.clone(),
            rows: 0,
            parts: 0,
            left_out: 0,
            missing: Vec::new(),
            extra: Vec::new(),
            stale: Vec::new(),
            cursor: None,
        }
    }

    /// Whether no difference was found.
    pub fn is_equal(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.stale.is_empty()
    }

    /// The keys of the rows in question that the source has, in lists that fit into a request each.
    pub(super) fn keys(&self) -> Vec<Vec<String>> {
        let keys = self.missing.iter().chain(&self.stale);
        // They came from there as text.
        lists(keys.filter_map(|key| String::from_utf8(key.line.clone()).ok()))
    }

    /// The keys of the rows that it does not have. Whoever put them there may have written what is no key at all.
    pub(super) fn extra_lines(&self) -> Vec<Vec<u8>> {
        self.extra.iter().map(|key| key.line.clone()).collect()
    }

    /// How many rows differ.
    pub(super) fn differences(&self) -> u64 {
        (self.missing.len() + self.extra.len() + self.stale.len()) as u64
    }

    pub(super) fn sort(&mut self) {
        for keys in [&mut self.missing, &mut self.extra, &mut self.stale] {
            keys.sort_by(RowKey::order);
        }
    }
}

impl RowKey {
    /// Reads a line of `COPY` text.
    pub(super) fn read<'c>(
        line: Vec<u8>,
        columns: impl Iterator<Item = (&'c str, ValueKind)>,
    ) -> Result<Self, Error> {
        let fields = copy_text::fields(&line);
        let columns = columns
            .zip(fields)
            .map(|((name, kind), field)| Ok((name.to_owned(), key_value(kind, field)?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self { columns, line })
    }

    /// The columns of the key, in its order. Integers are numbers and booleans are booleans; all else is
    /// the text that the store holds, and bytes are hexadecimal digits after `\x`.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.columns.iter().map(|(name, value)| (name.as_str(), value))
    }

    fn order(&self, other: &Self) -> Ordering {
        let values = self.columns.iter().zip(&other.columns);
        let of_values = values.map(|((_, a), (_, b))| match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_str().cmp(&b.as_str()),
        });
        let different = of_values.fold(Ordering::Equal, Ordering::then);
        different.then_with(|| self.line.cmp(&other.line))
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, value)) in self.columns.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            match value {
                Value::String(text) => write!(f, "{comma}{name}={text:?}")?,
                value => write!(f, "{comma}{name}={value}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for RowKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.columns.len()))?;
        for (name, value) in &self.columns {
            object.serialize_entry(name, value)?;
        }
        object.end()
    }
}

/// Cuts keys into lists of a bounded length in JSON. A key that is longer is a list of its own.
pub(super) fn lists(keys: impl Iterator<Item = String>) -> Vec<Vec<String>> {
    let mut lists: Vec<Vec<String>> = Vec::new();
    let mut bytes = 0;
    for key in keys {
        let more = json_bytes(&key) + 1;
        match lists.last_mut() {
            Some(list) if bytes + more <= KEYS_BYTES_MAX => list.push(key),
            _ => {
                lists.push(vec![key]);
                bytes = 0;
            }
        }
        bytes += more;
    }
    lists
}

/// How long something is in JSON.
pub(super) fn json_bytes(value: &impl Serialize) -> usize {
    // Texts and numbers can be written.
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys<const N: usize>(ids: [i64; N]) -> Vec<RowKey> {
        let key = |id: i64| RowKey {
            columns: vec![("id".to_owned(), id.into())],
            line: id.to_string().into_bytes(),
        };
        ids.map(key).to_vec()
    }

    #[test]
    fn what_differs_is_counted_and_stands_in_the_order_of_the_key() {
        let same = EntityVerified::new(&EntityName::new("product"));
        assert!(same.is_equal() && same.differences() == 0);
        let mut found = EntityVerified {
            missing: keys([10, 9, 100]),
            extra: keys([-2, -10]),
            stale: keys([1]),
            ..same.clone()
        };
        assert_eq!(found.differences(), 6);
        found.sort();
        assert_eq!(found.missing, keys([9, 10, 100]));
        assert_eq!(found.extra, keys([-10, -2]));
        let [missing, extra, stale] = [found.missing, found.extra, found.stale];
        for differs in [
            EntityVerified {
                missing,
                ..same.clone()
            },
            EntityVerified {
                extra,
                ..same.clone()
            },
            EntityVerified {
                stale,
                ..same.clone()
            },
        ] {
            assert!(!differs.is_equal(), "{differs:?}");
            let report = VerifyReport {
                entities: vec![same.clone(), differs],
                ..VerifyReport::default()
            };
            assert!(!report.is_equal());
        }
    }

    #[test]
    fn keys_are_cut_into_lists_that_fit_and_none_is_lost() {
        let key = |length| "k".repeat(length);
        // Each has two quotes and a comma besides.
        let half = KEYS_BYTES_MAX / 2 - 3;
        let found = lists([key(half), key(half), key(0), key(2 * KEYS_BYTES_MAX), key(2)].into_iter());
        let lengths: Vec<Vec<usize>> = found
            .iter()
            .map(|list| list.iter().map(String::len).collect())
            .collect();
        assert_eq!(
            lengths,
            [vec![half, half], vec![0], vec![2 * KEYS_BYTES_MAX], vec![2]]
        );
        assert_eq!(lists(std::iter::empty()), Vec::<Vec<String>>::new());
        // What JSON escapes is longer there.
        assert_eq!(lists([key(half), "\\".repeat(half)].into_iter()).len(), 2);
    }
}
