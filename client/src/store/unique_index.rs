//! Unique indexes that the user added: when one is met, which one it was.

use highwater_shared::EntityName;
use rusqlite::Connection;
use rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE;

use crate::error::Error;

/// Whether a statement failed on a unique index.
pub(super) fn is_violated(error: &rusqlite::Error) -> bool {
    error
        .sqlite_error()
        .is_some_and(|error| error.extended_code == SQLITE_CONSTRAINT_UNIQUE)
}

/// The error with the name of the index, where it is one of a unique index.
pub(super) fn explain(
    connection: &Connection,
    entity: &EntityName,
    table: &str,
    error: rusqlite::Error,
) -> Error {
    if !is_violated(&error) {
        return error.into();
    }
    let message = error.to_string();
    let met = message
        .split_once("constraint failed: ")
        .map_or(message.as_str(), |(_, met)| met);
    let index = find(connection, table, met).ok().flatten();
    Error::UniqueIndex {
        entity: entity.clone(),
        index: index.unwrap_or_else(|| met.to_owned()),
        source: Box::new(error),
    }
}

/// The index over the columns that SQLite's message lists, such as `product.name, product.size`.
fn find(connection: &Connection, table: &str, met: &str) -> rusqlite::Result<Option<String>> {
    if let Some(name) = met.strip_prefix("index '") {
        return Ok(Some(name.trim_end_matches('\'').to_owned()));
    }
    let mut statement = connection.prepare(
        "select i.name,
                (select group_concat(?1 || '.' || c.name, ', ') from pragma_index_info(i.name) c)
         from pragma_index_list(?1) i where i.\"unique\" = 1 and i.origin <> 'pk'",
    )?;
    let mut rows = statement.query([table])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, Option<String>>(1)?.as_deref() == Some(met) {
            return row.get(0).map(Some);
        }
    }
    Ok(None)
}
