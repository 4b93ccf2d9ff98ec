//! The SyncHelper: what a store remembers of each entity, and nothing of its rows. It is made
//! when it is missing, and never synchronised itself.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use highwater_shared::{EntityName, Timestamp};
use serde::{Deserialize, Serialize};

/// The opaque token that the server hands out, and that is sent back as `since`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The own id of the database that a store is a copy of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(String);

impl SourceId {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How an entity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// At one consistent cut: a pull has ended.
    Current,
    /// In the middle of a pull that writes into the table.
    Pulling,
    /// In the middle of a pull that begins the entity anew; readers still see the old rows.
    Renewing,
    /// To begin anew, and the server has not reached it yet.
    Waiting,
    /// The server no longer has it for this caller; its rows stay as they were.
    Withdrawn,
}

impl State {
    /// The word that the store and `status` write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Pulling => "pulling",
            Self::Renewing => "renewing",
            Self::Waiting => "waiting",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [
            Self::Current,
            Self::Pulling,
            Self::Renewing,
            Self::Waiting,
            Self::Withdrawn,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| format!("{text:?} is not a state of an entity"))
    }
}

/// Numbers the pages that a store has applied, so that the older of two cursors is known.
pub(crate) type Sequence = i64;

/// What a store remembers of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncHelper {
    /// The entity, and the name of its table.
    pub entity: EntityName,
    /// The date up to which nothing is missing; 1970-01-01 at first.
    pub last_sync_date: Timestamp,
    /// What the next pull sends as `since`; `None` where the entity must begin anew.
    pub cursor: Option<Cursor>,
    /// What the entity is at.
    pub state: State,
    /// When a pull last ended.
    pub pulled_at: Option<Timestamp>,
    /// Whether the table has been whole since it was made or reset, so that readers rely on it.
    pub(crate) complete: bool,
    /// The entities that the server said the cursor covers.
    pub(crate) covers: Arc<[EntityName]>,
    /// When the cursor was obtained.
    pub(crate) sequence: Sequence,
    /// When the line of cursors began that the rows come from without a break.
    pub(crate) began: Sequence,
    /// The database that the rows come from.
    pub(crate) source: Option<SourceId>,
    /// Whether what the caller may see has changed since the rows came, so that none is kept which does not come again.
    pub(crate) forgets: bool,
}

impl SyncHelper {
    /// The SyncHelper of an entity of which nothing is known yet.
    pub(crate) fn missing(entity: EntityName) -> Self {
        Self {
            entity,
            last_sync_date: Timestamp::EPOCH,
            cursor: None,
            state: State::Waiting,
            complete: false,
            covers: Arc::default(),
            sequence: 0,
            began: 0,
            source: None,
            forgets: false,
            pulled_at: None,
        }
    }
}
