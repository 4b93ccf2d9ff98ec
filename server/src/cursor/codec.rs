//! The binary form of a cursor's parts.

use std::collections::BTreeMap;

use highwater_shared::Timestamp;
use uuid::Uuid;

use super::{After, Covered, Cursor, Lsn, Position, Pull, Seen, Source, Step};
use crate::scope::Remembered;
use crate::snapshot::{Era, Snapshot, XIDS_IN_FLIGHT_MAX, Xid};

/// The most entities, or key columns, that a cursor may name.
const LIST_LENGTH_MAX: u64 = 16 * 1024;

/// Appends the parts of a cursor.
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }

    pub(super) fn date(&mut self, date: Timestamp) {
        // Zigzag, so that dates before 1970 stay short.
        let micros = date.micros();
        self.number(((micros << 1) ^ (micros >> 63)).cast_unsigned());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn snapshot(&mut self, snapshot: &Snapshot) {
        self.number(snapshot.xmax().0);
        self.number(snapshot.in_flight().len() as u64);
        let mut last = snapshot.xmax();
        for xid in snapshot.in_flight().iter().rev() {
            self.number(last.0 - xid.0);
            last = *xid;
        }
    }

    pub(super) fn covered(&mut self, covered: &[Covered]) {
        self.number(covered.len() as u64);
        for entity in covered {
            self.number(u64::from(entity.number.cast_unsigned()));
            self.number(entity.incarnation);
        }
    }

    pub(super) fn scopes(&mut self, scopes: &Remembered) {
        self.number(scopes.0.len() as u64);
        for (number, hashes) in &scopes.0 {
            self.number(u64::from(number.cast_unsigned()));
            self.number(hashes.len() as u64);
            for hash in hashes {
                self.0.extend_from_slice(&hash.to_be_bytes());
            }
        }
    }

    pub(super) fn pull(&mut self, pull: &Pull) {
        self.snapshot(&pull.target);
        self.covered(&pull.pulled);
        self.number(u64::from(pull.position.entity.cast_unsigned()));
        self.0.push(match pull.position.step {
            Step::Anew => 0,
            Step::Tombstones => 1,
            Step::Flagged => 2,
            Step::Rows => 3,
            Step::Purged => 4,
        });
        self.number(u64::from(pull.position.scope));
        match &pull.position.after {
            None => self.0.push(0),
            Some(after) => {
                self.0.push(1);
                self.number(after.order);
                self.number(after.key.len() as u64);
                for part in &after.key {
                    self.text(part);
                }
            }
        }
    }
}

/// Takes the parts of a cursor off; `None` where what comes is no such part, or written otherwise than
/// by [`Writer`]: so that a cursor has one text, and two texts are two cursors.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // Zeros at the high end are left out.
                return (byte != 0 || shift == 0).then_some(value);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn length(&mut self) -> Option<usize> {
        let length = self.number()?;
        (length <= LIST_LENGTH_MAX).then_some(usize::try_from(length).ok()?)
    }

    fn date(&mut self) -> Option<Timestamp> {
        let zigzag = self.number()?;
        Timestamp::checked_from_micros((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let text = std::str::from_utf8(text).ok()?;
        // Postgres has no NUL in text, and a literal that holds one would be cut there.
        (!text.contains('\0')).then(|| text.to_owned())
    }

    fn uuid(&mut self) -> Option<Uuid> {
        let (bytes, rest) = self.0.split_first_chunk::<16>()?;
        self.0 = rest;
        Some(Uuid::from_bytes(*bytes))
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let xmax = self.number()?;
        let count = self.length()?;
        if count > XIDS_IN_FLIGHT_MAX {
            return None;
        }
        let mut in_flight = Vec::with_capacity(count);
        let mut last = xmax;
        for _ in 0..count {
            let difference = self.number()?;
            // Each id once, and all below xmax.
            last = last.checked_sub(difference).filter(|_| difference > 0)?;
            in_flight.push(Xid(last));
        }
        Some(Snapshot::new(Xid(xmax), in_flight))
    }

    fn covered(&mut self) -> Option<Vec<Covered>> {
        let count = self.length()?;
        (0..count)
            .map(|_| {
                Some(Covered {
                    number: self.small()?.cast_signed(),
                    incarnation: self.number()?,
                })
            })
            .collect()
    }

    fn scopes(&mut self) -> Option<Remembered> {
        let mut scopes = BTreeMap::new();
        let mut last = None;
        for _ in 0..self.length()? {
            let number = self.small()?.cast_signed();
            // Each entity once, in the order of their numbers.
            if last.is_some_and(|last| last >= number) {
                return None;
            }
            last = Some(number);
            let count = self.length()?;
            let hashes = (0..count).map(|_| {
                let (hash, rest) = self.0.split_first_chunk()?;
                self.0 = rest;
                Some(u64::from_be_bytes(*hash))
            });
            scopes.insert(number, hashes.collect::<Option<_>>()?);
        }
        Some(Remembered(scopes))
    }

    fn pull(&mut self) -> Option<Pull> {
        let target = self.snapshot()?;
        let pulled = self.covered()?;
        let entity = self.small()?.cast_signed();
        let step = match self.byte()? {
            0 => Step::Anew,
            1 => Step::Tombstones,
            2 => Step::Flagged,
            3 => Step::Rows,
            4 => Step::Purged,
            _ => return None,
        };
        let scope = self.small()?;
        let after = match self.byte()? {
            0 => None,
            1 => {
                let order = self.number()?;
                let count = self.length()?;
                let key = (0..count).map(|_| self.text()).collect::<Option<_>>()?;
                Some(After { order, key })
            }
            _ => return None,
        };
        Some(Pull {
            target,
            pulled,
            position: Position {
                entity,
                step,
                scope,
                after,
            },
        })
    }

    pub(super) fn cursor(&mut self) -> Option<Cursor> {
        let mut source = Source {
            system_identifier: self.number()?,
            database_oid: self.small()?,
            own_id: self.uuid()?,
            timeline: self.small()?,
            era: Era::default(),
        };
        let scope = self.number()?;
        let wal = Lsn(self.number()?);
        let seen = match self.byte()? {
            0 => Seen::Snapshot(self.snapshot()?),
            1 => Seen::Date(self.date()?),
            _ => return None,
        };
        let covered = self.covered()?;
        let last_sync_date = self.date()?;
        let newest = self.date()?;
        let follow = self.byte().filter(|follow| *follow < 8)?;
        if follow & 4 != 0 {
            let era = self.small()?.try_into().ok().map(Era);
            source.era = era.filter(|era| *era != Era::default())?;
        }
        let scopes = match follow & 2 {
            0 => Remembered::default(),
            _ => self.scopes().filter(|scopes| !scopes.0.is_empty())?,
        };
        let pull = match follow & 1 {
            0 => None,
            _ => Some(self.pull()?),
        };
        Some(Cursor {
            source,
            scope,
            scopes,
            wal,
            seen,
            covered,
            last_sync_date,
            newest,
            pull,
        })
    }
}
