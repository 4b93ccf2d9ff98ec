//! The watcher at a real Postgres: whom it answers by one look, and what it does not take for granted.

use super::*;
use crate::admin::{self, EnableOptions};
use crate::caller::Caller;
use crate::cursor::{Cursor, Seen};
use crate::limit::PageBounds;
use crate::page::{Format, PageRequest, Since, Takes};
use crate::scope::Remembered;
use highwater_shared::Timestamp;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;

/// A watcher of a database with the entity `product` and a table that is none, `other`.
struct Watching {
    watcher: Arc<Watcher>,
    connection: PgConnection,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _database: highwater_testbed::Database,
}

impl Watching {
    async fn start() -> Self {
        let database = highwater_testbed::Database::create("watch").await.unwrap();
        let mut connection = database.connect().await.unwrap();
        admin::migrate(&mut connection).await.unwrap();
        let tables = "create table product (id int primary key); create table other (id int)";
        sqlx::raw_sql(tables).execute(&mut connection).await.unwrap();
        admin::enable(&mut connection, "product", &EnableOptions::default())
            .await
            .unwrap();
        let watcher = Arc::new(Watcher::default());
        let stop = CancellationToken::new();
        let task = {
            let (watcher, stop) = (Arc::clone(&watcher), stop.clone());
            let node = Node::new(database.pool().await.unwrap());
            tokio::spawn(async move { watcher.watch(&node, IDLE_TICK, stop).await })
        };
        Self {
            watcher,
            connection,
            stop,
            task,
            _database: database,
        }
    }

    async fn run(&mut self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut self.connection).await.unwrap();
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.connection.close().await.unwrap();
    }
}

/// What was known of the server before is not held against the one that answers now.
#[tokio::test]
async fn after_a_look_that_failed_nothing_is_taken_as_seen() {
    let mut watching = Watching::start().await;
    let changed = |view: &View| Arc::clone(&view.entities.first().unwrap().changed);
    let first = watching.watcher.fresh().await.unwrap();
    watching.run("insert into other values (1)").await;
    let second = watching.watcher.fresh().await.unwrap();
    assert_eq!(changed(&second), changed(&first), "nothing changed in the entity");

    watching
        .run(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await;
    let third = loop {
        if let Some(view) = watching.watcher.fresh().await {
            break view;
        }
    };
    assert_eq!(changed(&third).snapshot, third.moment.snapshot);
    watching.end().await;
}

/// A pooler keeps its clients' connections, whichever server is behind it.
#[tokio::test]
async fn when_another_source_answers_over_the_same_connection_nothing_is_taken_as_seen() {
    let mut watching = Watching::start().await;
    let first = watching.watcher.fresh().await.unwrap();
    watching
        .run("update highwater.source set own_id = gen_random_uuid()")
        .await;
    let second = watching.watcher.fresh().await.unwrap();
    assert_ne!(second.moment.source, first.moment.source);
    let changed = &second.entities.first().unwrap().changed;
    assert_eq!(changed.snapshot, second.moment.snapshot);
    watching.end().await;
}

#[tokio::test]
async fn callers_who_come_one_after_the_other_without_a_pause_share_one_look() {
    const CALLERS: u32 = 20;
    let watching = Watching::start().await;
    watching.watcher.fresh().await.unwrap();
    let before = watching.watcher.begun.load(Ordering::SeqCst);
    come(Arc::clone(&watching.watcher), CALLERS - 1).await.unwrap();
    assert_eq!(watching.watcher.begun.load(Ordering::SeqCst) - before, 1);
    watching.end().await;
}

#[tokio::test]
async fn who_asks_as_another_did_is_answered_the_same_and_with_the_date_of_now() {
    let mut watching = Watching::start().await;
    watching.run("insert into product values (1)").await;
    let view = watching.watcher.fresh().await.unwrap();
    let asks = |newest: i64| {
        let cursor = Cursor {
            newest: Timestamp::from_micros(newest),
            ..cursor(&view)
        };
        let request = PageRequest {
            since: Since::Cursor(Box::new(cursor)),
            held: Vec::new(),
            takes: Takes::default(),
            entities: Asked::All,
            caller: Caller::anyone(),
            limit: 1,
            bounds: PageBounds::default(),
            format: Format::Json,
        };
        let samples = &watching.watcher.samples;
        let answer = view.nothing_new(&request, &Limits::default(), samples);
        answer.unwrap().expect("nothing is new")
    };
    let answer = asks(0);
    assert!(Arc::ptr_eq(&answer, &asks(0)));
    let later = asks(1);
    assert_ne!(answer.body, later.body);
    let page: serde_json::Value = serde_json::from_slice(&later.body).unwrap();
    assert_eq!(page["lastSyncDate"], "1970-01-01T00:00:00.000001Z");
    watching.end().await;
}

/// One that has seen what a view shows.
fn cursor(view: &View) -> Cursor {
    Cursor {
        source: view.moment.source,
        scope: 0,
        scopes: Remembered::default(),
        wal: view.moment.stands_on(),
        seen: Seen::Snapshot(view.moment.snapshot.clone()),
        covered: view.entities().map(|entity| entity.covered).collect(),
        last_sync_date: Timestamp::EPOCH,
        newest: Timestamp::EPOCH,
        pull: None,
    }
}

/// Lets callers come, each before the one before it has been answered.
fn come(watcher: Arc<Watcher>, more: u32) -> JoinHandle<()> {
    tokio::spawn(async move {
        let next = more.checked_sub(1).map(|more| come(Arc::clone(&watcher), more));
        assert!(watcher.fresh().await.is_some());
        if let Some(next) = next {
            next.await.unwrap();
        }
    })
}
