//! A database that is dumped, and restored elsewhere, by Postgres' own programs.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, ensure};

use crate::{Cluster, Result};

impl Cluster {
    /// What `pg_dump` makes of a database.
    pub fn dump(&self, database: &str) -> Result<Vec<u8>> {
        let dump = self
            .command("pg_dump")
            .args(["-d", &self.url(database)])
            .output()?;
        let said = String::from_utf8_lossy(&dump.stderr);
        ensure!(dump.status.success(), "pg_dump: {said}");
        Ok(dump.stdout)
    }

    /// Reads a dump into a database, which is made where it is missing.
    pub fn restore(&self, database: &str, dump: &[u8]) -> Result<()> {
        if database != "postgres" {
            let create = format!("create database \"{database}\"");
            self.read_in("postgres", create.as_bytes())?;
        }
        self.read_in(database, dump)
    }

    /// By `psql`, since its own commands (`\restrict` and the like) are no SQL.
    fn read_in(&self, database: &str, sql: &[u8]) -> Result<()> {
        let mut psql = self.command("psql");
        psql.args(["-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database)])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut psql = psql.spawn()?;
        let mut input = psql.stdin.take().context("psql reads")?;
        input.write_all(sql)?;
        drop(input);
        ensure!(psql.wait()?.success(), "psql failed on {database}");
        Ok(())
    }
}
