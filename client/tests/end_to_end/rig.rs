//! A database with a server on it, the client as a program, and the comparison of both sides.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use highwater_server::ServeOptions;
use highwater_server::admin::{self, EnableOptions};
use highwater_server::auth::{AuthOptions, Authenticator};
use highwater_testbed::Database;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A database with entities, and a server on it.
pub(crate) struct Rig {
    pub(crate) pool: PgPool,
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
    shutdown: CancellationToken,
    // Last, so that it is dropped last.
    pub(crate) database: Database,
}

/// The values of a row as text, by the name of the column.
type Texts = BTreeMap<String, Option<String>>;

impl Rig {
    /// Starts with the tables that `sql` makes, all of them entities.
    pub(crate) async fn start(sql: &str, tables: &[&str]) -> Self {
        let database = Database::from_template("migrated", migrate);
        let rig = Self::on(database.await.unwrap()).await;
        run(&rig.pool, sql).await;
        for table in tables {
            rig.enable(table, EnableOptions::default()).await;
        }
        rig
    }

    /// Starts on a database that has the schema `highwater`.
    pub(crate) async fn on(database: Database) -> Self {
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_test_writer();
        let _ = log.try_init();
        // Writers have connections of their own; these are the server's and the test's.
        let pool = database.pool().await.unwrap();
        // A copy of the template is another database.
        let mut connection = database.connect().await.unwrap();
        admin::rebase(&mut connection, true).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let options = ServeOptions::default();
        tokio::spawn(highwater_server::serve(
            listener,
            pool.clone(),
            options,
            shutdown.clone(),
        ));
        let folder = TempDir::new().unwrap();
        Self {
            pool,
            address,
            folder,
            shutdown,
            database,
        }
    }

    /// Makes a table an entity, as the command does.
    pub(crate) async fn enable(&self, table: &str, options: EnableOptions) {
        let mut connection = self.database.connect().await.unwrap();
        admin::enable(&mut connection, table, &options)
            .await
            .unwrap_or_else(|error| panic!("{table}: {error}"));
    }

    /// Makes a table an entity, with a column as its scope.
    pub(crate) async fn enable_scoped(&self, table: &str, column: &str) {
        let options = EnableOptions {
            scope: Some(column.to_owned()),
            ..EnableOptions::default()
        };
        self.enable(table, options).await;
    }

    /// Another server on the same database, whose connections begin now.
    pub(crate) async fn serve_anew(&self) -> SocketAddr {
        self.serve_with(ServeOptions::default()).await
    }

    /// Another server on the same database.
    pub(crate) async fn serve_with(&self, options: ServeOptions) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = self.database.pool().await.unwrap();
        tokio::spawn(highwater_server::serve(
            listener,
            pool,
            options,
            self.shutdown.clone(),
        ));
        address
    }

    /// Another server on the same database, which asks its callers who they are. Returns its URL.
    pub(crate) async fn serve_asking(&self, callers: AuthOptions) -> String {
        let authenticator = Authenticator::open(callers).await.unwrap();
        let options = ServeOptions {
            authenticator: Some(Arc::new(authenticator)),
            ..ServeOptions::default()
        };
        format!("http://{}", self.serve_with(options).await)
    }

    /// The same, with the API keys of a file.
    pub(crate) async fn serve_keys(&self, file: &Path) -> String {
        self.serve_asking(AuthOptions {
            api_keys: Some(file.to_owned()),
            tokens: None,
        })
        .await
    }

    /// A path for a store.
    pub(crate) fn store(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The client's `pull` into a store.
    pub(crate) fn pull(&self, store: &Path, more: &[&str]) -> Command {
        let mut command = client("pull", store);
        command
            .args(["--quiet", "--server", &format!("http://{}", self.address)])
            .args(more);
        command
    }

    /// Pulls, and expects it to succeed.
    pub(crate) async fn pulled(&self, store: &Path, more: &[&str]) {
        let output = output(self.pull(store, more)).await;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Checks a store against the source, value for value.
    pub(crate) async fn assert_equal(&self, store: &Path, tables: &[&str], what: &str) {
        assert_equal(&self.pool, store, tables, what).await;
    }

    /// The address of the server.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Checks an entity of a store against the table of the source that it is made of.
    pub(crate) async fn assert_same(&self, store: &Path, table: &str, entity: &str, what: &str) {
        assert_same(&self.pool, store, table, entity, what).await;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Checks a store against a source, value for value.
pub(crate) async fn assert_equal(pool: &PgPool, store: &Path, tables: &[&str], what: &str) {
    for table in tables {
        assert_same(pool, store, table, table, what).await;
    }
}

async fn assert_same(pool: &PgPool, store: &Path, table: &str, entity: &str, what: &str) {
    let source = source(pool, table).await;
    let held = held(store, entity);
    let differ = source
        .iter()
        .filter(|(key, row)| held.get(*key) != Some(row))
        .take(3);
    let differ: Vec<_> = differ.map(|(key, row)| (key, row, held.get(key))).collect();
    let extra: Vec<_> = held
        .keys()
        .filter(|key| !source.contains_key(*key))
        .take(3)
        .collect();
    assert!(
        differ.is_empty() && extra.is_empty(),
        "{what}, {entity}: differ {differ:#?}, extra {extra:?}, {} of {} rows",
        held.len(),
        source.len()
    );
}

/// Gives a database the schema `highwater`.
pub(crate) async fn migrate(url: String) -> highwater_testbed::Result<()> {
    admin::migrate(&mut PgConnection::connect(&url).await?).await?;
    Ok(())
}

/// A server that reads this database, until it is told to stop. Returns its address.
pub(crate) async fn serve(database: &str, stop: &CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let pool = PgPool::connect(database).await.unwrap();
    tokio::spawn(highwater_server::serve(
        listener,
        pool,
        ServeOptions::default(),
        stop.clone(),
    ));
    url
}

/// The client's program.
pub(crate) fn client(command: &str, store: &Path) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_highwater"));
    for variable in [
        "HIGHWATER_STORE",
        "HIGHWATER_SERVER",
        "HIGHWATER_TOKEN",
        "HIGHWATER_DEVICE",
        "http_proxy",
        "RUST_LOG",
    ] {
        program.env_remove(variable);
    }
    program.arg(command).arg("--store").arg(store);
    program
}

/// Runs a command without holding up the server, which lives in this process.
pub(crate) async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// Runs statements.
pub(crate) async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// All live rows of a table, with every value as the store should hold it, as text.
async fn source(pool: &PgPool, table: &str) -> BTreeMap<String, Texts> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "select attname::text, format_type(atttypid, null) from pg_attribute
         where attrelid = $1::text::regclass and attnum > 0 and not attisdropped
           and attname not in ('changed_xid', 'deleted') order by attnum",
    )
    .bind(table)
    .fetch_all(pool)
    .await
    .unwrap();
    let value = |(name, kind): &(String, String)| match kind.as_str() {
        "boolean" => format!("'{name}', ({name}::int)::text"),
        "timestamp with time zone" => {
            format!("'{name}', to_char({name} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
        }
        _ => format!("'{name}', {name}::text"),
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    let sql = format!(
        "select json_build_object({})::text from {table} where not deleted",
        values.join(", ")
    );
    let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_all(pool)
        .await
        .unwrap();
    let key = key(pool, table).await;
    rows.iter()
        .map(|row| serde_json::from_str::<Texts>(row).unwrap())
        .map(|row| (keyed(&row, &key), row))
        .collect()
}

async fn key(pool: &PgPool, table: &str) -> Vec<String> {
    sqlx::query_scalar("select key_columns from highwater.entity where relation = $1::text::regclass")
        .bind(table)
        .fetch_one(pool)
        .await
        .unwrap()
}

fn keyed(row: &Texts, key: &[String]) -> String {
    key.iter()
        .map(|column| row[column].clone().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("|")
}

/// All rows of a store's table, every value as text.
fn held(store: &Path, table: &str) -> BTreeMap<String, Texts> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(store, flags).unwrap();
    let mut statement = connection.prepare(&format!("select * from \"{table}\"")).unwrap();
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let key: Vec<String> = connection
        .prepare(&format!(
            "select name from pragma_table_info('{table}') where pk > 0 order by pk"
        ))
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let rows = statement.query_map([], |row| {
        names
            .iter()
            .enumerate()
            .map(|(place, name)| {
                let text = match row.get_ref(place)? {
                    rusqlite::types::ValueRef::Null => None,
                    rusqlite::types::ValueRef::Integer(value) => Some(value.to_string()),
                    rusqlite::types::ValueRef::Real(value) => Some(value.to_string()),
                    rusqlite::types::ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                    rusqlite::types::ValueRef::Blob(_) => panic!("a blob in {name}"),
                };
                Ok((name.clone(), text))
            })
            .collect::<Result<Texts, rusqlite::Error>>()
    });
    rows.unwrap()
        .map(Result::unwrap)
        .map(|row| (keyed(&row, &key), row))
        .collect()
}
