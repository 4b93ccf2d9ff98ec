//! Why an entity cannot be served.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use highwater_shared::EntityName;

/// Why an entity cannot be served, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no table of it any more.
    #[error(
        "the table of {entity} was dropped; make it again and run `highwater-server enable` for it, or see \
         `highwater-server doctor`"
    )]
    Dropped {
        /// The entity.
        entity: EntityName,
    },
    /// The role that asks may not read it.
    #[error(
        "the server's role may not read {table}; run `highwater-server grants` for it, after each `enable`"
    )]
    NoRights {
        /// The table.
        table: String,
    },
    /// SQLite takes two columns for one.
    #[error(
        "the columns {one} and {other} of {table} differ only by case, which no store can hold; rename or hide one of them"
    )]
    ColumnsAlike {
        /// The table.
        table: String,
        /// The first of them.
        one: String,
        /// The second.
        other: String,
    },
    /// Other tables inherit from it.
    #[error(
        "{table} has tables that inherit from it, whose changes are not seen; `alter table ... no inherit {table}`"
    )]
    HasHeirs {
        /// The table.
        table: String,
    },
    /// A crash would empty it.
    #[error(
        "{table} is unlogged, so a crash would empty it without a trace; `alter table ... set logged`, then run \
         `highwater-server touch` for it"
    )]
    Unlogged {
        /// The table.
        table: String,
    },
    /// A generated column is none any more, or is made of a hidden one: the triggers were written for other columns.
    #[error(
        "a generated column of {table} has become a plain one, or is made of a hidden one; run `highwater-server enable` for {table} again"
    )]
    GeneratedChanged {
        /// The table.
        table: String,
    },
    /// Its indexes are not there yet, without which every page would read the whole table.
    #[error(
        "the indexes of {table} are being built; where `highwater-server enable` was interrupted, run it again"
    )]
    NotIndexed {
        /// The table.
        table: String,
    },
    /// The key is another one.
    #[error("the primary key of {table} has changed; run `highwater-server enable` for {table} again")]
    KeyChanged {
        /// The table.
        table: String,
    },
    /// A row that leaves what the role may read would stay in every store.
    #[error(
        "row security limits what this server may read of {table}, which has no scope to follow it by; see \
         docs/row-security.md"
    )]
    RowSecured {
        /// The table.
        table: String,
    },
    /// The keys of all deleted rows would be told.
    #[error(
        "row security limits what this server may read of {table} and not of highwater.tombstone, where the keys of all \
         deleted rows are; see docs/row-security.md"
    )]
    TombstonesOpen {
        /// The table.
        table: String,
    },
    /// The type of the key no longer knows a value that a deleted row had; found when it is read.
    #[error("the key of a deleted row is none to {table} any more; run `highwater-server touch` for {table}")]
    TombstoneUnread {
        /// The table.
        table: String,
    },
    /// Columns that were named are gone. Served on, a hidden column that was renamed would be published.
    #[error(
        "{table} no longer has the column {lost}, which `enable` named; run `highwater-server enable` for {table} again"
    )]
    ColumnsLost {
        /// The table.
        table: String,
        /// The columns, with commas between them.
        lost: String,
    },
}

impl Fault {
    /// What stands in the way first, of an entity that was described; `columns` are the published ones.
    pub(super) fn of(
        row: &PgRow,
        entity: &EntityName,
        table: &str,
        columns: &[String],
    ) -> Result<Option<Self>, sqlx::Error> {
        let table = table.to_owned();
        let is_row_secured = row.try_get("row_secured")?;
        let has_scope = row.try_get::<Option<String>, _>("scope_cast")?.is_some();
        let lost: Vec<String> = row.try_get("lost")?;
        let fault = if row.try_get::<Option<String>, _>("relation")?.is_none() {
            let entity = entity.clone();
            Self::Dropped { entity }
        } else if !row.try_get::<bool, _>("readable")? {
            Self::NoRights { table }
        } else if let Some((one, other)) = alike(columns) {
            let (one, other) = (one.to_owned(), other.to_owned());
            Self::ColumnsAlike { table, one, other }
        } else if row.try_get("has_heirs")? {
            Self::HasHeirs { table }
        } else if row.try_get("is_unlogged")? {
            Self::Unlogged { table }
        } else if row.try_get("generated_changed")? {
            Self::GeneratedChanged { table }
        } else if row.try_get("key_changed")? {
            Self::KeyChanged { table }
        } else if !row.try_get::<bool, _>("indexed")? {
            Self::NotIndexed { table }
        } else if is_row_secured && !has_scope {
            Self::RowSecured { table }
        } else if is_row_secured && !row.try_get::<bool, _>("tombstones_secured")? {
            Self::TombstonesOpen { table }
        } else if lost.is_empty() {
            return Ok(None);
        } else {
            let lost = lost.join(", ");
            Self::ColumnsLost { table, lost }
        };
        Ok(Some(fault))
    }
}

/// Two columns of a store, of which `changed_date` and `deleted` are, that SQLite takes for one.
fn alike(names: &[String]) -> Option<(&str, &str)> {
    let own = ["changed_date", "deleted"];
    let names: Vec<&str> = names.iter().map(String::as_str).chain(own).collect();
    names.iter().enumerate().find_map(|(place, name)| {
        let before = names.iter().take(place);
        let other = before.copied().find(|other| other.eq_ignore_ascii_case(name))?;
        Some((other, *name))
    })
}
