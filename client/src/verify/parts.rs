//! Parts of an entity, their digests, and which of them differ. Pure.

use std::collections::{BTreeMap, HashMap};

use highwater_shared::digests::{PARTS_BITS_MAX, part};

/// The most parts that are asked for at once.
const PARTS_MAX: usize = 1 << PARTS_BITS_MAX;

/// What the rows of a part come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) rows: u64,
    /// The digests of the rows, by exclusive or: what was put in can be taken out.
    pub(super) sum: u64,
}

/// Digests by part.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    bits: u32,
    digests: HashMap<u64, Digest>,
}

/// A part that differs, and how many rows it has on both sides together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Differing {
    pub(super) part: u64,
    pub(super) rows: u64,
}

impl Parts {
    /// None yet; `bits` of the hash of a key name its part.
    pub(super) fn new(bits: u32) -> Self {
        Self {
            bits,
            digests: HashMap::new(),
        }
    }

    /// Sets what a part comes to. False where there would be more of them than are ever asked for.
    pub(super) fn set(&mut self, part: u64, digest: Digest) -> bool {
        self.digests.insert(part, digest);
        self.digests.len() <= PARTS_MAX
    }

    /// Puts a row in.
    pub(super) fn add(&mut self, key: u64, digest: u64) {
        let sum = self.digests.entry(part(key, self.bits)).or_default();
        sum.rows += 1;
        sum.sum ^= digest;
    }

    /// Takes a row out that was put in.
    pub(super) fn take(&mut self, key: u64, digest: u64) {
        let sum = self.digests.entry(part(key, self.bits)).or_default();
        sum.rows = sum.rows.saturating_sub(1);
        sum.sum ^= digest;
    }

    /// How many parts have rows.
    pub(super) fn len(&self) -> u64 {
        self.digests.values().filter(|digest| digest.rows > 0).count() as u64
    }

    /// The parts that are not the same in both, in their order.
    pub(super) fn differing(&self, other: &Self) -> Vec<Differing> {
        let mut differing = BTreeMap::new();
        for part in self.digests.keys().chain(other.digests.keys()) {
            let digest = |parts: &Self| parts.digests.get(part).copied().unwrap_or_default();
            let (here, there) = (digest(self), digest(other));
            if here != there {
                differing.insert(*part, here.rows.saturating_add(there.rows));
            }
        }
        let differing = differing.into_iter();
        differing.map(|(part, rows)| Differing { part, rows }).collect()
    }
}

/// How many rows these parts have. Each may have as many as a hostile server says.
pub(super) fn rows_of(parts: &[Differing]) -> u64 {
    parts.iter().fold(0, |rows, part| rows.saturating_add(part.rows))
}

/// How many of these parts, from the first on, have at most so many rows together; one at least.
pub(super) fn fitting(parts: &[Differing], rows_max: u64, parts_max: usize) -> usize {
    let mut rows: u64 = 0;
    let fitting = parts.iter().take(parts_max).take_while(|part| {
        rows = rows.saturating_add(part.rows);
        rows <= rows_max
    });
    fitting.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_server_makes_up_is_bounded() {
        let mut parts = Parts::default();
        let of = |rows| Digest { rows, sum: 0 };
        for part in 0..PARTS_MAX as u64 {
            assert!(parts.set(part, of(u64::MAX)));
        }
        assert!(parts.set(0, of(7)), "one that is there already");
        assert!(!parts.set(PARTS_MAX as u64, of(1)));
        let differing = parts.differing(&Parts::default());
        assert_eq!(rows_of(&differing), u64::MAX);
        assert_eq!(differing[1].rows, u64::MAX);
    }

    fn parts(rows: &[(u64, u64)]) -> Parts {
        let mut parts = Parts::new(2);
        for (key, digest) in rows {
            parts.add(*key, *digest);
        }
        parts
    }

    #[test]
    fn a_part_differs_by_rows_or_by_digest() {
        let here = parts(&[(0, 7), (4, 9), (1, 3), (2, 5)]);
        let there = parts(&[(0, 7), (4, 9), (1, 4), (2, 5), (6, 0)]);
        let found: Vec<(u64, u64)> = here.differing(&there).iter().map(|d| (d.part, d.rows)).collect();
        assert_eq!(found, [(1, 2), (2, 3)]);
        assert_eq!(here.len(), 3);
        let mut told = Parts::new(2);
        told.set(1, Digest { rows: 1, sum: 3 });
        assert_eq!(told.differing(&parts(&[(1, 3)])), []);
        assert_eq!(told.differing(&Parts::new(2)), [Differing { part: 1, rows: 1 }]);
        told.take(1, 3);
        assert_eq!(told.len(), 0, "nothing is left in it");
    }

    #[test]
    fn no_more_rows_are_asked_for_than_may_be() {
        let part = |rows| Differing { part: 0, rows };
        assert_eq!(fitting(&[part(3), part(3), part(3)], 6, 9), 2);
        assert_eq!(fitting(&[part(3), part(3), part(3)], 60, 2), 2);
        assert_eq!(fitting(&[part(9)], 6, 9), 1);
    }

    proptest! {
        #[test]
        fn what_is_put_in_and_taken_out_was_never_there(
            kept in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..20),
            gone in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..20),
        ) {
            let expected = parts(&kept);
            let mut found = parts(&kept);
            for (key, digest) in &gone {
                found.add(*key, *digest);
            }
            for (key, digest) in &gone {
                found.take(*key, *digest);
            }
            prop_assert_eq!(found.differing(&expected), []);
        }
    }
}
