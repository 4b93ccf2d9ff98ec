//! Tests that a slow reader gets shorter pages and all of the rows, that one which stands still is cut off, and that
//! a connection which is lost meanwhile costs a page and nothing else.

use std::sync::Arc;
use std::time::Duration;

use highwater_testbed::Database;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;

use super::{Asked, Format, Opened, Output, PAGE_ROWS, PageRequest, Pieces, ReadError, Since, Takes};
use crate::admin::{self, EnableOptions};
use crate::caller::Caller;
use crate::cursor::Cursor;
use crate::database::Connection;
use crate::limit::{Limit, PageBounds, TransactionBounds};
use crate::node::Node;
use crate::samples::Samples;

/// What a reader takes between two chunks.
const PAUSE: Duration = Duration::from_millis(20);

fn request(since: Since) -> PageRequest {
    PageRequest {
        since,
        held: Vec::new(),
        takes: Takes::default(),
        entities: Asked::All,
        caller: Caller::anyone(),
        limit: PAGE_ROWS,
        bounds: PageBounds {
            time_max: 5 * PAUSE,
            ..PageBounds::default()
        },
        format: Format::Json,
    }
}

/// A page on its way to a reader that takes one chunk after the other.
async fn sent(node: &Arc<Node>, request: PageRequest) -> Pieces {
    let Opened::Page(page) = super::open(node, request).await.unwrap() else {
        panic!("this is a primary");
    };
    let (sender, chunks) = mpsc::channel(1);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let output = Output::new(Format::Json, sender, PageBounds::default().send_wait_max);
        page.send(&node, &Samples::default(), output).await;
    });
    chunks
}

/// Reads a page slowly.
async fn page(node: &Arc<Node>, since: Since) -> Value {
    let mut chunks = sent(node, request(since)).await;
    let mut body = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        body.extend_from_slice(chunk.unwrap().bytes());
        tokio::time::sleep(PAUSE).await;
    }
    serde_json::from_slice(&body).unwrap()
}

/// A database with 12 MB of products.
async fn products(name: &str) -> Database {
    let table = "create table product (id int primary key, name text);
        insert into product select g, repeat('x', 1000) from generate_series(1, 12000) g";
    enabled(name, table).await
}

async fn enabled(name: &str, table: &'static str) -> Database {
    let database = Database::create(name).await.unwrap();
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    admin::migrate(&mut connection).await.unwrap();
    sqlx::raw_sql(table).execute(&mut connection).await.unwrap();
    admin::enable(&mut connection, "product", &EnableOptions::default())
        .await
        .unwrap();
    database
}

#[tokio::test]
async fn a_slow_reader_gets_shorter_pages_and_every_row() {
    let database = products("slow").await;
    let node = Arc::new(Node::new(database.pool().await.unwrap()));
    let mut since = Since::Nothing;
    let (mut rows, mut pages) = (0, 0);
    loop {
        let page = page(&node, since).await;
        let changes = page["changes"].as_array().unwrap();
        rows += changes.iter().filter(|change| change["reason"].is_null()).count();
        pages += 1;
        if page["more"] == false {
            break;
        }
        let next = page["next"].as_str().unwrap();
        since = Since::Cursor(Box::new(Cursor::decode(next).unwrap()));
    }
    assert_eq!(rows, 12000);
    assert!(pages > 3, "12 MB in {pages} pages");
}

/// Nobody waits for it, least of all a connection to Postgres; and what it finds in the end is cut off.
#[tokio::test]
async fn a_reader_that_stands_still_is_cut_off() {
    let database = products("still").await;
    let node = Node::new(database.pool().await.unwrap());
    // In the middle of the rows, and where only the end is to come.
    for rows in [PAGE_ROWS, 300] {
        stand_still(&node, rows).await;
    }
}

async fn stand_still(node: &Node, limit: u64) {
    let request = PageRequest {
        limit,
        bounds: PageBounds {
            send_wait_max: PAUSE,
            ..PageBounds::default()
        },
        ..request(Since::Nothing)
    };
    let Opened::Page(page) = super::open(node, request).await.unwrap() else {
        panic!("this is a primary");
    };
    let (sender, mut chunks) = mpsc::channel(1);
    let output = Output::new(Format::Json, sender, PAUSE);
    let samples = Samples::default();
    let sent = page.send(node, &samples, output);
    let sent = tokio::time::timeout(Duration::from_secs(30), sent).await;
    sent.expect("the page has let go of its connection");
    assert!(chunks.recv().await.unwrap().is_ok());
    assert!(matches!(chunks.recv().await, Some(Err(ReadError::Abandoned))));
    assert!(chunks.recv().await.is_none());
}

/// Postgres may end a connection at any time, which says nothing of the tombstones that it was sending.
#[tokio::test]
async fn a_connection_that_is_lost_among_deletions_leaves_no_entity_out() {
    let database = enabled("lost", "create table product (id text primary key)").await;
    let node = Arc::new(Node::new(database.pool().await.unwrap()));
    let next = page(&node, Since::Nothing).await["next"]
        .as_str()
        .unwrap()
        .to_owned();
    let since = Since::Cursor(Box::new(Cursor::decode(&next).unwrap()));
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    // More than the buffers of a socket take.
    let deletions = "insert into product select repeat('x', 1000) || g from generate_series(1, 12000) g; delete from product";
    sqlx::raw_sql(deletions).execute(&mut connection).await.unwrap();
    let request = PageRequest {
        bounds: PageBounds::default(),
        ..request(since)
    };
    let mut chunks = sent(&node, request).await;
    assert!(chunks.recv().await.unwrap().is_ok());
    let others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    sqlx::raw_sql(others).execute(&mut connection).await.unwrap();
    let mut last = None;
    while let Some(chunk) = chunks.recv().await {
        last = Some(chunk);
    }
    assert!(matches!(last, Some(Err(ReadError::Postgres(_)))), "{last:?}");
    let whole = page(&node, Since::Nothing).await;
    assert_eq!(whole["entities"], serde_json::json!(["product"]));
}

/// Postgres ends the transaction then, and the page is one that may be asked for again.
#[tokio::test]
async fn a_transaction_that_stands_still_is_ended() {
    let database = Database::create("idle").await.unwrap();
    let pool = database.pool().await.unwrap();
    let bounds = TransactionBounds {
        idle_time_max: PAUSE,
        ..TransactionBounds::default()
    };
    let mut connection = Connection::acquire(&pool, bounds).await.unwrap();
    connection.begin(&[]).await.unwrap();
    let process: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(connection.get().unwrap())
        .await
        .unwrap();
    let ended = async {
        let there = "select exists (select from pg_stat_activity where pid = $1)";
        while sqlx::query_scalar(there)
            .bind(process)
            .fetch_one(&pool)
            .await
            .unwrap()
        {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), ended).await;
    ended.expect("Postgres ends it");
    let statement = sqlx::query("select 1").execute(connection.get().unwrap()).await;
    let error = ReadError::from(statement.unwrap_err());
    assert_eq!(error.limit(), Some(Limit::TransactionIdleTimeMax), "{error:?}");
}
