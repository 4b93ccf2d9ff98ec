//! The JSON lines of a page in `COPY` blocks.
//!
//! ```text
//! {"version":1,"entity":"product","kind":"upsert","columns":[...],"fingerprint":"..."}
//! 7<tab>Chair<tab>2026-11-22 10:00:00.123456+00
//! \.
//! {"next":"...","more":false,"lastSyncDate":"...","rows":1,"entities":["product"]}
//! ```
//!
//! A body that does not end with the trailer line is incomplete, and nothing of it is kept.

use serde::{Deserialize, Serialize};

use crate::{Column, EntityName, Timestamp};

/// Version of the block form that this crate reads and writes.
pub const BLOCK_VERSION: u32 = 1;

/// The line that ends the rows of a block, without its newline.
pub const END_OF_BLOCK: &[u8] = b"\\.";

/// The first line of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BlockHeader {
    /// Version of the form: 1, and there is no other yet.
    pub version: u32,
    /// The entity that the rows belong to.
    pub entity: EntityName,
    /// What the rows say.
    pub kind: BlockKind,
    /// The fields of each row, in order. A `reset` has no rows; its columns are those of the
    /// `upsert` blocks that follow, so that an empty entity is known too.
    pub columns: Vec<Column>,
    /// Changes whenever the entity's columns, their types or the key change.
    pub fingerprint: String,
    /// The values that a `within` keeps, as Postgres prints them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub values: Vec<String>,
}

/// What the rows of a block say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Rows of the entity that are not sent again in this pull are gone.
    Reset,
    /// The keys of rows that are gone.
    Delete,
    /// Whole rows, new or changed.
    Upsert,
    /// All rows are gone whose one column does not have one of these values: what the caller may see has changed. It has
    /// no rows.
    Within,
    /// Keys that the cursor has not seen the last of; only in an answer to a question for digests,
    /// as all that follow.
    Changed,
    /// Parts of an entity, with the number of their rows and their digest.
    Part,
    /// Keys of rows, each with the row's digest.
    Key,
}

/// The last line of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Trailer {
    /// The cursor to send as `since` next.
    pub next: String,
    /// Whether the pull goes on with another page.
    pub more: bool,
    /// The date that is safe to send as `since` instead of `next`, once `more` is false.
    pub last_sync_date: Timestamp,
    /// Rows in all blocks of the page, resets not counted.
    pub rows: u64,
    /// The entities that `next` covers.
    pub entities: Vec<EntityName>,
}
