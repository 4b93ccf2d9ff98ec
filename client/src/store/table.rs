//! Tables of entities: which are Highwater's, what they look like, and whether a page fits them.

use highwater_shared::{BlockHeader, BlockKind, Column, ColumnRole, EntityName, copy_text};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::renew::{self, Renewed};
use super::table_sql::quoted;
use super::value::{self, NotAValue};
use crate::error::Error;

/// The column that `--keep-deleted` adds.
pub(super) const DELETED: &str = "deleted";

/// Names of hidden tables begin with this.
const RENEWAL_PREFIX: &str = "highwater_renew_";

/// What a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The entity's rows, under its name.
    Rows,
    /// The rows of an entity that begins anew, hidden until all of them are there.
    Renewal,
}

impl Purpose {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Renewal => "renewal",
        }
    }
}

/// A table that is Highwater's.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    /// The columns as the server announced them, `changed_date` included.
    pub(super) columns: Vec<Column>,
    pub(super) fingerprint: String,
    /// Whether it has the column `deleted` for rows that are kept.
    pub(super) keeps_deleted: bool,
}

impl Table {
    /// The table of an entity, where there is one.
    pub(super) fn find(
        connection: &Connection,
        entity: &EntityName,
        purpose: Purpose,
    ) -> Result<Option<Self>, Error> {
        let found = connection
            .prepare_cached(
                "select name, columns, fingerprint, keeps_deleted from highwater_table
                 where entity = ?1 and purpose = ?2",
            )?
            .query_row(params![entity.as_str(), purpose.as_str()], |row| {
                let columns: String = row.get(1)?;
                Ok(Self {
                    name: row.get(0)?,
                    columns: serde_json::from_str(&columns).map_err(|error| {
                        rusqlite::Error::FromSqlConversionFailure(
                            1,
                            rusqlite::types::Type::Text,
                            error.into(),
                        )
                    })?,
                    fingerprint: row.get(2)?,
                    keeps_deleted: row.get(3)?,
                })
            })
            .optional()?;
        match found {
            Some(table) if !connection.table_exists(Some("main"), table.name.as_str())? => {
                Err(Error::TableMissing {
                    entity: entity.clone(),
                })
            }
            found => Ok(found),
        }
    }

    /// Makes the table that a block of `header` needs.
    pub(super) fn create(
        connection: &Connection,
        header: &BlockHeader,
        purpose: Purpose,
        keeps_deleted: bool,
    ) -> Result<Self, Error> {
        check_columns(header, keeps_deleted)?;
        let table = Self {
            name: match purpose {
                Purpose::Rows => header.entity.as_str().to_owned(),
                Purpose::Renewal => hidden_name(connection)?,
            },
            columns: header.columns.clone(),
            fingerprint: header.fingerprint.clone(),
            keeps_deleted: keeps_deleted && purpose == Purpose::Rows,
        };
        if let Some(kind) = object_kind(connection, &table.name)? {
            return Err(Error::NameTaken {
                entity: header.entity.clone(),
                kind,
            });
        }
        connection.execute_batch(&table.create_sql("main", &table.name))?;
        connection.execute(
            "insert into highwater_table (name, entity, purpose, columns, fingerprint, keeps_deleted)
             values (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                table.name,
                header.entity.as_str(),
                purpose.as_str(),
                serde_json::to_string(&table.columns).unwrap_or_default(),
                table.fingerprint,
                table.keeps_deleted,
            ],
        )?;
        Ok(table)
    }

    /// Removes the table and what is remembered of it.
    pub(super) fn remove(&self, connection: &Connection) -> Result<(), Error> {
        connection.execute_batch(&format!("drop table main.{}", quoted(&self.name)))?;
        connection.execute("delete from highwater_table where name = ?1", [&self.name])?;
        Ok(())
    }

    /// Whether blocks of `header` fit this table, value for value.
    pub(super) fn fits(&self, header: &BlockHeader) -> bool {
        self.fingerprint == header.fingerprint
            && match header.kind {
                BlockKind::Reset | BlockKind::Upsert => self.columns == header.columns,
                BlockKind::Within => header.columns.iter().all(|column| self.columns.contains(column)),
                // These hold no rows.
                BlockKind::Changed | BlockKind::Part | BlockKind::Key => true,
                // A deletion has no more than the key's columns, which are found by name.
                BlockKind::Delete => self.key().all(|key| {
                    header
                        .columns
                        .iter()
                        .any(|column| column.name == key.name && column.type_name == key.type_name)
                }),
            }
    }

    /// Adds the column for rows that are kept although they were deleted.
    pub(super) fn keep_deleted(&mut self, connection: &Connection, entity: &EntityName) -> Result<(), Error> {
        if self.has_deleted_of_its_own() {
            return Err(Error::KeepDeleted {
                entity: entity.clone(),
            });
        }
        connection.execute_batch(&format!(
            "alter table main.{} add column {} integer not null default 0",
            quoted(&self.name),
            quoted(DELETED)
        ))?;
        connection.execute(
            "update highwater_table set keeps_deleted = 1 where name = ?1",
            [&self.name],
        )?;
        self.keeps_deleted = true;
        Ok(())
    }

    /// Whether rows can be written and removed: the table has its columns and its key, and the
    /// triggers on it make sense.
    pub(super) fn takes_rows(&self, connection: &Connection) -> Result<bool, Error> {
        let target = format!("main.{}", quoted(&self.name));
        for sql in [self.upsert_sql(&target), self.delete_sql()] {
            match connection.prepare(&sql) {
                Ok(_) => {}
                Err(error) if is_senseless(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Whether there are so many rows, or more.
    pub(super) fn has_rows(&self, connection: &Connection, rows: u64) -> Result<bool, Error> {
        let sql = format!(
            "select count(*) >= ?1 from (select 1 from main.{} limit ?1)",
            quoted(&self.name)
        );
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        Ok(connection.query_row(&sql, [rows], |row| row.get(0))?)
    }

    /// Removes all rows.
    pub(super) fn clear(&self, connection: &Connection) -> Result<(), Error> {
        connection.execute_batch(&format!("delete from main.{}", quoted(&self.name)))?;
        Ok(())
    }

    /// Removes the rows that do not have one of these values in a column of theirs, and tells how many they were.
    pub(super) fn keep_within(
        &self,
        connection: &Connection,
        column: &Column,
        values: &[String],
    ) -> Result<u64, Error> {
        let name = quoted(&column.name);
        let places = vec!["?"; values.len()].join(", ");
        let sql = format!(
            "delete from main.{} where {name} is null or {name} not in ({places})",
            quoted(&self.name)
        );
        let mut statement = connection.prepare(&sql)?;
        for (index, printed) in (1..).zip(values) {
            let mut field = Vec::new();
            copy_text::escape_into(printed.as_bytes(), &mut field);
            let value = value::read(column.value_kind(), Some(&field)).map_err(|NotAValue| {
                Error::Malformed(format!("{printed:?} is not a {}", column.type_name))
            })?;
            statement.raw_bind_parameter(index, value)?;
        }
        Ok(statement.raw_execute()? as u64)
    }

    /// Whether the table was made with a column of this name.
    pub(super) fn has_column(&self, name: &str) -> bool {
        let is_it = |column: &str| column.eq_ignore_ascii_case(name);
        self.columns.iter().any(|column| is_it(&column.name)) || self.keeps_deleted && is_it(DELETED)
    }

    /// Whether one of the application's columns has the name of the flag.
    pub(super) fn has_deleted_of_its_own(&self) -> bool {
        self.columns.iter().any(is_deleted)
    }

    /// The columns of the key, in the order of the key.
    pub(super) fn key(&self) -> impl Iterator<Item = &Column> {
        let mut key: Vec<&Column> = self
            .columns
            .iter()
            .filter(|column| column.role == Some(ColumnRole::Key))
            .collect();
        key.sort_by_key(|column| column.place);
        key.into_iter()
    }
}

/// The entities that have a table.
pub(super) fn entities(connection: &Connection) -> Result<Vec<EntityName>, Error> {
    let mut statement = connection
        .prepare_cached("select entity from highwater_table where purpose = 'rows' order by entity")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0).map(EntityName::new))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

/// Removes an entity's rows. Its table stays where it takes rows; one that is missing is forgotten.
///
/// Returns what a new table meant for the user's objects on the old one.
pub(super) fn reset(connection: &Connection, entity: &EntityName) -> Result<Renewed, Error> {
    let mut renewed = Renewed::default();
    for purpose in [Purpose::Renewal, Purpose::Rows] {
        match (Table::find(connection, entity, purpose), purpose) {
            (Ok(Some(table)), Purpose::Renewal) => table.remove(connection)?,
            (Ok(Some(table)), Purpose::Rows) if table.takes_rows(connection)? => table.clear(connection)?,
            (Ok(Some(table)), Purpose::Rows) => {
                renewed = renew::rebuild(connection, entity, &table)?;
            }
            (Ok(None), _) => {}
            (Err(Error::TableMissing { .. }), _) => {
                connection.execute(
                    "delete from highwater_table where entity = ?1 and purpose = ?2",
                    params![entity.as_str(), purpose.as_str()],
                )?;
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok(renewed)
}

/// What the store's file has under this name: `table`, `view`, `index` or nothing.
pub(super) fn object_kind(connection: &Connection, name: &str) -> Result<Option<String>, Error> {
    Ok(connection
        .prepare_cached("select type from sqlite_schema where name = ?1 collate nocase")?
        .query_row([name], |row| row.get(0))
        .optional()?)
}

/// Whether a statement cannot be compiled, since what it names is not there.
pub(super) fn is_senseless(error: &rusqlite::Error) -> bool {
    let error = match error {
        rusqlite::Error::SqlInputError { error, .. } => Some(error),
        other => other.sqlite_error(),
    };
    error.is_some_and(|error| error.code == ErrorCode::Unknown)
}

fn is_deleted(column: &Column) -> bool {
    column.name.eq_ignore_ascii_case(DELETED)
}

fn hidden_name(connection: &Connection) -> Result<String, Error> {
    // Not from one on: where many entities begin anew, each would try the names of all before it.
    let renewals = "select count(*) + 1 from highwater_table where purpose = 'renewal'";
    let mut number: i64 = connection
        .prepare_cached(renewals)?
        .query_row([], |row| row.get(0))?;
    loop {
        let name = format!("{RENEWAL_PREFIX}{number}");
        if object_kind(connection, &name)?.is_none() {
            return Ok(name);
        }
        number += 1;
    }
}

/// Refuses columns that no table can be made of, before SQLite does so less clearly.
fn check_columns(header: &BlockHeader, keeps_deleted: bool) -> Result<(), Error> {
    let entity = &header.entity;
    let malformed = |what: &str| Err(Error::Malformed(format!("{what} in the columns of {entity}")));
    let has = |role| header.columns.iter().any(|column| column.role == Some(role));
    if !has(ColumnRole::Key) {
        return malformed("there is no key");
    }
    if !has(ColumnRole::ChangedDate) {
        return malformed("there is no changed_date");
    }
    if keeps_deleted && header.columns.iter().any(is_deleted) {
        return Err(Error::KeepDeleted {
            entity: entity.clone(),
        });
    }
    let mut names: Vec<String> = header
        .columns
        .iter()
        .map(|column| column.name.to_ascii_lowercase())
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.len() != header.columns.len() {
        return malformed("two columns differ only by case");
    }
    Ok(())
}
