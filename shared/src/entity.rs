//! Entities: the public names of tables, and what `GET /entities` says of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Column;

/// The public name of an entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct EntityName(String);

impl EntityName {
    /// Takes any text; whether an entity of that name exists is the server's to say.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One entity as `GET /entities` describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EntityDescription {
    /// The public name.
    pub name: EntityName,
    /// The published columns, in the order of the table.
    pub columns: Vec<Column>,
    /// The names of the key's columns, in the order of the key.
    pub key: Vec<String>,
    /// Changes whenever the columns, their types or the key change.
    pub fingerprint: String,
    /// Rows as Postgres' statistics estimate them; null before the first `analyze`.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub estimated_rows: Option<u64>,
}

/// The body of `GET /entities`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EntityList {
    /// Every entity that the caller may read, by name.
    pub entities: Vec<EntityDescription>,
}
