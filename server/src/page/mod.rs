//! One page: what a caller has not seen, read in one transaction, in the order of the protocol.
//!
//! `open` begins the transaction, asks what has changed (`probe`) and decides what is to be sent
//! (`plan`); `send` lets the rows pass from Postgres to the response without decoding them (`rows`,
//! by statements from `sql`, through `output`). `digests` begins as a page does, and sends what a store
//! can be compared with; `single` tells of one row what the pages to come send.

mod conditions;
#[cfg(test)]
mod cost;
mod delta;
mod digests;
mod digests_sql;
mod open;
mod output;
mod plan;
mod probe;
mod rows;
mod send;
mod single;
#[cfg(test)]
mod slow;
mod sql;

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_shared::timestamp::TimestampError;
use highwater_shared::{EntityName, ResyncReason, Timestamp};

use crate::caller::Caller;
use crate::cursor::{Covered, Cursor, CursorError};
use crate::database::sqlstate;
use crate::entity::{Fault, PurgedAs};
use crate::limit::{Limit, PageBounds};
use crate::scope::RescopedAs;

pub(crate) use conditions::{RowKey, in_scopes, purged_of, tombstones_of};
pub use digests::{DigestsAsked, OpenDigests, open_digests};
pub(crate) use open::look;
pub use open::{OpenPage, Opened, open};
pub use output::{Output, Piece, Pieces, WholePage, tag};
pub(crate) use plan::{Evidence, MOVED, Sight, Standing, check};
pub(crate) use probe::Probe;
pub(crate) use single::{Round, Single, open_single};

/// Rows in a page where the caller names no limit.
pub const PAGE_ROWS: u64 = 50_000;

/// What the caller has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Nothing: every entity begins anew.
    Nothing,
    /// All that changed up to a date.
    Date(Timestamp),
    /// What its cursor says.
    Cursor(Box<Cursor>),
}

/// The text says nothing of what a caller has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinceError {
    /// It has a colon, and is no date.
    #[error("{0}")]
    Date(#[from] TimestampError),
    /// It has none, and is no cursor.
    #[error("{0}; {remedy}", remedy = cursor_remedy(*.0))]
    Cursor(#[from] CursorError),
}

fn cursor_remedy(error: CursorError) -> &'static str {
    match error {
        CursorError::Damaged => {
            "send the `next` of a response as it came, or an RFC 3339 date such as 2026-11-22T10:00:00Z"
        }
        CursorError::Newer => "ask again without since",
    }
}

impl Since {
    /// Reads a date or a cursor.
    pub fn read(text: &str) -> Result<Self, SinceError> {
        // Every date has a colon, and no cursor does.
        if text.contains(':') {
            let date: Timestamp = text.parse()?;
            // Nothing is older than that; and 0000 is a year to RFC 3339, and none to Postgres.
            return Ok(if date <= Timestamp::EPOCH {
                Self::Nothing
            } else {
                Self::Date(date)
            });
        }
        Ok(Self::Cursor(Box::new(Cursor::decode(text)?)))
    }

    /// Whether this goes on in the middle of a pull, towards a snapshot that an earlier page took.
    pub fn is_midway(&self) -> bool {
        matches!(self, Self::Cursor(cursor) if cursor.pull.is_some())
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// What the caller has.
    pub since: Since,
    /// Later cursors that some of its rows go by. Whoever lacks what they have seen cannot answer.
    pub held: Vec<Cursor>,
    /// What it takes in place of rows anew.
    pub takes: Takes,
    /// The entities wanted.
    pub entities: Asked,
    /// Who asks, and so which rows of them may be seen.
    pub caller: Caller,
    /// The most rows wanted.
    pub limit: u64,
    /// What bounds the page besides.
    pub bounds: PageBounds,
    /// The form wanted.
    pub format: Format,
}

/// What a caller takes in place of all rows anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Takes {
    /// How it is told of deletions that were purged.
    pub purged: PurgedAs,
    /// How it is told that it may see other rows than before.
    pub rescoped: RescopedAs,
}

/// Which entities are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// All that there are.
    All,
    /// These; each must be there.
    These(Vec<EntityName>),
    /// Those of these that are there.
    AmongThese(Arc<BTreeSet<EntityName>>),
}

impl Asked {
    /// Whether an entity of this name is asked for.
    pub fn holds(&self, name: &EntityName) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
            Self::AmongThese(names) => names.contains(name),
        }
    }

    /// The entities that must be there.
    pub fn needed(&self) -> &[EntityName] {
        match self {
            Self::These(names) => names,
            Self::All | Self::AmongThese(_) => &[],
        }
    }
}

/// The two forms of a page. They mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Blocks of `COPY` text.
    Copy,
    /// JSON.
    Json,
}

/// Why a page cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// 404: no entity has this name.
    #[error("there is no entity {:?}; GET /entities lists them", .0.as_str())]
    UnknownEntity(EntityName),
    /// 410: the cursor cannot be served.
    #[error("{}; ask again without since", resync_detail(*.reason))]
    Resync {
        /// Why not.
        reason: ResyncReason,
        /// Whether an earlier one may be: it is known where this one's history ended.
        earlier: bool,
    },
    /// 400: the cursor's position is none in this table.
    #[error("since: the cursor's position does not fit the table; ask again without since")]
    BadPosition,
    /// 400: what was named as keys of this entity are none.
    #[error("keys: some are none of {:?}; send lines of blocks, with the columns of its key and no others", .0.as_str())]
    NoKeys(EntityName),
    /// 503: not now.
    #[error("{0}")]
    Unavailable(String),
    /// 503: the entity cannot be served until somebody mends it.
    #[error("{fault}")]
    Fault {
        /// The entity, as it was described.
        covered: Covered,
        /// What is wrong with it.
        fault: Fault,
    },
    /// 503: not now, since the server has as much to do as it may.
    #[error("{}", .0.told())]
    Limit(Limit),
    /// 503 or 500: Postgres refused or went away.
    #[error("Postgres could not answer")]
    Postgres(#[from] sqlx::Error),
    /// The caller no longer reads, or reads too slowly.
    #[error("the caller stopped reading")]
    Abandoned,
}

impl ReadError {
    /// The limit that was reached, where it was one.
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Self::Limit(limit) => Some(*limit),
            Self::Postgres(error) => limit_of(error),
            _ => None,
        }
    }
}

/// The limit on which Postgres ended a statement or a transaction.
pub(crate) fn limit_of(error: &sqlx::Error) -> Option<Limit> {
    match sqlstate(error).as_deref() {
        // A statement that was cancelled: by its time, or by an administrator, which the code does not tell.
        Some("57014") => Some(Limit::StatementTimeMax),
        Some("25P03") => Some(Limit::TransactionIdleTimeMax),
        _ => None,
    }
}

fn resync_detail(reason: ResyncReason) -> &'static str {
    match reason {
        ResyncReason::SourceChanged => "the cursor comes from another source than this database",
        ResyncReason::ScopeChanged => "the cursor was made for another scope",
    }
}
