//! Scopes: which rows of an entity a caller may see.
//!
//! A caller has values for columns, such as 7 and 8 for `tenant_id`. Of an entity whose scope is
//! that column it sees the rows with these values, and nothing of the others; of one whose scope
//! is a column that it has no value for, nothing at all.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

/// The most scopes that a cursor remembers; where there are more, a change of them is not told by rows.
const REMEMBERED_MAX: usize = 64;

/// How a caller is told of rows when what it may see has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RescopedAs {
    /// Its cursor is refused.
    #[default]
    Resync,
    /// The rows of scopes that were added come, and what the others were is told.
    Rows,
}

/// The scopes in which a cursor's holder has seen something, by the entity's number: hashes of their values. Nothing
/// where it is not limited, or where they are too many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered(pub(crate) BTreeMap<i32, Vec<u64>>);

/// What has become of the scopes of an entity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rescoped {
    /// The places of those that were added, among all that may be seen now.
    pub(crate) added: Vec<usize>,
    /// Whether some may not be seen any more.
    pub(crate) lost: bool,
}

impl Remembered {
    /// The same with what `other` has of further entities.
    #[must_use]
    pub(crate) fn with(mut self, other: Self) -> Self {
        for (number, scopes) in other.0 {
            self.0.entry(number).or_insert(scopes);
        }
        self
    }

    /// What has become of the scopes of an entity, where those that may be seen now are these.
    pub(crate) fn rescoped(&self, number: i32, scopes: Option<&[String]>) -> Rescoped {
        let (Some(before), Some(scopes)) = (self.0.get(&number), scopes) else {
            return Rescoped::default();
        };
        let now: Vec<u64> = scopes.iter().map(|scope| hash_of(scope)).collect();
        let added = now.iter().enumerate().filter(|(_, hash)| !before.contains(hash));
        Rescoped {
            added: added.map(|(place, _)| place).collect(),
            lost: before.iter().any(|hash| !now.contains(hash)),
        }
    }
}

fn hash_of(scope: &str) -> u64 {
    let hash = Sha256::digest(scope);
    u64::from_be_bytes(hash.first_chunk().copied().unwrap_or_default())
}

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

    /// What a cursor is to remember of the scopes of these entities.
    pub(crate) fn remembered(&self, numbers: impl IntoIterator<Item = i32>) -> Remembered {
        let scopes = numbers.into_iter().filter_map(|number| {
            Some((
                number,
                self.of(number)?.iter().map(|scope| hash_of(scope)).collect(),
            ))
        });
        let scopes: BTreeMap<i32, Vec<u64>> = scopes.collect();
        let count: usize = scopes.values().map(Vec::len).sum();
        Remembered(if count > REMEMBERED_MAX {
            BTreeMap::new()
        } else {
            scopes
        })
    }

    /// Whether of those of these entities that are remembered the same scopes may be seen now.
    pub(crate) fn is_as(&self, before: &Remembered, numbers: impl IntoIterator<Item = i32>) -> bool {
        numbers
            .into_iter()
            .all(|number| before.rescoped(number, self.of(number)) == Rescoped::default())
    }

    /// Whether nothing may be seen of an entity, nor that it is there.
    pub(crate) fn forbids(&self, number: i32) -> bool {
        matches!(self.0.get(&number), Some(Limit::Forbidden))
    }

    /// Whether a change from these scopes can be told by rows: of each of the entities it is known what was seen, and
    /// none of them was withheld since.
    pub(crate) fn follows(&self, before: &Remembered, numbers: impl IntoIterator<Item = i32>) -> bool {
        numbers
            .into_iter()
            .all(|number| match (before.0.get(&number), self.0.get(&number)) {
                (Some(_), Some(Limit::Scopes(_))) | (None, None) => true,
                (Some(_) | None, Some(Limit::Forbidden)) | (Some(_), None) | (None, Some(_)) => false,
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
pub(crate) mod tests {
    use super::*;

    /// A caller who may see these scopes of these entities.
    pub(crate) fn limits(of: &[(i32, &[&str])]) -> Limits {
        let mut limits = Limits::default();
        for (number, scopes) in of {
            limits.limit(*number, scopes.iter().map(ToString::to_string).collect());
        }
        limits
    }

    #[test]
    fn what_a_cursor_remembers_tells_which_scopes_were_added_and_whether_some_were_lost() {
        let before = limits(&[(1, &["a", "b"]), (2, &[])]).remembered([1, 2, 3]);
        let rescoped = |scopes: &[&str]| {
            let now = limits(&[(1, scopes)]);
            let rescoped = before.rescoped(1, now.of(1));
            (rescoped.added, rescoped.lost)
        };
        assert_eq!(rescoped(&["a", "b"]), (vec![], false));
        assert_eq!(rescoped(&["b", "c", "a"]), (vec![2], false));
        assert_eq!(rescoped(&["0", "b", "c"]), (vec![0, 2], true));
        assert_eq!(rescoped(&[]), (vec![], true));
        // What is not limited has no scopes, before or after.
        assert_eq!(before.rescoped(3, None), Rescoped::default());
        assert_eq!(before.rescoped(1, None), Rescoped::default());
        assert_eq!(
            before.rescoped(3, limits(&[(3, &["a"])]).of(3)),
            Rescoped::default()
        );
        let many: Vec<String> = (1..REMEMBERED_MAX).map(|scope| scope.to_string()).collect();
        let mut many = limits(&[
            (1, &many.iter().map(String::as_str).collect::<Vec<_>>()),
            (2, &["a"]),
        ]);
        assert_ne!(many.remembered([1, 2]), Remembered::default());
        many.limit(3, vec!["a".to_owned()]);
        assert_eq!(many.remembered([1, 2, 3]), Remembered::default(), "one too many");
    }

    #[test]
    fn a_change_is_followed_where_each_entity_was_limited_and_is_not_withheld() {
        let before = limits(&[(1, &["a"]), (2, &["a"])]).remembered([1, 2, 3]);
        let follows = |now: &Limits| now.follows(&before, [1, 2, 3]);
        assert!(follows(&limits(&[(1, &["b"]), (2, &[])])));
        assert!(!follows(&limits(&[(1, &["b"])])), "one is limited no more");
        assert!(
            !follows(&limits(&[(1, &["b"]), (2, &[]), (3, &["a"])])),
            "one was not limited"
        );
        let mut withheld = limits(&[(1, &["b"]), (2, &["a"])]);
        withheld.forbid(3);
        assert!(withheld.forbids(3) && !withheld.forbids(2) && !withheld.forbids(7));
        assert!(!follows(&withheld));
        withheld.forbid(2);
        assert!(!follows(&withheld));
        assert!(
            !limits(&[(1, &["a"])]).follows(&Remembered::default(), [1]),
            "not remembered"
        );
        // Entities that come later add to what is remembered, and change none of it.
        let both = before
            .clone()
            .with(limits(&[(1, &["z"]), (4, &["c"])]).remembered([1, 4]));
        assert!(limits(&[(1, &["a"]), (2, &["a"]), (4, &["c"])]).is_as(&both, 1..5));
        assert!(!limits(&[(1, &["z"]), (2, &["a"]), (4, &["c"])]).is_as(&both, 1..5));
        assert!(limits(&[(1, &["z"]), (2, &["a"]), (4, &["c"])]).is_as(&both, 2..5));
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
