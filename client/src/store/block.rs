//! Writes the rows of one block with one prepared statement.

use highwater_shared::{
    BlockHeader, BlockKind, Column, ColumnRole, EntityName, Reason, ValueKind, copy_text,
};
use rusqlite::{CachedStatement, Connection};

use super::table::{Table, is_senseless};
use super::table_sql::quoted;
use super::unique_index;
use super::value::{self, NotAValue};
use crate::error::Error;

/// Writes the rows of a block, one by one.
pub(super) struct BlockWriter<'c> {
    connection: &'c Connection,
    pub(super) entity: EntityName,
    table: String,
    columns: Vec<Column>,
    kinds: Vec<ValueKind>,
    /// For each column of the key its place in the block's rows.
    key: Vec<usize>,
    work: Work<'c>,
}

enum Work<'c> {
    Upsert(CachedStatement<'c>),
    Delete(Deletion<'c>),
}

/// How a key is taken away.
struct Deletion<'c> {
    changed_date: Option<usize>,
    reason: Option<usize>,
    delete: CachedStatement<'c>,
    /// Where deleted rows are kept: the statement that flags one.
    flag: Option<CachedStatement<'c>>,
}

impl<'c> BlockWriter<'c> {
    /// A writer for whole rows of `table`, which it puts into `target`.
    pub(super) fn upserts(
        connection: &'c Connection,
        header: BlockHeader,
        table: &Table,
        target: Option<String>,
    ) -> Result<Self, Error> {
        let target = target.unwrap_or_else(|| format!("main.{}", quoted(&table.name)));
        let statement = prepare(connection, &header.entity, &table.upsert_sql(&target))?;
        Self::new(connection, header, table, Work::Upsert(statement))
    }

    /// A writer that takes rows of `table` away, or flags those that were deleted.
    pub(super) fn deletes(
        connection: &'c Connection,
        header: BlockHeader,
        table: &Table,
        keep: bool,
    ) -> Result<Self, Error> {
        let role = |role| header.columns.iter().position(|column| column.role == Some(role));
        let deletion = Deletion {
            changed_date: role(ColumnRole::ChangedDate),
            reason: role(ColumnRole::Reason),
            delete: prepare(connection, &header.entity, &table.delete_sql())?,
            flag: keep
                .then(|| prepare(connection, &header.entity, &table.flag_sql()))
                .transpose()?,
        };
        Self::new(connection, header, table, Work::Delete(deletion))
    }

    fn new(
        connection: &'c Connection,
        header: BlockHeader,
        table: &Table,
        work: Work<'c>,
    ) -> Result<Self, Error> {
        let place = |name: &str| header.columns.iter().position(|column| column.name == name);
        let key: Option<Vec<usize>> = table.key().map(|column| place(&column.name)).collect();
        let Some(key) = key else {
            return Err(Error::Malformed(format!(
                "a block of {} lacks a part of the key",
                header.entity
            )));
        };
        Ok(Self {
            connection,
            entity: header.entity,
            table: table.name.clone(),
            kinds: header.columns.iter().map(Column::value_kind).collect(),
            columns: header.columns,
            key,
            work,
        })
    }

    /// Appends the key of a row of the block, as a line of `COPY` text without its end.
    pub(super) fn key_into(&self, line: &[u8], out: &mut Vec<u8>) {
        for (number, place) in self.key.iter().enumerate() {
            if number > 0 {
                out.push(b'\t');
            }
            // A row without one was refused.
            let field = copy_text::fields(line).nth(*place).flatten();
            out.extend_from_slice(field.unwrap_or_default());
        }
    }

    /// What the rows of the block say.
    pub(super) fn kind(&self) -> BlockKind {
        match self.work {
            Work::Upsert(_) => BlockKind::Upsert,
            Work::Delete(_) => BlockKind::Delete,
        }
    }

    /// Writes one row, and tells how many rows of the table it changed.
    pub(super) fn row(&mut self, line: &[u8]) -> Result<usize, Error> {
        match &mut self.work {
            Work::Upsert(statement) => {
                let mut index = 0;
                for field in copy_text::fields(line) {
                    let Some(kind) = self.kinds.get(index) else {
                        return Err(wrong_width(&self.entity, &self.columns));
                    };
                    let column = self.columns.get(index);
                    // SQLite would make up a number where an integer is the key.
                    if field.is_none() && column.is_some_and(is_key) {
                        return Err(not_a_value(&self.entity, column));
                    }
                    let value =
                        value::read(*kind, field).map_err(|NotAValue| not_a_value(&self.entity, column))?;
                    index += 1;
                    statement.raw_bind_parameter(index, value)?;
                }
                if index != self.kinds.len() {
                    return Err(wrong_width(&self.entity, &self.columns));
                }
                statement
                    .raw_execute()
                    .map_err(|error| unique_index::explain(self.connection, &self.entity, &self.table, error))
            }
            Work::Delete(deletion) => {
                let fields: Vec<Option<&[u8]>> = copy_text::fields(line).collect();
                if fields.len() != self.columns.len() {
                    return Err(wrong_width(&self.entity, &self.columns));
                }
                deletion.row(&fields, &self.key, &self.kinds, &self.entity, &self.columns)
            }
        }
    }
}

impl Deletion<'_> {
    fn row(
        &mut self,
        fields: &[Option<&[u8]>],
        key: &[usize],
        kinds: &[ValueKind],
        entity: &EntityName,
        columns: &[Column],
    ) -> Result<usize, Error> {
        let field = |place: usize| fields.get(place).copied().flatten();
        // A row that left the caller's scope leaves the store, kept or not.
        let out_of_scope = self
            .reason
            .and_then(field)
            .is_some_and(|reason| reason == Reason::OutOfScope.as_str().as_bytes());
        let (statement, date) = match (&mut self.flag, self.changed_date) {
            (Some(flag), Some(date)) if !out_of_scope => (flag, Some(date)),
            _ => (&mut self.delete, None),
        };
        for (index, place) in key.iter().copied().chain(date).enumerate() {
            let kind = kinds.get(place).copied().unwrap_or(ValueKind::Text);
            let value = value::read(kind, field(place))
                .map_err(|NotAValue| not_a_value(entity, columns.get(place)))?;
            statement.raw_bind_parameter(index + 1, value)?;
        }
        Ok(statement.raw_execute()?)
    }
}

fn prepare<'c>(
    connection: &'c Connection,
    entity: &EntityName,
    sql: &str,
) -> Result<CachedStatement<'c>, Error> {
    connection.prepare_cached(sql).map_err(|error| {
        if is_senseless(&error) {
            Error::TableAltered {
                entity: entity.clone(),
                source: Box::new(error),
            }
        } else {
            error.into()
        }
    })
}

fn is_key(column: &Column) -> bool {
    column.role == Some(ColumnRole::Key)
}

fn not_a_value(entity: &EntityName, column: Option<&Column>) -> Error {
    let (name, type_name) = column.map_or(("", ""), |column| (&column.name, &column.type_name));
    Error::Malformed(format!(
        "a row of {entity} holds in {name} what is not a {type_name}"
    ))
}

fn wrong_width(entity: &EntityName, columns: &[Column]) -> Error {
    Error::Malformed(format!(
        "a row of {entity} does not have {} fields",
        columns.len()
    ))
}
