//! The cursor: the opaque token that a client sends back as `since`.
//!
//! It says which source it belongs to, what its holder has seen of which entities, and in the
//! middle of a pull how far that pull has come. It is URL-safe text over a compact binary form:
//! numbers as LEB128, ids in flight as differences, a CRC-32 at the end so that a cursor that was
//! cut or mangled on its way is told from one that means something else.

mod codec;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use highwater_shared::Timestamp;
use uuid::Uuid;

use crate::scope::Remembered;
use crate::snapshot::{Era, Snapshot};
use codec::{Reader, Writer};

/// Version of the binary form.
const VERSION: u8 = 1;

/// The longest cursor that is looked at, in characters: an address has up to 64 KiB, and more stands in
/// it than a cursor.
pub const CURSOR_CHARS_MAX: usize = 60 * 1024;

/// A position in the write-ahead log, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// The identity of a Postgres database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The cluster's identifier, from `initdb`.
    pub system_identifier: u64,
    /// The database within the cluster.
    pub database_oid: u32,
    /// The id that Highwater gave it; it stays when the database is restored elsewhere.
    pub own_id: Uuid,
    /// How often the cluster's history has branched, by restore or promotion.
    pub timeline: u32,
    /// How often the database was rebased.
    pub era: Era,
}

/// An entity together with the state of it that a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The entity's number.
    pub number: i32,
    /// Its incarnation, see [`crate::entity`].
    pub incarnation: u64,
}

/// What the holder had before the pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All that this snapshot has seen, of the entities that are covered.
    Snapshot(Snapshot),
    /// All that changed up to this date, of every entity.
    Date(Timestamp),
}

/// What a client holds, and how far its pull has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The database that it was made by.
    pub source: Source,
    /// A hash of the scopes that it was made for, see [`crate::scope::Limits::hash`].
    pub scope: u64,
    /// The scopes that `seen` holds for.
    pub scopes: Remembered,
    /// The last byte of the log that it may stand on: who has the log beyond it has all that was
    /// seen.
    pub wal: Lsn,
    /// What the holder had before the pull.
    pub seen: Seen,
    /// The entities that `seen` holds for.
    pub covered: Vec<Covered>,
    /// The date that is safe to go on from.
    pub last_sync_date: Timestamp,
    /// The newest `changed_date` sent so far; `last_sync_date` follows it when that is safe.
    pub newest: Timestamp,
    /// Set in the middle of a pull.
    pub pull: Option<Pull>,
}

/// A pull under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// The snapshot that the pull leads to.
    pub target: Snapshot,
    /// The entities that its end will cover.
    pub pulled: Vec<Covered>,
    /// Where the next page begins.
    pub position: Position,
}

/// A place in the order of a pull. Ordered by entity, then [`Step`], then what has been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The entity's number.
    pub entity: i32,
    /// The step within the entity.
    pub step: Step,
    /// The scope within the step, by its place among those that the caller may see.
    pub scope: u32,
    /// The last row sent in the step; none at its start.
    pub after: Option<After>,
}

/// The steps of an entity's part of a pull, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// All live rows, of an entity that begins anew; its `reset` has been sent.
    Anew,
    /// Keys from tombstones.
    Tombstones,
    /// Keys of rows whose deleted flag is set.
    Flagged,
    /// Live rows.
    Rows,
    /// Keys of deletions that were purged. Last: whatever a purge has taken away while the steps before were under
    /// way is there by now.
    Purged,
}

impl Step {
    /// Whether it sends keys that are kept apart from the table.
    pub(crate) fn is_buried(self) -> bool {
        matches!(self, Self::Tombstones | Self::Purged)
    }
}

/// The row after which a step goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// Its `changed_xid`, or its `changed_date` in microseconds where `seen` is a date; 0 in
    /// [`Step::Anew`], whose order is the key's alone.
    pub order: u64,
    /// Its key, as text.
    pub key: Vec<String>,
}

/// The text is no cursor of this server's making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not the form of a cursor, or damaged on its way.
    #[error("it is not a cursor, or was cut or changed on its way")]
    Damaged,
    /// Made by a later version of the server.
    #[error("it was made by a newer server")]
    Newer,
}

impl Cursor {
    /// The text of the cursor.
    pub fn encode(&self) -> String {
        let mut out = Writer(vec![VERSION]);
        out.number(self.source.system_identifier);
        out.number(u64::from(self.source.database_oid));
        out.0.extend_from_slice(self.source.own_id.as_bytes());
        out.number(u64::from(self.source.timeline));
        out.number(self.scope);
        out.number(self.wal.0);
        match &self.seen {
            Seen::Snapshot(snapshot) => {
                out.0.push(0);
                out.snapshot(snapshot);
            }
            Seen::Date(date) => {
                out.0.push(1);
                out.date(*date);
            }
        }
        out.covered(&self.covered);
        out.date(self.last_sync_date);
        out.date(self.newest);
        let has_scopes = !self.scopes.0.is_empty();
        let has_era = self.source.era != Era::default();
        out.0
            .push(u8::from(self.pull.is_some()) | u8::from(has_scopes) << 1 | u8::from(has_era) << 2);
        if has_era {
            out.number(u64::from(self.source.era.0));
        }
        if has_scopes {
            out.scopes(&self.scopes);
        }
        if let Some(pull) = &self.pull {
            out.pull(pull);
        }
        let check = crc32fast::hash(&out.0);
        out.0.extend_from_slice(&check.to_be_bytes());
        URL_SAFE_NO_PAD.encode(out.0)
    }

    /// The snapshots of what its holder has seen, and of what it has been promised.
    pub fn snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        let seen = match &self.seen {
            Seen::Snapshot(seen) => Some(seen),
            Seen::Date(_) => None,
        };
        seen.into_iter()
            .chain(self.pull.as_ref().map(|pull| &pull.target))
    }

    /// Whether its holder has just what `seen` says: no pull is under way, or nothing of it has been sent.
    pub fn is_settled(&self) -> bool {
        self.pull
            .as_ref()
            .is_none_or(|pull| pull.position == self.start())
    }

    /// The same for a holder that has been told something of what `snapshot` of `source` has seen, and must hear no
    /// less from whoever answers next: a pull to there, of which nothing has been sent.
    #[must_use]
    pub fn leading_to(&self, source: Source, snapshot: &Snapshot, wal: Lsn) -> Self {
        let target = match &self.pull {
            Some(pull) => pull.target.union(snapshot),
            None => snapshot.clone(),
        };
        Self {
            // What has served a cursor of an earlier timeline has a log of its own from there on.
            source,
            wal: self.wal.max(wal),
            pull: Some(Pull {
                target,
                pulled: self.covered.clone(),
                position: self.start(),
            }),
            ..self.clone()
        }
    }

    /// Whether what it says to have been seen is a snapshot, and not a date.
    pub(crate) fn is_of_a_snapshot(&self) -> bool {
        matches!(self.seen, Seen::Snapshot(_))
    }

    /// Whether it tells in which scopes its holder has seen something: the caller was not limited, or not to too many.
    pub(crate) fn remembers_scopes(&self) -> bool {
        self.scope == 0 || !self.scopes.0.is_empty()
    }

    /// Where a pull of all that is covered begins.
    fn start(&self) -> Position {
        let numbers = self.covered.iter().map(|covered| covered.number);
        Position {
            entity: numbers.min().unwrap_or_default(),
            step: Step::Tombstones,
            scope: 0,
            after: None,
        }
    }

    /// The numbers of the entities that it has to do with.
    pub fn entities(&self) -> impl Iterator<Item = i32> {
        let pulled = self.pull.iter().flat_map(|pull| &pull.pulled);
        self.covered.iter().chain(pulled).map(|covered| covered.number)
    }

    /// Reads the text of a cursor.
    pub fn decode(text: &str) -> Result<Self, CursorError> {
        if text.len() > CURSOR_CHARS_MAX {
            return Err(CursorError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Damaged)?;
        let (body, check) = bytes.split_last_chunk::<4>().ok_or(CursorError::Damaged)?;
        if crc32fast::hash(body) != u32::from_be_bytes(*check) {
            return Err(CursorError::Damaged);
        }
        let mut input = Reader(body);
        match input.byte().map(|version| version.cmp(&VERSION)) {
            Some(Ordering::Equal) => {}
            Some(Ordering::Greater) => return Err(CursorError::Newer),
            Some(Ordering::Less) | None => return Err(CursorError::Damaged),
        }
        let cursor = input.cursor().ok_or(CursorError::Damaged)?;
        if input.0.is_empty() {
            Ok(cursor)
        } else {
            Err(CursorError::Damaged)
        }
    }
}
