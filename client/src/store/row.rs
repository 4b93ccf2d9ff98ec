//! Looks for one row beside the writer: whether readers see it, and how its entity stands at that moment.

use std::path::Path;

use highwater_shared::{ColumnRole, EntityName, Timestamp, ValueKind};
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};

use super::table::{Purpose, Table};
use super::table_sql::{deleted_column, quoted};
use super::value::{self, Value};
use super::{look, schema, sync_helpers};
use crate::error::Error;
use crate::sync_helper::SyncHelper;

/// A row of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldRow {
    /// When it last changed, as the store has it; `None` where that is no date any more.
    pub changed_date: Option<Timestamp>,
    /// Whether it is kept although it was deleted.
    pub deleted: bool,
}

/// What a store has of one row at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowLook {
    pub(crate) helper: Option<SyncHelper>,
    /// The key's columns, in its order; `None` where the store has no table of the entity.
    pub(crate) key_columns: Option<Vec<String>>,
    /// The row that readers see.
    pub(crate) row: Option<HeldRow>,
    /// Whether the row has arrived of an entity that begins anew, and shows when the pull has ended.
    pub(crate) is_arriving: bool,
}

/// Looks at the store at `path`. `key` is given the names of the key's columns, and tells their values.
pub(crate) fn look_for(
    path: &Path,
    entity: &EntityName,
    key: impl Fn(&[&str]) -> Result<Vec<String>, Error>,
) -> Result<RowLook, Error> {
    look::at(path, |connection| {
        let mut look = RowLook::default();
        if schema::version(connection)? == 0 {
            return Ok(look);
        }
        // One snapshot for the SyncHelper and the row.
        let transaction = connection.unchecked_transaction()?;
        look.helper = sync_helpers::load(&transaction)?.remove(entity);
        for purpose in [Purpose::Rows, Purpose::Renewal] {
            let table = match Table::find(&transaction, entity, purpose) {
                Ok(Some(table)) => table,
                Ok(None) | Err(Error::TableMissing { .. }) => continue,
                Err(error) => return Err(error),
            };
            let names: Vec<&str> = table.key().map(|column| column.name.as_str()).collect();
            let found = find(&transaction, &table, &key(&names)?)?;
            match purpose {
                Purpose::Rows => {
                    look.row = found;
                    look.key_columns = Some(names.into_iter().map(str::to_owned).collect());
                }
                Purpose::Renewal => look.is_arriving = found.is_some(),
            }
        }
        Ok(look)
    })
}

fn find(connection: &Connection, table: &Table, key: &[String]) -> Result<Option<HeldRow>, Error> {
    let kinds = table.key().map(highwater_shared::Column::value_kind);
    let values: Option<Vec<Value<'_>>> = kinds.zip(key).map(|(kind, text)| read(kind, text)).collect();
    // What is no value of the column is the key of no row.
    let Some(values) = values else { return Ok(None) };
    let columns = table.key().zip(1..);
    let is_it: Vec<String> = columns
        .map(|(column, place)| format!("{} = ?{place}", quoted(&column.name)))
        .collect();
    let deleted = if table.keeps_deleted {
        format!("{} <> 0", deleted_column())
    } else {
        "false".to_owned()
    };
    let date = table
        .columns
        .iter()
        .find(|column| column.role == Some(ColumnRole::ChangedDate));
    let sql = format!(
        "select {}, {deleted} from main.{} where {}",
        date.map_or("null".to_owned(), |column| quoted(&column.name)),
        quoted(&table.name),
        is_it.join(" and ")
    );
    let row = connection.query_row(&sql, params_from_iter(values), |row| {
        let date: rusqlite::types::Value = row.get(0)?;
        Ok(HeldRow {
            changed_date: match date {
                rusqlite::types::Value::Text(text) => text.parse().ok(),
                _ => None,
            },
            deleted: row.get(1)?,
        })
    });
    Ok(row.optional()?)
}

/// The value that a pull would have stored for this text.
fn read(kind: ValueKind, text: &str) -> Option<Value<'static>> {
    let own = |text: String| Value::Text(text.into_bytes().into());
    Some(match kind {
        ValueKind::Integer => Value::Integer(text.parse().ok()?),
        ValueKind::Boolean => match text {
            "t" | "true" | "1" => Value::Integer(1),
            "f" | "false" | "0" => Value::Integer(0),
            _ => return None,
        },
        ValueKind::Float => Value::Real(text.parse().ok()?),
        ValueKind::Bytes => {
            let escaped = format!("\\{text}");
            match value::read(kind, Some(escaped.as_bytes())) {
                Ok(Value::Blob(bytes)) => Value::Blob(bytes),
                _ => return None,
            }
        }
        ValueKind::TimestampWithZone => match text.parse::<Timestamp>() {
            // Always six digits, also where the epoch as a date of a sync has none.
            Ok(date) if date == Timestamp::EPOCH => own("1970-01-01T00:00:00.000000Z".to_owned()),
            Ok(date) => own(date.to_string()),
            Err(_) => own(text.to_owned()),
        },
        ValueKind::Timestamp => {
            let printed = text.replacen('T', " ", 1);
            value::date(printed.as_bytes(), b"").unwrap_or_else(|| own(text.to_owned()))
        }
        ValueKind::Text => own(text.to_owned()),
    })
}
