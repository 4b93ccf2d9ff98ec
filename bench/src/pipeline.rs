//! What one would make by hand instead: `psql` writes a table as CSV, `sqlite3` reads it in.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, OpenFlags};

use crate::program;
use crate::stage::{Database, Stage};

/// Both ends of the pipeline, for one table.
#[derive(Debug)]
pub(crate) struct Pipeline {
    copy: String,
    table: String,
    create: String,
}

impl Pipeline {
    /// For the same table as in `store`, which Highwater has made.
    pub(crate) fn like(store: &Path, table: &str) -> Result<Self> {
        let store = open(store)?;
        let query = "select sql from sqlite_schema where type = 'table' and name = ?1";
        let create: String = store.query_row(query, [table], |row| row.get(0))?;
        let mut columns = store.prepare("select name from pragma_table_info(?1)")?;
        let columns: Vec<String> = columns
            .query_map([table], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        Ok(Self {
            copy: format!(
                "copy (select {} from {table} where not deleted) to stdout (format csv)",
                columns.join(", ")
            ),
            table: table.to_owned(),
            create: without_strict(&create)?,
        })
    }

    /// Copies the whole table into a new store and returns the seconds that it took.
    pub(crate) async fn run(&self, stage: &Stage, database: &Database, expected_rows: u64) -> Result<f64> {
        let store = stage.store();
        let mut psql = stage.psql(database);
        psql.args(["-c", &self.copy]);
        let mut sqlite = Command::new("sqlite3");
        sqlite
            .args(["-batch", "-init", "/dev/null"])
            .arg(&store)
            .args(["pragma journal_mode = wal", "pragma synchronous = normal"])
            .arg(&self.create)
            .args([".mode csv", &format!(".import /dev/stdin {}", self.table)]);
        let seconds = program::piped(psql, sqlite).await?;
        // `.import` only mutters about rows that it cannot take.
        let rows = count(&store, &self.table)?;
        ensure!(
            rows == expected_rows,
            "sqlite3 has taken {rows} rows of {expected_rows}"
        );
        Stage::remove(&store)?;
        Ok(seconds)
    }
}

/// How many rows a table of a store has.
pub(crate) fn count(store: &Path, table: &str) -> Result<u64> {
    let count: i64 =
        open(store)?.query_row(&format!("select count(*) from {table}"), [], |row| row.get(0))?;
    Ok(u64::try_from(count)?)
}

/// Opens a store as any program would that reads it.
pub(crate) fn open(store: &Path) -> Result<Connection> {
    Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open {}", store.display()))
}

/// The same table without its strictness: for `.import` all is text, also what is missing, and a
/// strict column takes no empty text for a number.
fn without_strict(create: &str) -> Result<String> {
    let (columns, options) = create.rsplit_once(')').context("not the SQL of a table")?;
    let strict = options.trim().strip_prefix("strict");
    let others = strict.with_context(|| format!("a table of the store is not strict: {options}"))?;
    Ok(format!("{columns}) {}", others.trim_start_matches(',').trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_strictness_goes() {
        let same = |sql: &str| without_strict(sql).unwrap();
        assert_eq!(
            same("create table a (b integer primary key) strict"),
            "create table a (b integer primary key) "
        );
        assert_eq!(
            same("create table a (b text, primary key (b)) strict, without rowid"),
            "create table a (b text, primary key (b)) without rowid"
        );
        assert!(without_strict("create table a (b)").is_err());
    }
}
