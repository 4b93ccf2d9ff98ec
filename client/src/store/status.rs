//! What a store says of itself, read beside its writer.

use std::path::Path;

use rusqlite::Connection;

use super::look;
use super::schema;
use super::sync_helpers;
use super::table::{Purpose, Table};
use super::table_sql::quoted;
use crate::error::Error;
use crate::sync_helper::{SourceId, SyncHelper};

/// How a store stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatus {
    /// The own id of the database that it is a copy of, once something was pulled.
    pub source: Option<SourceId>,
    /// Its entities, by name.
    pub entities: Vec<EntityStatus>,
}

/// How an entity stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntityStatus {
    /// What the store remembers of it.
    pub sync_helper: SyncHelper,
    /// Rows that readers see, those kept although deleted not counted.
    pub rows: u64,
}

/// Reads how the store at `path` stands, without the writer's lock.
///
/// Counts the rows, so it takes longer where there are many.
pub fn status(path: impl AsRef<Path>) -> Result<StoreStatus, Error> {
    look::at(path.as_ref(), read)
}

fn read(connection: &Connection) -> Result<StoreStatus, Error> {
    let mut status = StoreStatus {
        source: None,
        entities: Vec::new(),
    };
    if schema::version(connection)? == 0 {
        return Ok(status);
    }
    // One snapshot for the SyncHelpers and the rows.
    let transaction = connection.unchecked_transaction()?;
    for helper in sync_helpers::load(&transaction)?.into_values() {
        status.source = status.source.or_else(|| helper.source.clone());
        status.entities.push(entity(&transaction, helper)?);
    }
    Ok(status)
}

fn entity(connection: &Connection, helper: SyncHelper) -> Result<EntityStatus, Error> {
    let rows = match Table::find(connection, &helper.entity, Purpose::Rows) {
        Ok(Some(table)) => count(connection, &table)?,
        Ok(None) | Err(Error::TableMissing { .. }) => 0,
        Err(error) => return Err(error),
    };
    Ok(EntityStatus {
        sync_helper: helper,
        rows,
    })
}

/// How many rows of a table are live.
pub(super) fn count(connection: &Connection, table: &Table) -> Result<u64, Error> {
    let sql = format!(
        "select count(*) from main.{}{}",
        quoted(&table.name),
        table.where_live()
    );
    let rows: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
    Ok(rows.unsigned_abs())
}
