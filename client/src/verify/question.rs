//! A question to both sides about rows of an entity: what this side answers, how the answers compare,
//! and what is to be asked next.

use std::collections::HashMap;

use highwater_shared::digests::{BITS_MAX, part};
use highwater_shared::{DigestsOf, EntityName, Want, Within};

use super::answer::pull_first;
use super::found::RowKey;
use super::parts::{Differing, Parts, fitting};
use super::received::Received;
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::Event;
use crate::store::{Compared, RowHashes, View};

/// Rows, of both sides together, whose keys are asked for at once.
const KEYS_MAX: u64 = 200_000;

/// Parts that are named at once; twenty bytes each at most.
const PARTS_NAMED_MAX: usize = 50_000;

/// A part with too many rows to ask for their keys is split into so many, as bits.
const SPLIT_BITS: u32 = 8;

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
    /// Asks for the digests of parts.
    pub(super) fn parts(entity: &EntityName, compared: Compared, bits: u32, within: Option<Within>) -> Self {
        Self {
            of: DigestsOf {
                entity: entity.clone(),
                want: Want::Parts,
                bits,
                within,
                keys: None,
            },
            keys_max: 0,
            extra: Vec::new(),
            compared,
        }
    }

    /// Asks for the keys of the rows in these parts; there are so many at most.
    pub(super) fn keys(entity: &EntityName, compared: Compared, within: Within, keys_max: u64) -> Self {
        Self {
            of: DigestsOf {
                entity: entity.clone(),
                want: Want::Keys,
                bits: 0,
                within: Some(within),
                keys: None,
            },
            keys_max,
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
        let bits = self.of.bits;
        let (large, small): (Vec<Differing>, Vec<Differing>) =
            differing.iter().partition(|part| is_split(**part, bits));
        let within = |parts: &[Differing]| Within {
            bits,
            parts: parts.iter().map(|part| part.part).collect(),
        };
        let split = large.chunks(1).map(|part| {
            Self::parts(
                &self.of.entity,
                self.compared.clone(),
                bits + SPLIT_BITS,
                Some(within(part)),
            )
        });
        let mut next: Vec<Self> = split.collect();
        let mut rest = small.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(fitting(rest, KEYS_MAX, PARTS_NAMED_MAX));
            rest = later;
            let keys_max = now.iter().map(|part| part.rows).sum();
            let (entity, compared) = (&self.of.entity, self.compared.clone());
            next.push(Self::keys(entity, compared, within(now), keys_max));
        }
        next
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

/// Whether a part has too many rows to ask for their keys, and can be split.
fn is_split(part: Differing, bits: u32) -> bool {
    part.rows > KEYS_MAX && bits + SPLIT_BITS <= BITS_MAX
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

    #[test]
    fn a_part_is_split_until_its_keys_can_be_asked_for() {
        let part = |rows| Differing { part: 0, rows };
        assert!(is_split(part(KEYS_MAX + 1), 0));
        assert!(!is_split(part(KEYS_MAX), 0));
        // All hashes alike, which no split tells apart.
        assert!(!is_split(part(KEYS_MAX + 1), BITS_MAX));
    }
}
