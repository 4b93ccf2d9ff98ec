//! A page applied as all deletes, then all inserts.
//!
//! Two rows that trade the value of a unique index cannot be written one after the other. The
//! page's rows then wait in temporary tables, on disk where they are many, until all old
//! versions of them are gone.

use highwater_shared::EntityName;
use rusqlite::Connection;

use super::table::Table;
use super::table_sql::{list, quoted};
use super::unique_index;
use crate::error::Error;

/// The rows of one entity that wait for the end of the page.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) entity: EntityName,
    table: Table,
    name: String,
}

impl Staged {
    /// Where rows of `table` are to be written meanwhile: the entity's waiting room, made where there is none.
    pub(super) fn target_of(
        rooms: &mut Vec<Self>,
        connection: &Connection,
        entity: &EntityName,
        table: &Table,
    ) -> Result<String, Error> {
        if let Some(staged) = rooms.iter().find(|staged| staged.entity == *entity) {
            return Ok(staged.target());
        }
        let staged = Self::create(connection, entity, table, rooms.len())?;
        let target = staged.target();
        rooms.push(staged);
        Ok(target)
    }

    /// A waiting room for rows of `table`, the `number`th of the page.
    fn create(
        connection: &Connection,
        entity: &EntityName,
        table: &Table,
        number: usize,
    ) -> Result<Self, Error> {
        let name = format!("highwater_page_{number}");
        connection.execute_batch(&table.create_sql("temp", &name))?;
        Ok(Self {
            entity: entity.clone(),
            table: table.clone(),
            name,
        })
    }

    /// Where the rows are to be written meanwhile.
    fn target(&self) -> String {
        format!("temp.{}", quoted(&self.name))
    }

    /// Forgets the rows that wait.
    pub(super) fn clear(&self, connection: &Connection) -> Result<(), Error> {
        connection.execute_batch(&format!("delete from {}", self.target()))?;
        Ok(())
    }

    /// Replaces the old versions of the waiting rows by the new ones.
    pub(super) fn apply(&self, connection: &Connection) -> Result<(), Error> {
        let table = format!("main.{}", quoted(&self.table.name));
        let columns = list(self.table.columns.iter(), "");
        let key = list(self.table.key(), "");
        let waiting = self.target();
        let explain = |error| unique_index::explain(connection, &self.entity, &self.table.name, error);
        connection
            .execute_batch(&format!(
                "delete from {table} where ({key}) in (select {key} from {waiting})"
            ))
            .map_err(explain)?;
        connection
            .execute_batch(&format!(
                "insert into {table} ({columns}) select {columns} from {waiting}"
            ))
            .map_err(explain)?;
        connection.execute_batch(&format!("drop table {waiting}"))?;
        Ok(())
    }
}
