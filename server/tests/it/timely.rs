//! What takes too long ends in time, in the server or in Postgres, and pages end where their bounds are.

use std::str::FromStr as _;
use std::time::Duration;

use highwater_server::ServeOptions;
use highwater_server::limit::{PageBounds, TransactionBounds};
use highwater_testbed::{Fault, Proxy};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection};

use crate::rig::{Copy, Pull as _, Rig, Served};

const SHORT: Duration = Duration::from_millis(400);

/// So short that nothing else ends before it.
const SHORTEST: PageBounds = PageBounds {
    bytes_max: 65_536,
    time_max: Duration::from_millis(100),
    send_wait_max: Duration::from_millis(100),
};

fn short_statements() -> ServeOptions {
    ServeOptions {
        page: SHORTEST,
        transaction: TransactionBounds {
            statement_time_max: SHORT,
            ..TransactionBounds::default()
        },
        ..ServeOptions::default()
    }
}

async fn served(sql: &str, options: ServeOptions) -> (Rig, Served) {
    let rig = Rig::start(sql).await;
    rig.enable(&["product"]).await;
    let server = Served::start_with(&rig.pool, options).await;
    (rig, server)
}

/// A table that stands still: whoever reads it waits.
async fn held(rig: &Rig) -> PgConnection {
    let mut holder = rig.database.connect().await.unwrap();
    let lock = "begin; lock table product in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    holder
}

async fn assert_refused(server: &Served, detail: &str) {
    let response = server.get("/changes").await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
}

#[tokio::test]
async fn a_request_whose_answer_does_not_begin_is_refused_in_time() {
    let options = ServeOptions {
        request_time_max: SHORT,
        ..ServeOptions::default()
    };
    let (rig, server) = served("create table product (id int primary key)", options).await;
    let holder = held(&rig).await;
    assert_refused(&server, "took too long to begin").await;
    server.until_reached("request_time_max", 1).await;
    // Whoever asks to be held is held, and gets as much time besides.
    holder.close().await.unwrap();
    let since = server.page("").await["next"].as_str().unwrap().to_owned();
    let page = server.page(&format!("since={since}&wait=1")).await;
    assert_eq!(page["more"], false);
}

/// Since Postgres 17 a role or a database may have one, which ends an answer wherever it is.
#[tokio::test]
async fn a_transaction_timeout_of_the_database_ends_no_page() {
    let table = "create table product (id int primary key, text text)";
    let (rig, _) = served(table, ServeOptions::default()).await;
    let version = "select current_setting('server_version_num')::int";
    let version: i32 = sqlx::query_scalar(version).fetch_one(&rig.pool).await.unwrap();
    if version < 170_000 {
        eprintln!("this Postgres has no transaction_timeout: it is left out");
        return;
    }
    let name = rig.database.name();
    rig.run(&format!(
        "alter database \"{name}\" set transaction_timeout = 1000"
    ))
    .await;
    let server = Served::start(&rig.database.pool().await.unwrap()).await;
    rig.run("insert into product select g, repeat(md5(g::text), 100) from generate_series(1, 20000) g")
        .await;
    // More than the buffers on its way hold, so that it stands still for as long as nobody reads.
    let page = server.get("/changes").await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let page: Value = page.json().await.unwrap();
    assert!(page["changes"].as_array().unwrap().len() > 1_000);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_ended_by_postgres() {
    let (rig, server) = served("create table product (id int primary key)", short_statements()).await;
    let holder = held(&rig).await;
    assert_refused(&server, "database is not available").await;
    server.until_reached("statement_time_max", 1).await;
    holder.close().await.unwrap();
    assert_eq!(server.get("/changes").await.status(), 200);
}

#[tokio::test]
async fn pages_end_at_the_rows_and_bytes_that_were_chosen() {
    let table = "create table product (id int primary key, name text);
        insert into product select g, repeat('x', 1000) from generate_series(1, 300) g";
    let rows = ServeOptions {
        page_rows_max: 120,
        ..ServeOptions::default()
    };
    let (rig, few_rows) = served(table, rows).await;
    let bytes = ServeOptions {
        page: PageBounds {
            bytes_max: 65_536,
            ..PageBounds::default()
        },
        ..ServeOptions::default()
    };
    let few_bytes = Served::start_with(&rig.pool, bytes).await;
    // The limit that is asked for is lowered, and one that is not asked for is no larger.
    for (server, limit, rows, reached) in [
        (&few_rows, 0, 120..=120, "page_rows_max"),
        (&few_rows, 200, 120..=120, "page_rows_max"),
        (&few_rows, 70, 70..=70, "page_rows_max"),
        (&few_bytes, 0, 50..=65, "page_bytes_max"),
    ] {
        let mut copy = Copy::default();
        assert!(copy.pull_page(server, limit).await);
        let first = copy.upserts;
        assert!(rows.contains(&first), "{reached}: {first} rows in the first page");
        copy.pull(server, limit).await;
        assert_eq!(copy.rows("product"), rig.source("product", "id").await);
        server.until_reached(reached, 2).await;
    }
}

#[tokio::test]
async fn options_that_contradict_each_other_are_refused_at_the_start() {
    // Without a Postgres: what is asked before is what matters here.
    let url = "postgres://nobody@127.0.0.1:1/x";
    for (contradictory, named) in [
        (&["--statement-time-max", "2m"][..], "--statement-time-max"),
        (&["--page-time-max", "90s"], "--page-time-max"),
        (
            &["--transaction-idle-time-max", "1m"],
            "--transaction-idle-time-max",
        ),
    ] {
        let always = ["serve", "--listen", "127.0.0.1:0", "--database-url", url];
        let mut serve = crate::program::program(&[&always[..], contradictory].concat());
        let output = tokio::task::spawn_blocking(move || serve.output().unwrap())
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(named) && said.contains("must be longer than"),
            "{said}"
        );
    }
}

/// One that is frozen, or out of reach, neither answers nor ends its connections, and all who wait depend on one look.
#[tokio::test]
async fn a_postgres_that_says_nothing_is_given_up() {
    let rig = Rig::start("create table product (id int primary key)").await;
    rig.enable(&["product"]).await;
    let postgres = PgConnectOptions::from_str(&rig.database.url()).unwrap();
    let address = format!("{}:{}", postgres.get_host(), postgres.get_port());
    let proxy = Proxy::before(address.parse().unwrap()).await.unwrap();
    let (host, port) = (proxy.address().ip().to_string(), proxy.address().port());
    let pool = PgPoolOptions::new()
        .connect_with(postgres.host(&host).port(port))
        .await
        .unwrap();
    let server = Served::start_with(&pool, short_statements()).await;
    let since = server.page("").await["next"].as_str().unwrap().to_owned();
    let failed = "highwater_watcher_looks_total{result=\"failed\"}";
    assert_eq!(server.metric(failed).await, Some(0.0));
    proxy.set(Fault::Hold);
    tokio::time::sleep(SHORT * 8).await;
    proxy.set(Fault::None);
    assert!(server.metric(failed).await.unwrap() >= 1.0);
    rig.run("insert into product values (1)").await;
    let page = server.page(&format!("since={since}&wait=30")).await;
    assert_eq!(page["changes"].as_array().unwrap().len(), 1);
}
