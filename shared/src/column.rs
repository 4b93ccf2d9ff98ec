//! Columns as a page announces them, and how their values are to be read.

use serde::{Deserialize, Serialize};

/// One column of a block's rows, in the order of its fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Column {
    /// The column's name in Postgres, unquoted.
    pub name: String,
    /// The Postgres type as `format_type` prints it without a modifier; a domain's base type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// What the column is to Highwater; absent for a column of the application alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub role: Option<ColumnRole>,
    /// The place of a key's column within the key, from 1: a store whose rows lie in the order of
    /// this key takes a first pull by appending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub place: Option<u32>,
}

/// What a column is to Highwater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ColumnRole {
    /// Part of the primary key.
    Key,
    /// When the row last changed; stands once, after the application's columns.
    ChangedDate,
    /// Why the key is gone (see [`crate::Reason`]); last, in `delete` blocks only.
    Reason,
    /// The number of a part, first in `part` blocks.
    Part,
    /// How many rows a part has.
    Rows,
    /// A digest, as a signed number of 64 bits; last in `part` and `key` blocks.
    Digest,
}

impl Column {
    /// How the fields of this column are to be read.
    pub fn value_kind(&self) -> ValueKind {
        ValueKind::of(&self.type_name)
    }
}

/// The ways in which a `COPY` text field is read; every other type is text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// `smallint`, `integer`, `bigint`, `oid`.
    Integer,
    /// `boolean`, `t` or `f`.
    Boolean,
    /// `real`, `double precision`.
    Float,
    /// `bytea`, as `\x` and hexadecimal digits.
    Bytes,
    /// `timestamp with time zone`, printed in UTC.
    TimestampWithZone,
    /// `timestamp without time zone`.
    Timestamp,
    /// Everything else, as Postgres prints it.
    Text,
}

impl ValueKind {
    /// The way to read values of the Postgres type `type_name`, as `format_type` prints it.
    pub fn of(type_name: &str) -> Self {
        match type_name {
            "smallint" | "integer" | "bigint" | "oid" => Self::Integer,
            "boolean" => Self::Boolean,
            "real" | "double precision" => Self::Float,
            "bytea" => Self::Bytes,
            "timestamp with time zone" => Self::TimestampWithZone,
            "timestamp without time zone" => Self::Timestamp,
            _ => Self::Text,
        }
    }
}
