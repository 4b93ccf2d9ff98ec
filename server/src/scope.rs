//! Scopes: which rows of an entity a caller may see.
//!
//! A caller has values for columns, such as 7 and 8 for `tenant_id`. Of an entity whose scope is
//! that column it sees the rows with these values, and nothing of the others; of one whose scope
//! is a column that it has no value for, nothing at all.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

/// Entities of which a caller may not see all, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits(BTreeMap<i32, Limit>);

/// What a caller may see of an entity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Limit {
    /// The rows of these scopes, as Postgres prints them, ascending.
    Scopes(Vec<String>),
    /// Nothing, nor that it is there.
    Forbidden,
}

impl Limits {
    /// Limits an entity to the rows of these scopes.
    pub(crate) fn limit(&mut self, number: i32, mut scopes: Vec<String>) {
        scopes.sort_unstable();
        scopes.dedup();
        self.0.insert(number, Limit::Scopes(scopes));
    }

    /// Withholds an entity.
    pub(crate) fn forbid(&mut self, number: i32) {
        self.0.insert(number, Limit::Forbidden);
    }

    /// The scopes that may be seen of an entity; `None` for all.
    pub fn of(&self, number: i32) -> Option<&[String]> {
        self.0.get(&number).map(|limit| match limit {
            Limit::Scopes(scopes) => scopes.as_slice(),
            Limit::Forbidden => &[],
        })
    }

    /// Changes with what may be seen of these entities; 0 where nothing is limited.
    pub fn hash(&self, numbers: impl IntoIterator<Item = i32>) -> u64 {
        let mut numbers: Vec<i32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut hash = None;
        for number in numbers {
            let Some(limit) = self.0.get(&number) else {
                continue;
            };
            let hash = hash.get_or_insert_with(Sha256::new);
            hash.update(number.to_be_bytes());
            match limit {
                Limit::Forbidden => hash.update([0]),
                Limit::Scopes(scopes) => {
                    hash.update([1]);
                    hash.update(scopes.len().to_be_bytes());
                    for scope in scopes {
                        hash.update(scope.len().to_be_bytes());
                        hash.update(scope);
                    }
                }
            }
        }
        let Some(hash) = hash else { return 0 };
        let hash = hash.finalize();
        u64::from_be_bytes(hash.first_chunk().copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(of: &[(i32, &[&str])]) -> Limits {
        let mut limits = Limits::default();
        for (number, scopes) in of {
            limits.limit(*number, scopes.iter().map(ToString::to_string).collect());
        }
        limits
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
            limits(&[(1, &["a", "b"]), (2, &[])]),
            limits(&[(1, &["a", "b"])]),
            limits(&[]),
        ] {
            assert_ne!(some.hash([1, 2]), other.hash([1, 2]), "{other:?}");
        }
        assert_eq!(some.hash([1]), limits(&[(1, &["a", "b"]), (2, &["z"])]).hash([1]));
        assert_eq!(some.hash([3]), 0);
        let mut forbidden = some.clone();
        forbidden.forbid(2);
        assert_ne!(some.hash([1, 2]), forbidden.hash([1, 2]));
        assert_eq!(forbidden.of(2), Some(&[][..]));
    }
}
