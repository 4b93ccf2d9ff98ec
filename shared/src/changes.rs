//! A page as JSON.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{EntityName, Timestamp};

/// The body of `GET /changes` as `application/json`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// What changed: by entity; in each first the reset, then deletions, then rows.
    pub changes: Vec<Change>,
    /// The cursor to send as `since` next.
    pub next: String,
    /// Whether the pull goes on with another page.
    pub more: bool,
    /// The date that is safe to send as `since` instead of `next`, once `more` is false.
    pub last_sync_date: Timestamp,
    /// The entities that `next` covers.
    pub entities: Vec<EntityName>,
}

/// One change.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The entity that changed.
    pub entity: EntityName,
    /// The key's columns with their values; null for a reset.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>, required))]
    pub key: Option<Box<RawValue>>,
    /// When it changed; absent for a reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub changed_date: Option<Timestamp>,
    /// Whether the row, or for a reset all rows not sent again, are gone.
    pub deleted: bool,
    /// The application's columns with their values; null where `deleted` is true.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>, required))]
    pub row: Option<Box<RawValue>>,
    /// Why it is gone; absent for a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub reason: Option<Reason>,
}

/// Why a row is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Deleted, by the flag, by `DELETE` or by a change of its key.
    Deleted,
    /// The row left the caller's scope.
    OutOfScope,
    /// The entity begins anew: rows that are not sent again in this pull are gone.
    Reset,
}

impl Reason {
    /// The reason as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::OutOfScope => "out_of_scope",
            Self::Reset => "reset",
        }
    }
}
