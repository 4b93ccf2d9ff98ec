//! What every benchmark stands on: one Postgres, the built programs, a folder for stores, and the
//! sizes that were asked for.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use highwater_testbed::programs::{self, Programs};
use highwater_testbed::{Cluster, Profile, flights};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool};
use tempfile::TempDir;

use crate::data::Data;
use crate::program;

/// Connections that a benchmark itself may use at once.
const POOL_CONNECTIONS_MAX: u32 = 4;
/// Databases of benchmarks begin so, and go when the benchmark has ended.
const PREFIX: &str = "bench_";

/// How large and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Rows of generated tables.
    pub(crate) rows: u64,
    /// How often each pair is measured.
    pub(crate) pairs: usize,
    /// How long callers wait while nothing changes.
    pub(crate) hold: Duration,
    /// Whether this is only to see that everything works.
    pub(crate) quick: bool,
}

/// All that benchmarks share. What has been started ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) sizes: Sizes,
    pub(crate) programs: Programs,
    // Before the cluster, as stores are read by nobody then.
    folder: TempDir,
    cluster: Cluster,
    numbers: AtomicU64,
}

/// A database that a benchmark may change as it likes.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) pool: PgPool,
}

impl Sizes {
    /// The flights, or few of them.
    pub(crate) fn flights(self) -> Data {
        Data::Flights(if self.quick {
            flights::Months::January
        } else {
            flights::Months::All
        })
    }

    /// The generated table.
    pub(crate) fn items(self) -> Data {
        Data::Items { rows: self.rows }
    }

    /// How often to measure what takes milliseconds, and so is uneven.
    pub(crate) fn many(self) -> usize {
        self.pairs * 10
    }
}

impl Stage {
    /// Builds the programs, and starts a Postgres that flushes as one in production does.
    pub(crate) async fn set(sizes: Sizes) -> Result<Self> {
        // Both block, and Ctrl-C shall be heard meanwhile. As we were built ourselves: a release
        // measures releases.
        let build = || programs::build(!cfg!(debug_assertions));
        let programs = tokio::task::spawn_blocking(build).await??;
        let cluster = tokio::task::spawn_blocking(|| Cluster::start(Profile::Durable)).await??;
        let folder = tempfile::Builder::new().prefix("highwater-bench-").tempdir();
        let stage = Self {
            sizes,
            programs,
            folder: folder.context("cannot make a folder for the stores")?,
            cluster,
            numbers: AtomicU64::new(0),
        };
        stage.check_programs().await?;
        Ok(stage)
    }

    /// A database with `data` in it, and nothing of Highwater's.
    pub(crate) async fn database(&self, data: Data) -> Result<Database> {
        let template = data.template();
        let exists = sqlx::query_scalar("select exists (select from pg_database where datname = $1)");
        let mut admin = self.admin().await?;
        let exists: bool = exists.bind(&template).fetch_one(&mut admin).await?;
        if !exists {
            execute(&mut admin, format!("create database {template}")).await?;
            let pool = self.pool(&template).await?;
            data.load(&pool).await?;
            pool.close().await;
        }
        let name = format!("{PREFIX}{}", self.number());
        // Postgres 15 and later write every page of a copy to the log, unless they are told not to.
        let version = sqlx::query_scalar("select current_setting('server_version_num')::integer");
        let version: i32 = version.fetch_one(&mut admin).await?;
        let strategy = if version >= 150_000 {
            "strategy file_copy"
        } else {
            ""
        };
        execute(
            &mut admin,
            format!("create database {name} template {template} {strategy}"),
        )
        .await?;
        admin.close().await?;
        Ok(Database {
            url: self.cluster.url(&name),
            pool: self.pool(&name).await?,
        })
    }

    /// A standby of this Postgres, which ends when it is dropped, and a database as it is there.
    pub(crate) async fn standby(&self, database: &Database) -> Result<(Cluster, Database)> {
        let standby = tokio::task::block_in_place(|| self.cluster.start_standby(Profile::Durable, &[]))?;
        let url = standby.url(database.name()?);
        let pool = PgPoolOptions::new().max_connections(POOL_CONNECTIONS_MAX);
        let pool = pool.connect(&url).await?;
        Ok((standby, Database { url, pool }))
    }

    /// What `pg_dump` makes of a database.
    pub(crate) fn dump(&self, database: &Database) -> Result<Vec<u8>> {
        tokio::task::block_in_place(|| self.cluster.dump(database.name()?))
    }

    /// A database that is restored from a dump.
    pub(crate) async fn restore(&self, dump: &[u8]) -> Result<Database> {
        let name = format!("{PREFIX}{}", self.number());
        tokio::task::block_in_place(|| self.cluster.restore(&name, dump))?;
        Ok(Database {
            url: self.cluster.url(&name),
            pool: self.pool(&name).await?,
        })
    }

    /// A path for a store that is not there yet.
    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join(format!("{}.db", self.number()))
    }

    /// Removes a store, so that the disk is not busy with it while something else is measured.
    pub(crate) fn remove(store: &Path) -> Result<()> {
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let mut file = store.as_os_str().to_owned();
            file.push(suffix);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the databases and stores of a benchmark that has ended.
    pub(crate) async fn clear(&self) -> Result<()> {
        let mut admin = self.admin().await?;
        let left = sqlx::query_scalar("select datname::text from pg_database where starts_with(datname, $1)");
        let left: Vec<String> = left.bind(PREFIX).fetch_all(&mut admin).await?;
        for name in left {
            execute(&mut admin, format!("drop database {name} with (force)")).await?;
        }
        for entry in fs::read_dir(self.folder.path())? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// `psql` on a database, with nothing of the environment's and no file of the user's.
    pub(crate) fn psql(&self, database: &Database) -> Command {
        let mut command = self.cluster.command("psql");
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &database.url]);
        command
    }

    /// A setting of Postgres'.
    pub(crate) async fn setting(&self, name: &str) -> Result<String> {
        let setting = sqlx::query_scalar("select current_setting($1)").bind(name);
        Ok(setting.fetch_one(&mut self.admin().await?).await?)
    }

    /// Changes settings of the whole Postgres; `None` sets one back to what it was.
    pub(crate) async fn configure(&self, settings: &[(&str, Option<&str>)]) -> Result<()> {
        let mut admin = self.admin().await?;
        for (name, value) in settings {
            let change = match value {
                Some(value) => format!("set {name} = '{value}'"),
                None => format!("reset {name}"),
            };
            execute(&mut admin, format!("alter system {change}")).await?;
        }
        execute(&mut admin, "select pg_reload_conf()".to_owned()).await
    }

    /// The file that Postgres logs to.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.cluster.log_file()
    }

    /// A connection to no database of a benchmark's.
    pub(crate) async fn admin(&self) -> Result<PgConnection> {
        let options: PgConnectOptions = self.cluster.url("postgres").parse()?;
        Ok(options.connect().await?)
    }

    /// Finds out now, and not after minutes, that a program is missing.
    async fn check_programs(&self) -> Result<()> {
        let psql = self.cluster.bin_dir().join("psql");
        ensure!(
            psql.is_file(),
            "the Postgres that was found has no psql; install its client programs"
        );
        for (program, argument) in [("sqlite3", "-version"), ("curl", "--version")] {
            let mut command = Command::new(program);
            command.arg(argument);
            let found = program::timed(command).await;
            found.with_context(|| {
                format!("benchmarks need the program {program} (on Debian: apt-get install {program})")
            })?;
        }
        Ok(())
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    async fn pool(&self, name: &str) -> Result<PgPool> {
        let pool = PgPoolOptions::new().max_connections(POOL_CONNECTIONS_MAX);
        Ok(pool.connect(&self.cluster.url(name)).await?)
    }
}

impl Database {
    fn name(&self) -> Result<&str> {
        let (_, name) = self.url.rsplit_once('/').context("a database has a name")?;
        Ok(name)
    }

    /// Runs statements that return nothing.
    pub(crate) async fn run(&self, sql: impl Into<String>) -> Result<()> {
        sqlx::raw_sql(AssertSqlSafe(sql.into()))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Runs a statement and returns how many rows it concerned.
    pub(crate) async fn rows_of(&self, sql: impl Into<String>) -> Result<u64> {
        let done = sqlx::query(AssertSqlSafe(sql.into())).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> Result<u64> {
        let count = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {table}")));
        let count: i64 = count.fetch_one(&self.pool).await?;
        Ok(u64::try_from(count)?)
    }

    /// Takes an id for a transaction, as any write does: pulls that begin before and after it have
    /// other cursors, and so do not share pages, which a server keeps for those who ask the same.
    pub(crate) async fn advance(&self) -> Result<()> {
        self.run("select pg_current_xact_id()").await
    }

    /// Puts a table in order and its changes on disk, so that none of that happens while something
    /// is measured.
    pub(crate) async fn settle(&self, table: &str) -> Result<()> {
        // A vacuum cannot run in the transaction that several statements at once would share.
        self.run(format!("vacuum (analyze) {table}")).await?;
        self.run("checkpoint").await
    }
}

async fn execute(connection: &mut PgConnection, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}
