//! Scopes: which rows of an entity a caller may see.
//!
//! A caller has values for columns, such as 7 and 8 for `tenant_id`. Of an entity whose scope is
//! that column it sees the rows with these values, and nothing of the others; of one whose scope
//! is a column that it has no value for, nothing at all.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::entity::Entity;

/// What a caller may see, by the names of scope columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scopes {
    /// Every row.
    #[default]
    All,
    /// Of entities with a scope, the rows with these values.
    Of(BTreeMap<String, Vec<String>>),
}

impl Scopes {
    /// The values that a caller has for an entity's scope, as it has them. `None` where all of its
    /// rows may be seen.
    pub(crate) fn values(&self, entity: &Entity) -> Option<&[String]> {
        match (self, &entity.scope) {
            (Self::Of(values), Some(scope)) => Some(values.get(&scope.column).map_or(&[], Vec::as_slice)),
            (Self::All, _) | (_, None) => None,
        }
    }
}

/// The entities of which a caller sees some scopes only, by number, with the values of these as
/// Postgres prints them, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits(pub(crate) BTreeMap<i32, Vec<String>>);

impl Limits {
    /// The scopes that may be seen of an entity; `None` for all.
    pub fn of(&self, number: i32) -> Option<&[String]> {
        self.0.get(&number).map(Vec::as_slice)
    }

    /// Changes with what may be seen of these entities; 0 where nothing is limited.
    pub fn hash(&self, numbers: impl IntoIterator<Item = i32>) -> u64 {
        let mut numbers: Vec<i32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let limited = numbers
            .iter()
            .filter_map(|number| Some((number, self.of(*number)?)));
        let mut hash = None;
        for (number, values) in limited {
            let hash = hash.get_or_insert_with(Sha256::new);
            hash.update(number.to_be_bytes());
            hash.update(values.len().to_be_bytes());
            for value in values {
                hash.update(value.len().to_be_bytes());
                hash.update(value);
            }
        }
        let Some(hash) = hash else { return 0 };
        let hash = hash.finalize();
        let first = hash.first_chunk().copied().unwrap_or_default();
        u64::from_be_bytes(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(of: &[(i32, &[&str])]) -> Limits {
        let entity =
            |(number, values): &(i32, &[&str])| (*number, values.iter().map(ToString::to_string).collect());
        Limits(of.iter().map(entity).collect())
    }

    #[test]
    fn the_hash_changes_with_what_may_be_seen_of_the_entities_in_question() {
        let some = limits(&[(1, &["a", "b"]), (2, &["a"])]);
        assert_eq!(
            some.hash([1, 2]),
            limits(&[(1, &["a", "b"]), (2, &["a"])]).hash([2, 1, 1])
        );
        for other in [
            limits(&[(1, &["a"]), (2, &["a"])]),
            limits(&[(1, &["ab"]), (2, &["a"])]),
            limits(&[(1, &["a", "b", "a"]), (2, &[])]),
            limits(&[(1, &["a", "b"])]),
            limits(&[]),
        ] {
            assert_ne!(some.hash([1, 2]), other.hash([1, 2]), "{other:?}");
        }
        assert_eq!(some.hash([1]), limits(&[(1, &["a", "b"]), (2, &["z"])]).hash([1]));
        assert_eq!(some.hash([3]), 0);
    }
}
