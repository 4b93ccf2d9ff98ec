//! Why a device has a row, or lacks it: what `GET /why` answers.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{EntityName, Timestamp};

/// The body of `GET /why`: what holds of one row for one device.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// The entity.
    pub entity: EntityName,
    /// The key's columns with their values, as in changes.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub key: Box<RawValue>,
    /// Which of all that may be so is so: the first, in the order in which one would rule them out.
    pub outcome: Outcome,
    /// What the next pull brings of this row; absent where the question did not say what the device has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub next_pull: Option<NextPull>,
    /// Why the entity begins anew with the next pull, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub reason: Option<AnewReason>,
    /// When the row last changed, was deleted, or left the scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub changed_date: Option<Timestamp>,
    /// How the row was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub deleted_by: Option<DeletedBy>,
    /// The scope that the row is in, or was in last. For operators only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub scope: Option<String>,
    /// That somebody is writing to the table who has not committed yet, where there is no such row. Not for
    /// callers with a scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub writing: Option<Writing>,
    /// The answer in words, for people. It may change.
    pub what: String,
    /// What to do, for people. It may change.
    pub remedy: String,
}

/// What holds of a row for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The device's caller may not read the entity. A caller who asks itself gets 403 instead.
    EntityForbidden,
    /// The cursor is of another source, so a resync follows.
    SourceChanged,
    /// The cursor was made for another scope, so a resync follows.
    ScopeChanged,
    /// The device has nothing of the entity yet: it joins at the next pull, and begins anew.
    NotCovered,
    /// The entity begins anew with the next pull; `reason` says why.
    BeginsAnew,
    /// There is no such row, and nothing tells of its deletion.
    NoSuchRow,
    /// The row is in a scope that the device does not see. For operators only.
    OtherScope,
    /// The row is deleted.
    Deleted,
    /// The row left what the device may see.
    OutOfScope,
    /// The row changed after the device's last pull.
    ChangedSince,
    /// The device is in the middle of a pull, and the row's page is yet to come.
    PageToCome,
    /// The device has seen the row as it is.
    Seen,
    /// The row is there. What the device has was not asked.
    Live,
}

/// What the next pull brings of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NextPull {
    /// The row.
    Row,
    /// Its deletion.
    Deletion,
    /// Neither.
    Nothing,
}

/// Why an entity begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AnewReason {
    /// The cursor does not cover it, or there is none.
    NotCovered,
    /// It was enabled anew or touched, or its columns, types, key or partitions changed.
    Renewed,
    /// Deletions were purged that the device has not seen.
    Purged,
    /// The table was truncated.
    Truncated,
}

/// How a row was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeletedBy {
    /// Its deleted flag is set.
    Flag,
    /// By `delete` or a change of its key, which left a tombstone.
    Tombstone,
}

/// Somebody writes to the table, and has not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Writing {
    /// When the transaction began that has been open for longest; null where the server's role is not shown it.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub since: Option<Timestamp>,
}
