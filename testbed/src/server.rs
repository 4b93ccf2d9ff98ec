//! The one Postgres that the tests of a binary share, and the databases that are made on it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use crate::{Cluster, Profile, Result, kernel};

/// Every database of ours begins so, then with the run's number.
const PREFIX: &str = "highwater_test_";
/// Postgres cuts longer names off, and two could become one.
const NAME_BYTES_MAX: usize = 63;
const ADMIN_CONNECTIONS_MAX: u32 = 3;
/// How long to wait for the server in places that cannot be async.
const ANSWER_SECONDS_MAX: u64 = 30;

static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();

/// The Postgres of this process: the one that `DATABASE_URL` names, else a [`Cluster`] of our own,
/// started at the first call.
pub fn shared_server() -> Result<&'static Server> {
    let started = SHARED.get_or_init(|| Server::start().map_err(|error| format!("{error:#}")));
    started.as_ref().map_err(|error| anyhow!("{error}"))
}

/// A running Postgres on which databases can be made.
#[derive(Debug)]
pub struct Server {
    cluster: Option<Cluster>,
    /// Any database of the server; its URL with another name in it is that other's URL.
    url: Url,
    /// For making and dropping databases only.
    admin: PgPool,
    /// The admin connections live on a runtime of their own, since a test's ends with the test.
    runtime: &'static Runtime,
    /// Postgres 15 and later copy a template's files when told to, which is faster for small ones.
    copies_files: bool,
    /// What tells the databases of this process from those of others.
    run: u32,
    made: AtomicU32,
}

impl Server {
    /// The cluster, where it is our own.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        let mut url = self.url.clone();
        url.set_path(database);
        url.into()
    }

    fn start() -> Result<Self> {
        let (cluster, url) = match std::env::var("DATABASE_URL") {
            Ok(url) if !url.is_empty() => (None, url),
            _ => {
                let cluster = Cluster::start(Profile::Fast)?;
                let url = cluster.url("postgres");
                (Some(cluster), url)
            }
        };
        // Never dropped: a runtime may not be dropped by async code, and an early return would do that.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let runtime: &'static Runtime = Box::leak(Box::new(runtime));
        let given = cluster.is_none();
        let run = rand::random();
        let url = Url::parse(&url).context("DATABASE_URL is not a URL")?;
        // The name is how other runs know that this one goes on.
        let options = PgConnectOptions::from_url(&url)?.application_name(&prefix(run));
        let (admin, version) = wait_for(runtime, connect(options, given))??;
        if given {
            kernel::at_exit(drop_the_rest);
        }
        let (made, copies_files) = (AtomicU32::new(0), version >= 150_000);
        Ok(Self {
            cluster,
            url,
            admin,
            runtime,
            copies_files,
            run,
            made,
        })
    }

    /// Makes a database whose name ends in `label`, as a copy of `template`, and returns its name.
    /// Only a copy of `template0` may have another encoding than its template.
    pub(crate) async fn create(
        &'static self,
        label: &str,
        template: &str,
        encoding: Option<&str>,
    ) -> Result<String> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let mut name = format!("{}{number}_", prefix(self.run));
        let plain = |letter: char| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_lowercase()
            } else {
                '_'
            }
        };
        name.extend(label.chars().map(plain));
        name.truncate(NAME_BYTES_MAX);
        let strategy = if self.copies_files {
            " strategy file_copy"
        } else {
            ""
        };
        // The locale C goes with every encoding.
        let encoding = encoding.map_or(String::new(), |encoding| {
            format!(" encoding '{encoding}' lc_collate 'C' lc_ctype 'C'")
        });
        let statement = format!("create database {name} template {template}{strategy}{encoding}");
        self.execute(statement)
            .await
            .with_context(|| format!("cannot make a database for {label}"))?;
        Ok(name)
    }

    /// Closes a template to all, so that it can be copied at any time.
    pub(crate) async fn seal(&'static self, name: &str) -> Result<()> {
        self.execute(format!("alter database {name} allow_connections false"))
            .await?;
        let connected =
            format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");
        self.execute(connected).await
    }

    /// Drops a database together with the connections to it.
    pub(crate) fn drop_database(&self, name: &str) {
        let statement = format!("drop database if exists {name} with (force)");
        let admin = self.admin.clone();
        // A database that cannot be dropped is left to the end of the cluster, or to the next run.
        let _ = wait_for(self.runtime, async move {
            sqlx::query(AssertSqlSafe(statement)).execute(&admin).await
        });
    }

    async fn execute(&'static self, statement: String) -> Result<()> {
        let task = async { sqlx::query(AssertSqlSafe(statement)).execute(&self.admin).await };
        self.runtime.spawn(task).await??;
        Ok(())
    }
}

fn prefix(run: u32) -> String {
    format!("{PREFIX}{run:08x}_")
}

/// Runs `task` on `runtime` and waits for it without being async.
fn wait_for<T: Send + 'static>(
    runtime: &Runtime,
    task: impl Future<Output = T> + Send + 'static,
) -> Result<T, mpsc::RecvTimeoutError> {
    let (reply, answer) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        // Nobody waits for an answer that is too late.
        let _ = reply.send(task.await);
    });
    answer.recv_timeout(Duration::from_secs(ANSWER_SECONDS_MAX))
}

/// Connects for good, and returns the version of the server as Postgres numbers it.
async fn connect(options: PgConnectOptions, given: bool) -> Result<(PgPool, i32)> {
    // A pool would try for long, and then not say why.
    let mut first = options.connect().await.context("cannot reach Postgres")?;
    let version = sqlx::query_scalar("select current_setting('server_version_num')::integer");
    let version = version.fetch_one(&mut first).await?;
    if given {
        sweep(&mut first).await?;
    }
    let pool = PgPoolOptions::new()
        .max_connections(ADMIN_CONNECTIONS_MAX)
        .min_connections(1);
    let admin = pool
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await?;
    first.close().await?;
    Ok((admin, version))
}

/// Drops what runs left on a given server that were killed: their connections are gone, their
/// databases are not.
async fn sweep(connection: &mut PgConnection) -> Result<()> {
    // Nothing but names that we ourselves give: the server is somebody's, and so are its databases.
    let left = "select datname::text from pg_database where datname ~ ('^' || $1 || '[0-9a-f]{8}_[0-9]+_[a-z0-9_]*$')
        and not exists (select from pg_stat_activity where application_name = left(datname, length($1) + 9))";
    let left: Vec<String> = sqlx::query_scalar(left)
        .bind(PREFIX)
        .fetch_all(&mut *connection)
        .await?;
    for name in left {
        // Another run may be sweeping too.
        let statement = format!("drop database if exists {name}");
        let _ = sqlx::query(AssertSqlSafe(statement))
            .execute(&mut *connection)
            .await;
    }
    Ok(())
}

/// Drops what this run has left on a given server when the process ends: templates, above all.
extern "C" fn drop_the_rest() {
    let Some(Ok(server)) = SHARED.get() else { return };
    let prefix = prefix(server.run);
    let admin = server.admin.clone();
    let left = wait_for(server.runtime, async move {
        let left = sqlx::query_scalar("select datname::text from pg_database where starts_with(datname, $1)");
        left.bind(prefix).fetch_all(&admin).await
    });
    for name in left.into_iter().flatten().flatten().collect::<Vec<String>>() {
        server.drop_database(&name);
    }
}
