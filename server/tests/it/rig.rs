//! What the tests share: a migrated database with a server on it, and how a copy pulls from it.

use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use highwater_server::admin::{self, EnableOptions};
use highwater_server::auth::{AuthOptions, Authenticator};
use highwater_server::{Listeners, ServeOptions};
pub(crate) use highwater_testbed::Copy;
use highwater_testbed::{Cluster, Database, Profile, Rows, live_rows, until_told};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgExecutor, PgPool};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The table of [`cluster`].
const PRODUCT: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 20) g";

/// A database with the schema `highwater`, and a server on it.
pub(crate) struct Rig {
    pub(crate) pool: PgPool,
    pub(crate) server: Served,
    // Last, so that it is dropped last.
    pub(crate) database: Database,
}

/// A server in this process; it stops when this is dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    http: reqwest::Client,
    shutdown: CancellationToken,
}

/// A database with the schema `highwater` and nothing else.
pub(crate) async fn migrated() -> Database {
    let database = Database::from_template("migrated", |url| async move {
        admin::migrate(&mut PgConnection::connect(&url).await?).await?;
        Ok(())
    });
    let database = database.await.expect("a database");
    // A copy of the template is another database.
    let mut connection = database.connect().await.expect("a connection");
    admin::rebase(&mut connection, true)
        .await
        .expect("a source of its own");
    database
}

impl Rig {
    /// Starts with the tables that `sql` makes.
    pub(crate) async fn start(sql: &str) -> Self {
        let database = migrated().await;
        let pool = database.pool().await.expect("a pool");
        let server = Served::start(&pool).await;
        let rig = Self {
            pool,
            server,
            database,
        };
        rig.run(sql).await;
        rig
    }

    /// Runs statements.
    pub(crate) async fn run(&self, sql: &str) {
        run(&self.pool, sql).await;
    }

    /// Makes tables entities, as the command does.
    pub(crate) async fn enable(&self, tables: &[&str]) {
        self.enable_with(tables, &EnableOptions::default()).await;
    }

    /// Makes a table an entity, with a column as its scope.
    pub(crate) async fn enable_scoped(&self, table: &str, column: &str) {
        let options = EnableOptions {
            scope: Some(column.to_owned()),
            ..EnableOptions::default()
        };
        self.enable_with(&[table], &options).await;
    }

    /// All live rows of an entity as the source has them, by key.
    pub(crate) async fn source(&self, table: &str, key: &str) -> Rows {
        source(&self.pool, table, key).await
    }

    /// The date that a query tells, as the server writes dates.
    pub(crate) async fn date(&self, query: &str) -> String {
        let sql =
            format!("select to_char(({query}) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&self.pool)
            .await
            .expect("a date")
    }

    /// Attaches a partition with these rows (`insert into` it), whose ids are of another cluster: they lie above all that
    /// this one has given out.
    pub(crate) async fn attach_foreign(&self, table: &str, rows: &str, bound: &str) {
        let foreign = format!("{table}_foreign");
        self.run(&format!(
            "create table {foreign} (like {table} including all); insert into {foreign} {rows};
             update {foreign} set changed_xid = '77777777'; alter table {table} attach partition {foreign} for values {bound}"
        ))
        .await;
    }

    async fn enable_with(&self, tables: &[&str], options: &EnableOptions) {
        let mut connection = self.database.connect().await.expect("a connection");
        for table in tables {
            admin::enable(&mut connection, table, options)
                .await
                .unwrap_or_else(|error| panic!("{table}: {error}"));
        }
    }
}

impl Served {
    pub(crate) async fn start(pool: &PgPool) -> Self {
        Self::start_with(pool, ServeOptions::default()).await
    }

    pub(crate) async fn start_with(pool: &PgPool, options: ServeOptions) -> Self {
        Self::listen(pool, options, None).await
    }

    /// Starts a server that asks its callers who they are.
    pub(crate) async fn start_asking(pool: &PgPool, callers: AuthOptions, options: ServeOptions) -> Self {
        let authenticator = Authenticator::open(callers).await.expect("an authenticator");
        let options = ServeOptions {
            authenticator: Some(Arc::new(authenticator)),
            ..options
        };
        Self::start_with(pool, options).await
    }

    /// The same, with the API keys of a file.
    pub(crate) async fn start_keys(pool: &PgPool, file: &Path, options: ServeOptions) -> Self {
        let callers = AuthOptions {
            api_keys: Some(file.to_owned()),
            tokens: None,
        };
        Self::start_asking(pool, callers, options).await
    }

    /// Starts with metrics on an address of their own.
    pub(crate) async fn start_apart(pool: &PgPool) -> (Self, SocketAddr) {
        let metrics = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = metrics.local_addr().expect("an address");
        let server = Self::listen(pool, ServeOptions::default(), Some(metrics)).await;
        (server, address)
    }

    async fn listen(pool: &PgPool, options: ServeOptions, metrics: Option<TcpListener>) -> Self {
        // What the server logs shows with a test that fails.
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_test_writer();
        let _ = log.try_init();
        let callers = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = callers.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        tokio::spawn(highwater_server::serve(
            Listeners { callers, metrics },
            pool.clone(),
            options,
            shutdown.clone(),
        ));
        Self {
            address,
            // Tests look at bodies as they travel.
            http: reqwest::Client::builder().no_zstd().build().expect("a client"),
            shutdown,
        }
    }

    /// GETs a path with its query.
    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.get_as(path, "application/json").await
    }

    /// GETs a path in one form.
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> reqwest::Response {
        let url = format!("http://{}{path}", self.address);
        self.http
            .get(url)
            .header("accept", accept)
            .send()
            .await
            .expect("a response")
    }

    /// GETs a path and says who asks.
    pub(crate) async fn get_by(&self, path: &str, authorization: &str) -> reqwest::Response {
        let url = format!("http://{}{path}", self.address);
        let request = self.http.get(url).header("authorization", authorization);
        request.send().await.expect("a response")
    }

    /// What `/metrics` says of one series, written with its labels; `None` where it is not there.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let metrics = self.get("/metrics").await.text().await.expect("a body");
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.parse().expect("a number"))
    }

    /// GETs `/status` with a query.
    pub(crate) async fn status(&self, query: &str) -> Value {
        let response = self.get(&format!("/status?{query}")).await;
        assert_eq!(response.status(), 200);
        response.json().await.expect("JSON")
    }

    /// Waits until `/status` is so. The server looks once a second.
    pub(crate) async fn until_status(&self, holds: impl Fn(&Value) -> bool) -> Value {
        until_told(async || self.status("").await, holds).await
    }

    /// Waits until a limit was reached so often, by the server's own count.
    pub(crate) async fn until_reached(&self, limit: &str, times: u32) {
        let series = format!("highwater_limits_reached_total{{limit=\"{limit}\"}}");
        let counted = async {
            while self.metric(&series).await.expect("each limit is counted") < f64::from(times) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let counted = tokio::time::timeout(Duration::from_secs(30), counted).await;
        counted.unwrap_or_else(|_| panic!("{limit} was not reached {times} times"));
    }

    /// POSTs a body to a path, and says who asks where that is wanted.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: impl Into<reqwest::Body>,
        authorization: Option<&str>,
    ) -> reqwest::Response {
        let mut request = self
            .http
            .post(format!("http://{}{path}", self.address))
            .body(body);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        request.send().await.expect("a response")
    }

    /// GETs a page that must be there.
    pub(crate) async fn page(&self, query: &str) -> Value {
        let response = self.get(&format!("/changes?{query}")).await;
        let status = response.status();
        let body = response.text().await.expect("a body");
        assert_eq!(status, 200, "{query}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Pulls a copy from a server, as any client of the JSON form would.
pub(crate) trait Pull {
    /// Pulls until nothing more comes; `limit` 0 for the server's own.
    async fn pull(&mut self, server: &Served, limit: usize);

    /// Pulls one page, and tells whether more is to come.
    async fn pull_page(&mut self, server: &Served, limit: usize) -> bool;

    /// Pulls one page as a caller that takes keys of what was purged, and tells whether more is to come.
    async fn pull_page_with_keys(&mut self, server: &Served, limit: usize) -> bool;

    /// Pulls such pages until nothing more comes.
    async fn pull_with_keys(&mut self, server: &Served, limit: usize);
}

impl Pull for Copy {
    async fn pull(&mut self, server: &Served, limit: usize) {
        while self.pull_page(server, limit).await {}
    }

    async fn pull_page(&mut self, server: &Served, limit: usize) -> bool {
        let query = query(self, limit);
        self.apply(&server.page(&query).await)
    }

    async fn pull_page_with_keys(&mut self, server: &Served, limit: usize) -> bool {
        let query = format!("{}&purged=keys", query(self, limit));
        self.apply(&server.page(&query).await)
    }

    async fn pull_with_keys(&mut self, server: &Served, limit: usize) {
        while self.pull_page_with_keys(server, limit).await {}
    }
}

fn query(copy: &Copy, limit: usize) -> String {
    let since = copy.since.as_ref();
    let mut query = since.map_or(String::new(), |since| format!("since={since}&"));
    if limit > 0 {
        query.push_str(&format!("limit={limit}"));
    }
    query
}

/// A pool whose connections act as a role.
pub(crate) async fn acting_as(database: &Database, role: &str) -> PgPool {
    let options = PgConnectOptions::from_str(&database.url()).expect("a URL");
    let pool = PgPoolOptions::new().max_connections(4);
    pool.connect_with(options.options([("role", role)]))
        .await
        .expect("a pool")
}

/// Runs statements.
pub(crate) async fn run(executor: impl PgExecutor<'_>, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(executor)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// All live rows of a table, by key (`key` being SQL columns).
pub(crate) async fn source(pool: &PgPool, table: &str, key: &str) -> Rows {
    live_rows(pool, table, key).await.expect("rows")
}

/// A pool for a cluster of a test's own.
pub(crate) async fn pool(url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(6)
        .connect(url)
        .await
        .unwrap()
}

/// A cluster of a test's own, with an entity in its database `postgres`.
pub(crate) async fn cluster(settings: &[(&str, &str)]) -> (Cluster, PgPool) {
    let cluster = Cluster::start_with(Profile::Fast, settings).unwrap();
    let pool = pool(&cluster.url("postgres")).await;
    let mut connection = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    admin::migrate(&mut connection).await.unwrap();
    run(&pool, PRODUCT).await;
    admin::enable(&mut connection, "product", &EnableOptions::default())
        .await
        .unwrap();
    (cluster, pool)
}
