//! Indexes, triggers and columns that the user put on tables of entities.

use highwater_shared::EntityName;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::table::{self, Purpose, Table, is_senseless};
use super::table_sql::quoted;
use super::unique_index;
use crate::error::Error;

/// An index or a trigger of the user's.
#[derive(Debug)]
pub(super) struct UserObject {
    kind: String,
    name: String,
    sql: String,
    /// Of an index: whether all that it has in double quotes is the name of a column. SQLite takes
    /// what is none for a text, so a column that is gone would go unnoticed.
    quotes_names: bool,
}

/// The user's objects on a table.
pub(super) fn on(connection: &Connection, table: &Table) -> Result<Vec<UserObject>, Error> {
    let mut statement = connection.prepare_cached(
        "select type, name, sql from sqlite_schema
         where tbl_name = ?1 collate nocase and type in ('index', 'trigger') and sql is not null
         order by type, name",
    )?;
    let objects = statement.query_map([&table.name], |row| {
        Ok(UserObject {
            kind: row.get(0)?,
            name: row.get(1)?,
            sql: row.get(2)?,
            quotes_names: false,
        })
    })?;
    let mut objects: Vec<UserObject> = objects.collect::<rusqlite::Result<_>>()?;
    for index in objects.iter_mut().filter(|object| object.kind == "index") {
        index.quotes_names = quotes_names(connection, table, &index.sql)?;
    }
    Ok(objects)
}

/// The columns that the user added to a table.
pub(super) fn columns(connection: &Connection, table: &Table) -> Result<Vec<String>, Error> {
    let mut statement = connection.prepare_cached("select name from pragma_table_xinfo(?1)")?;
    let names = statement.query_map([&table.name], |row| row.get::<_, String>(0))?;
    let mut own = Vec::new();
    for name in names {
        let name = name?;
        if !table.has_column(&name) {
            own.push(format!("column {name}"));
        }
    }
    Ok(own)
}

/// Makes the user's objects on a table again, and names those that no longer fit.
pub(super) fn recreate(
    connection: &Connection,
    entity: &EntityName,
    table: &Table,
    objects: Vec<UserObject>,
) -> Result<Vec<String>, Error> {
    let mut dropped = Vec::new();
    for object in objects {
        connection.execute_batch("savepoint recreate")?;
        let fits = match execute(connection, &object.sql, object.quotes_names) {
            // A trigger is looked at only when a statement that fires it is compiled.
            Ok(()) => table.takes_rows(connection)?,
            Err(error) if unique_index::is_violated(&error) => {
                return Err(Error::UniqueIndex {
                    entity: entity.clone(),
                    index: object.name,
                    source: Box::new(error),
                });
            }
            Err(error) if is_senseless(&error) => {
                tracing::debug!(%entity, kind = object.kind, name = object.name, %error, "cannot be made again");
                false
            }
            Err(error) => return Err(error.into()),
        };
        if !fits {
            connection.execute_batch("rollback to recreate")?;
            dropped.push(format!("{} {}", object.kind, object.name));
        }
        connection.execute_batch("release recreate")?;
    }
    Ok(dropped)
}

/// The tables of the other entities that take rows now. A trigger on one of them may speak of the
/// table that is about to change.
pub(super) fn neighbours(
    connection: &Connection,
    entity: &EntityName,
) -> Result<Vec<(EntityName, Table)>, Error> {
    let mut neighbours = Vec::new();
    for other in table::entities(connection)? {
        if other == *entity {
            continue;
        }
        match Table::find(connection, &other, Purpose::Rows) {
            Ok(Some(table)) if table.takes_rows(connection)? => neighbours.push((other, table)),
            // What was wrong before is said when its own rows come.
            Ok(_) | Err(Error::TableMissing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(neighbours)
}

/// Drops and names the triggers on a table that keep it from taking rows.
pub(super) fn mend(
    connection: &Connection,
    entity: &EntityName,
    table: &Table,
) -> Result<Vec<String>, Error> {
    if table.takes_rows(connection)? {
        return Ok(Vec::new());
    }
    let mut triggers = on(connection, table)?;
    triggers.retain(|object| object.kind == "trigger");
    for trigger in &triggers {
        connection.execute_batch(&format!("drop trigger main.{}", quoted(&trigger.name)))?;
    }
    recreate(connection, entity, table, triggers)
}

/// Whether an index can be made where what stands in double quotes is a name and nothing else. It is
/// made on an empty table of the same name and columns, which hides the other one meanwhile.
fn quotes_names(connection: &Connection, table: &Table, index: &str) -> Result<bool, Error> {
    connection.execute_batch("savepoint quotes")?;
    connection.execute_batch(&table.create_sql("temp", &table.name))?;
    let made = execute(connection, index, true);
    connection.execute_batch("rollback to quotes; release quotes")?;
    Ok(made.is_ok())
}

fn execute(connection: &Connection, sql: &str, quotes_are_names: bool) -> rusqlite::Result<()> {
    let before = connection.db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, before && !quotes_are_names)?;
    let executed = connection.execute_batch(sql);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, before)?;
    executed
}
