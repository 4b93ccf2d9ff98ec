//! Holds the store against the source, value for value.
//!
//! The values are read and brought to the store's form without any of Highwater's code: what is
//! wrong there cannot be wrong here in the same way.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use rusqlite::Connection;
use rusqlite::types::Value;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row as _};

/// How many differences of a table are told; the others are counted.
const DIFFERENCES_TOLD_MAX: usize = 5;

/// The columns that Highwater adds for itself and that the store does not have.
const OWN_COLUMNS: [&str; 2] = ["changed_xid", "deleted"];

/// What came of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// Rows of the source that were held against the store.
    pub(crate) rows: u64,
    /// Values of these rows.
    pub(crate) values: u64,
    /// What differs; nothing does when this is empty.
    pub(crate) differences: Vec<String>,
}

/// Compares the live rows of `tables`, each with its key, in one snapshot of the source.
pub(crate) async fn compare(
    pool: &PgPool,
    store: &Connection,
    tables: &[(&str, &[&str])],
) -> Result<Compared> {
    let mut transaction = pool.begin().await?;
    sqlx::raw_sql("set transaction isolation level repeatable read, read only")
        .execute(&mut *transaction)
        .await?;
    let mut compared = Compared::default();
    for (table, key) in tables {
        let columns = columns(&mut transaction, table).await?;
        let source = source_rows(&mut transaction, table, &columns, key).await?;
        let copy = store_rows(store, table, &columns, key)
            .with_context(|| format!("cannot read {table} of the store"))?;
        compared.rows += source.len() as u64;
        compared.values += (source.len() * columns.len()) as u64;
        compared
            .differences
            .extend(differences(table, &columns, &source, copy));
    }
    transaction.commit().await?;
    Ok(compared)
}

/// The rows of a table by the text of their key.
type Rows = BTreeMap<String, Vec<Value>>;

#[derive(Debug)]
struct Column {
    name: String,
    kind: Kind,
}

/// The types of the demo's tables.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Integer,
    Float,
    Text,
    TimestampWithZone,
}

impl Column {
    fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }

    /// The column in SQL, in the form that the store has.
    fn expression(&self) -> String {
        let column = self.quoted();
        match self.kind {
            Kind::Integer => format!("{column}::bigint"),
            Kind::Float => format!("{column}::double precision"),
            Kind::Text => column,
            Kind::TimestampWithZone => {
                format!(r#"to_char({column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#)
            }
        }
    }

    /// The value at `place` of a row that [`Self::expression`] was read into.
    fn value(&self, row: &PgRow, place: usize) -> Result<Value, sqlx::Error> {
        Ok(match self.kind {
            Kind::Integer => row.try_get::<Option<i64>, _>(place)?.into(),
            // SQLite has no NaN.
            Kind::Float => row
                .try_get::<Option<f64>, _>(place)?
                .filter(|number| !number.is_nan())
                .into(),
            Kind::Text | Kind::TimestampWithZone => row.try_get::<Option<String>, _>(place)?.into(),
        })
    }
}

async fn columns(connection: &mut PgConnection, table: &str) -> Result<Vec<Column>> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "select attname::text, format_type(atttypid, null) from pg_attribute
        where attrelid = $1::text::regclass and attnum > 0 and not attisdropped and attname <> all ($2)
        order by attnum",
    )
    .bind(table)
    .bind(OWN_COLUMNS)
    .fetch_all(connection)
    .await?;
    let column = |(name, type_name): (String, String)| {
        let kind = match type_name.as_str() {
            "smallint" | "integer" | "bigint" => Kind::Integer,
            "real" | "double precision" => Kind::Float,
            "text" => Kind::Text,
            "timestamp with time zone" => Kind::TimestampWithZone,
            _ => bail!("{table}.{name} is of a type that the demo does not compare: {type_name}"),
        };
        Ok(Column { name, kind })
    };
    columns.into_iter().map(column).collect()
}

async fn source_rows(
    connection: &mut PgConnection,
    table: &str,
    columns: &[Column],
    key: &[&str],
) -> Result<Rows> {
    let expressions: Vec<String> = columns.iter().map(Column::expression).collect();
    let query = format!("select {} from {table} where not deleted", expressions.join(", "));
    let fetched = sqlx::query(AssertSqlSafe(query)).fetch_all(connection).await?;
    let mut rows = Rows::new();
    for row in &fetched {
        let values = columns.iter().enumerate();
        let values: Vec<Value> = values
            .map(|(place, column)| column.value(row, place))
            .collect::<Result<_, _>>()?;
        rows.insert(key_text(columns, key, &values), values);
    }
    Ok(rows)
}

fn store_rows(store: &Connection, table: &str, columns: &[Column], key: &[&str]) -> Result<Rows> {
    let kept: i64 = store.query_row("select count(*) from pragma_table_info(?1)", [table], |row| {
        row.get(0)
    })?;
    if usize::try_from(kept) != Ok(columns.len()) {
        bail!(
            "it has {kept} columns, and the source publishes {}",
            columns.len()
        );
    }
    let names: Vec<String> = columns.iter().map(Column::quoted).collect();
    let mut statement = store.prepare(&format!("select {} from {table}", names.join(", ")))?;
    let mut fetched = statement.query([])?;
    let mut rows = Rows::new();
    while let Some(row) = fetched.next()? {
        let values: Vec<Value> = (0..columns.len())
            .map(|place| row.get(place))
            .collect::<Result<_, _>>()?;
        rows.insert(key_text(columns, key, &values), values);
    }
    Ok(rows)
}

/// The key as the report tells it: `origin = JFK, time_hour = 2013-01-01T05:00:00.000000Z`.
fn key_text(columns: &[Column], key: &[&str], values: &[Value]) -> String {
    let named = columns.iter().zip(values);
    let parts: Vec<String> = named
        .filter(|(column, _)| key.contains(&column.name.as_str()))
        .map(|(column, value)| format!("{} = {}", column.name, text(value)))
        .collect();
    parts.join(", ")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => format!("{bytes:?}"),
    }
}

fn differences(table: &str, columns: &[Column], source: &Rows, mut copy: Rows) -> Vec<String> {
    let mut found = Vec::new();
    for (key, row) in source {
        match copy.remove(key) {
            None => found.push(format!("{table}: the store lacks the row {key}")),
            Some(copied) if copied != *row => {
                let differ = columns.iter().zip(row.iter().zip(&copied));
                let differ = differ.filter(|(_, (row, copied))| row != copied);
                let differ: Vec<String> = differ
                    .map(|(column, (row, copied))| {
                        format!("{} is {}, not {}", column.name, text(copied), text(row))
                    })
                    .collect();
                found.push(format!("{table}, {key}: in the store {}", differ.join(", ")));
            }
            Some(_) => {}
        }
    }
    found.extend(
        copy.keys()
            .map(|key| format!("{table}: the source has no row {key}")),
    );
    if found.len() > DIFFERENCES_TOLD_MAX {
        let untold = found.len() - DIFFERENCES_TOLD_MAX;
        found.truncate(DIFFERENCES_TOLD_MAX);
        found.push(format!("{table}: and {untold} more"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[(&str, i64)]) -> Rows {
        let row = |(key, value): &(&str, i64)| ((*key).to_owned(), vec![Value::Integer(*value)]);
        values.iter().map(row).collect()
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let columns = [Column {
            name: "seats".to_owned(),
            kind: Kind::Integer,
        }];
        let source = rows(&[("a", 1), ("b", 2), ("c", 3)]);
        let told = differences("planes", &columns, &source, rows(&[("a", 1), ("b", 5), ("d", 4)]));
        assert_eq!(
            told,
            [
                "planes, b: in the store seats is 5, not 2",
                "planes: the store lacks the row c",
                "planes: the source has no row d",
            ]
        );
        assert!(differences("planes", &columns, &source, source.clone()).is_empty());
    }
}
