//! A question to both sides about rows of an entity: what this side answers, how the answers compare,
//! and what is to be asked next.

use std::collections::HashMap;

use highwater_shared::digests::{BITS_MAX, PARTS_BITS_MAX, part};
use highwater_shared::{DigestsOf, EntityName, Want, Within};

use super::answer::pull_first;
use super::found::RowKey;
use super::parts::{Differing, Parts, fitting, rows_of};
use super::received::Received;
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::Event;
use crate::store::{Compared, RowHashes, View};

/// Rows, of both sides together, whose keys are asked for at once.
const KEYS_MAX: u64 = 200_000;

/// Parts that are named at once; twenty bytes each at most.
const PARTS_NAMED_MAX: usize = 50_000;

/// Parts with no more rows, of both sides together, are not split: there is little in them besides what differs.
const PART_ROWS_MIN: u64 = 64;

/// A part is split into no fewer, as bits, since each time both sides scan their tables.
const SPLIT_BITS_MIN: u32 = 2;

/// Rows after which the observer is told how far it is.
const ROWS_TOLD: u64 = 4096;

/// A question.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) of: DigestsOf,
    /// The most keys that can be an answer.
    pub(super) keys_max: u64,
    /// Keys that this side looks up besides those that are named.
    extra: Vec<Vec<u8>>,
    compared: Compared,
}

/// What this side has to say to it.
#[derive(Debug)]
pub(super) struct Here {
    rows: u64,
    parts: Parts,
    keys: HashMap<Vec<u8>, u64>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) question: Question,
    /// Rows of the store, their parts, and keys that were left out.
    pub(super) totals: (u64, u64, u64),
    /// The parts that differ, where these were asked for.
    pub(super) differing: Vec<Differing>,
    /// The keys that differ, where these were.
    pub(super) keys: Keys,
}

/// Keys of rows that differ.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) missing: Vec<RowKey>,
    pub(super) extra: Vec<RowKey>,
    pub(super) stale: Vec<RowKey>,
}

impl Question {
    /// Asks for the digests of all parts, which so many bits name.
    pub(super) fn parts(entity: &EntityName, compared: Compared, bits: u32) -> Self {
        Self {
            of: DigestsOf {
                entity: entity.clone(),
                want: Want::Parts,
                bits,
                within: None,
                keys: None,
            },
            keys_max: 0,
            extra: Vec::new(),
            compared,
        }
    }

    /// Asks about the rows that have these keys, which both sides look up. Those that are `extra` are looked up
    /// here alone: the source does not have them, and might not know their keys for keys.
    pub(super) fn rows(
        entity: &EntityName,
        compared: Compared,
        keys: Vec<String>,
        extra: Vec<Vec<u8>>,
    ) -> Self {
        Self {
            keys_max: keys.len() as u64,
            extra,
            of: DigestsOf {
                entity: entity.clone(),
                want: Want::Keys,
                bits: 0,
                within: None,
                keys: Some(keys),
            },
            compared,
        }
    }

    /// This side's answer: by one scan of the table, but where keys are named.
    pub(super) fn look(
        &self,
        view: &View,
        meter: &Meter,
        observer: &(dyn Fn(Event<'_>) + Send + Sync),
    ) -> Result<Here, Error> {
        let mut here = Here {
            rows: 0,
            parts: Parts::new(self.of.bits),
            keys: HashMap::new(),
        };
        let mut seen: u64 = 0;
        let is_wanted = |key| {
            seen += 1;
            meter.row();
            if seen.is_multiple_of(ROWS_TOLD) {
                observer(Event::Progress(meter.read()));
            }
            self.is_within(key)
        };
        let each = |row: RowHashes, key_line: &dyn Fn() -> Vec<u8>| {
            here.rows += 1;
            match self.of.want {
                Want::Keys => drop(here.keys.insert(key_line(), row.digest)),
                _ => here.parts.add(row.key, row.digest),
            }
        };
        match &self.of.keys {
            None => view.rows(&self.of.entity, &self.compared, is_wanted, each)?,
            Some(keys) => {
                let keys = keys.iter().map(|key| key.as_bytes().to_vec());
                let keys = keys.chain(self.extra.iter().cloned()).map(Ok);
                view.rows_of(&self.of.entity, &self.compared, keys, each)?;
            }
        }
        Ok(here)
    }

    /// What to ask about the parts that differ.
    pub(super) fn next(&self, differing: &[Differing]) -> Vec<Self> {
        let question = |(of, keys_max)| Self {
            of,
            keys_max,
            extra: Vec::new(),
            compared: self.compared.clone(),
        };
        next(&self.of, differing).into_iter().map(question).collect()
    }

    fn is_within(&self, key: u64) -> bool {
        self.of.within.as_ref().is_none_or(|within| {
            // They were taken from an ordered list.
            within.parts.binary_search(&part(key, within.bits)).is_ok()
        })
    }

    /// Holds this side's answer against the source's.
    fn answered(self, view: &View, mut here: Here, there: &mut Received) -> Result<Answered, Error> {
        let entity = &self.of.entity;
        let mut source = there.of(entity);
        let fingerprint = source.fingerprint.as_deref();
        if source.begins_anew {
            return Err(pull_first(format!("{entity} is to begin anew")));
        }
        if !fingerprint.is_none_or(|fingerprint| self.compared.has_fingerprint(fingerprint)) {
            return Err(pull_first(format!("the columns of {entity} have changed")));
        }
        let mut left_out = 0;
        there.with_left_out(entity, |keys| {
            let keys = keys.inspect(|key| {
                left_out += 1;
                if let Ok(key) = key {
                    here.keys.remove(key);
                    source.keys.remove(key);
                }
            });
            let is_parts = self.of.want == Want::Parts;
            view.rows_of(entity, &self.compared, keys, |row, _| {
                if is_parts && self.is_within(row.key) {
                    here.rows = here.rows.saturating_sub(1);
                    here.parts.take(row.key, row.digest);
                }
            })
        })?;
        let differing = here.parts.differing(&source.parts);
        let keys = self.differing(&here.keys, &source.keys)?;
        Ok(Answered {
            totals: (here.rows, here.parts.len(), left_out),
            differing,
            keys,
            question: self,
        })
    }

    fn differing(&self, here: &HashMap<Vec<u8>, u64>, there: &HashMap<Vec<u8>, u64>) -> Result<Keys, Error> {
        let read = |line: &[u8]| RowKey::read(line.to_vec(), self.compared.key());
        let mut keys = Keys::default();
        for (line, digest) in there {
            match here.get(line) {
                None => keys.missing.push(read(line)?),
                Some(other) if other != digest => keys.stale.push(read(line)?),
                Some(_) => {}
            }
        }
        for line in here.keys().filter(|line| !there.contains_key(*line)) {
            keys.extra.push(read(line)?);
        }
        Ok(keys)
    }
}

/// What to ask about the parts that differ, with how many keys can be an answer: for smaller ones where they have
/// too many rows to ask for their keys at once, and for these otherwise.
fn next(of: &DigestsOf, differing: &[Differing]) -> Vec<(DigestsOf, u64)> {
    let ask = |want, bits, parts: &[Differing]| DigestsOf {
        entity: of.entity.clone(),
        want,
        bits,
        within: Some(Within {
            bits: of.bits,
            parts: parts.iter().map(|part| part.part).collect(),
        }),
        keys: None,
    };
    if let Some(more) = split_bits(differing, of.bits) {
        return vec![(ask(Want::Parts, of.bits + more, differing), 0)];
    }
    let mut asked = Vec::new();
    let mut rest = differing;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest, KEYS_MAX, PARTS_NAMED_MAX));
        rest = later;
        let keys_max = rows_of(now);
        asked.push((ask(Want::Keys, 0, now), keys_max));
    }
    asked
}

/// Into how many each of these parts is split, as bits; `None` where their keys are asked for instead.
fn split_bits(parts: &[Differing], bits: u32) -> Option<u32> {
    let rows = rows_of(parts);
    let count = parts.len() as u64;
    if rows <= KEYS_MAX || rows <= count.saturating_mul(PART_ROWS_MIN) {
        return None;
    }
    // So many parts at once are the most that a server tells the digests of.
    let at_once = PARTS_BITS_MAX.checked_sub(count.next_power_of_two().ilog2())?;
    let more = at_once.min(BITS_MAX.saturating_sub(bits));
    (more >= SPLIT_BITS_MIN).then_some(more)
}

/// Holds the answers to questions against each other.
pub(super) fn answers(
    view: &View,
    asked: Vec<Question>,
    here: Vec<Here>,
    mut there: Received,
) -> Result<Vec<Answered>, Error> {
    let pairs = asked.into_iter().zip(here);
    pairs
        .map(|(question, here)| question.answered(view, here, &mut there))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many parts that differ, with so many rows each.
    fn differing(parts: u64, rows: u64) -> Vec<Differing> {
        (0..parts).map(|part| Differing { part, rows }).collect()
    }

    #[test]
    fn parts_are_split_together_until_their_keys_can_be_asked_for() {
        assert_eq!(split_bits(&differing(1, KEYS_MAX), 12), None);
        assert_eq!(split_bits(&differing(1, KEYS_MAX + 1), 12), Some(16));
        assert_eq!(split_bits(&differing(1_000, 1_000), 12), Some(6));
        assert_eq!(split_bits(&differing(1_024, 1_000), 12), Some(6));
        assert_eq!(split_bits(&differing(1_025, 1_000), 12), Some(5));
        assert_eq!(split_bits(&differing(16_384, 65), 14), Some(2));
    }

    #[test]
    fn parts_are_not_split_where_that_tells_little() {
        // Nearly all rows differ.
        assert_eq!(split_bits(&differing(10_000, PART_ROWS_MIN), 14), None);
        assert_eq!(split_bits(&differing(16_385, 65), 15), None);
        assert_eq!(split_bits(&differing(65_537, 65), 17), None);
        // All hashes alike, which no split tells apart.
        assert_eq!(split_bits(&differing(1, KEYS_MAX + 1), BITS_MAX), None);
    }

    #[test]
    fn each_part_that_differs_is_asked_about_once() {
        let of = DigestsOf {
            entity: EntityName::new("product"),
            want: Want::Parts,
            bits: 12,
            within: None,
            keys: None,
        };
        let [(smaller, 0)] = &next(&of, &differing(1_000, 1_000))[..] else {
            panic!("one question splits them all");
        };
        let within = smaller.within.as_ref().expect("only those that differ");
        assert_eq!((smaller.want, smaller.bits), (Want::Parts, 18));
        assert_eq!((within.bits, within.parts.len()), (12, 1_000));

        let asked = next(&of, &differing(10_000, 60));
        assert!(
            asked
                .iter()
                .all(|(of, keys_max)| of.want == Want::Keys && *keys_max <= KEYS_MAX)
        );
        let parts = asked.into_iter().filter_map(|(of, _)| Some(of.within?.parts));
        assert!(parts.flatten().eq(0..10_000));
        assert!(next(&of, &[]).is_empty());
    }
}
