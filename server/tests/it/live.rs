//! Long polls, and polls that find nothing new: what they wait for, and what they must not miss.

use std::time::{Duration, Instant};

use highwater_server::{ServeOptions, admin};
use serde_json::Value;

use crate::rig::{Copy, Pull as _, Rig, Served};

const TABLES: &str = "create table product (id int primary key, name text); create table price (id int primary key, amount int);
    insert into product select g, 'p' || g from generate_series(1, 20) g";

async fn rig() -> (Rig, String) {
    let rig = Rig::start(TABLES).await;
    rig.enable(&["product", "price"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    let since = copy.since.clone().unwrap();
    (rig, since)
}

/// A page that is waited for while `meanwhile` happens, and how long it took.
async fn held(rig: &Rig, query: &str, meanwhile: impl Future<Output = ()>) -> (Value, Duration) {
    let began = Instant::now();
    let (page, ()) = tokio::join!(
        async {
            let page = rig.server.page(query).await;
            (page, began.elapsed())
        },
        async {
            // Long enough for the caller to be held; where it is not yet, the test is only weaker.
            tokio::time::sleep(Duration::from_millis(300)).await;
            meanwhile.await;
        }
    );
    page
}

/// Transactions that the database has counted. A session tells what it has counted when it is idle
/// for a while, and when it ends.
async fn transactions(rig: &Rig) -> i64 {
    let count = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
    let mut connection = rig.database.connect().await.unwrap();
    let count = sqlx::query_scalar(count)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    count
}

fn changes(page: &Value) -> usize {
    page["changes"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_caller_that_waits_is_answered_with_the_change() {
    let (rig, since) = rig().await;
    let date = rig.date("select clock_timestamp()").await;
    for since in [date, since] {
        let query = format!("since={since}&wait=30");
        let (page, took) = held(
            &rig,
            &query,
            rig.run("update product set name = name || '.' where id = 7"),
        )
        .await;
        assert_eq!(changes(&page), 1, "{page}");
        assert_eq!(page["changes"][0]["key"]["id"], 7);
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}

#[tokio::test]
async fn a_wait_that_ends_gives_all_callers_the_same_fresh_cursor() {
    let (rig, since) = rig().await;
    let query = format!("since={since}&wait=1");
    let ((one, took), (other, _)) = tokio::join!(
        held(&rig, &query, std::future::ready(())),
        held(&rig, &query, std::future::ready(()))
    );
    assert_eq!(changes(&one), 0);
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert_eq!(one["next"], other["next"]);
    rig.run("insert into price values (1, 1)").await;
    let next = one["next"].as_str().unwrap();
    assert_eq!(changes(&rig.server.page(&format!("since={next}")).await), 1);
}

#[tokio::test]
async fn a_caller_is_not_woken_for_what_it_did_not_ask_for() {
    let (rig, since) = rig().await;
    let query = format!("since={since}&entity=product&wait=2");
    let (page, took) = held(&rig, &query, rig.run("insert into price values (1, 1)")).await;
    assert_eq!(changes(&page), 0, "{page}");
    assert!(took >= Duration::from_secs(2), "{took:?}");
    // And what is rolled back is no change.
    let query = format!("since={since}&entity=product&wait=1");
    let rolled_back = "begin; update product set name = 'gone'; rollback";
    let (page, took) = held(&rig, &query, rig.run(rolled_back)).await;
    assert_eq!(changes(&page), 0, "{page}");
    assert!(took >= Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_caller_that_waits_learns_of_every_kind_of_change() {
    let (rig, _) = rig().await;
    let kinds = [
        ("delete from product where id = 3", "deleted"),
        ("update product set deleted = true where id = 4", "deleted"),
        ("update product set id = 100 where id = 5", "deleted"),
        ("alter table product add column size int", "reset"),
        ("truncate product", "reset"),
        (
            "create table extra (id int primary key); select highwater.enable('extra')",
            "reset",
        ),
    ];
    for (change, reason) in kinds {
        let since = rig.server.page("").await["next"].as_str().unwrap().to_owned();
        let (page, took) = held(&rig, &format!("since={since}&wait=30"), rig.run(change)).await;
        assert_eq!(page["changes"][0]["reason"], reason, "{change}: {page}");
        assert!(took < Duration::from_secs(10), "{change}: {took:?}");
    }
    let since = rig.server.page("").await["next"].as_str().unwrap().to_owned();
    let mut connection = rig.database.connect().await.unwrap();
    let disable = async {
        admin::disable(&mut connection, "price", false).await.unwrap();
    };
    // Nobody is woken for it; who waits is told when that is over.
    let (page, _) = held(&rig, &format!("since={since}&wait=3"), disable).await;
    assert_eq!(
        page["entities"],
        serde_json::json!(["product", "extra"]),
        "{page}"
    );
}

/// A poll is answered from a look that was begun after it arrived.
#[tokio::test]
async fn who_commits_and_then_asks_finds_the_commit() {
    let (rig, mut since) = rig().await;
    for round in 0..100 {
        rig.run(&format!(
            "update product set name = 'r{round}' where id = {}",
            round % 20 + 1
        ))
        .await;
        let page = rig.server.page(&format!("since={since}")).await;
        assert_eq!(changes(&page), 1, "round {round}");
        page["next"].as_str().unwrap().clone_into(&mut since);
        let page = rig.server.page(&format!("since={since}")).await;
        assert_eq!(changes(&page), 0, "round {round}");
        // Of a cursor that was made by no page, but by a look.
        page["next"].as_str().unwrap().clone_into(&mut since);
    }
}

/// Callers that are up to date are answered without a statement of their own.
#[tokio::test]
async fn many_polls_with_nothing_new_begin_few_transactions() {
    let (rig, since) = rig().await;
    let before = transactions(&rig).await;
    let polls = (0..400).map(|_| {
        let query = format!("since={since}");
        let rig = &rig;
        async move { assert_eq!(changes(&rig.server.page(&query).await), 0) }
    });
    futures_util::future::join_all(polls).await;
    // What the looks began is told within a second or so; only too few could be counted here.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let begun = transactions(&rig).await - before;
    assert!(begun < 200, "{begun} transactions for 400 polls");
}

/// A page that is shared is not handed to whoever asks after the next change.
#[tokio::test]
async fn a_shared_page_is_never_an_old_one() {
    let (rig, since) = rig().await;
    for id in 1..=20 {
        rig.run(&format!("update product set name = 'x' where id = {id}"))
            .await;
        let page = rig.server.page(&format!("since={since}")).await;
        assert_eq!(changes(&page), id);
        let again = rig.server.page(&format!("since={since}")).await;
        assert_eq!(page["changes"], again["changes"]);
        let narrowed = rig.server.page(&format!("since={since}&limit=1")).await;
        assert_eq!(changes(&narrowed), 1, "another question");
    }
}

/// One change with many callers waiting is read once, or nearly.
#[tokio::test]
async fn callers_that_wait_together_share_a_page() {
    let (rig, since) = rig().await;
    let waiting = (0..300).map(|_| {
        let (server, query) = (&rig.server, format!("since={since}&wait=30"));
        async move { server.page(&query).await }
    });
    let (pages, before) = tokio::join!(futures_util::future::join_all(waiting), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = transactions(&rig).await;
        rig.run("update product set name = 'seen by all' where id = 7")
            .await;
        before
    });
    for page in pages {
        assert_eq!(changes(&page), 1, "{page}");
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let begun = transactions(&rig).await - before;
    assert!(begun < 150, "{begun} transactions for 300 callers");
}

/// Devices that begin at once share the pages of their first pulls, and each gets all rows.
#[tokio::test]
async fn first_pulls_that_begin_together_share_their_pages() {
    let (rig, _) = rig().await;
    rig.run("insert into product select g, repeat('x', 100) from generate_series(100, 3000) g")
        .await;
    let before = transactions(&rig).await;
    let pulls = (0..100).map(|_| {
        let server = &rig.server;
        async move {
            let mut copy = Copy::default();
            copy.pull(server, 1000).await;
            copy
        }
    });
    let copies = futures_util::future::join_all(pulls).await;
    let expected = rig.source("product", "id").await;
    for copy in &copies {
        assert_eq!(copy.rows("product"), expected);
        assert!(copy.pages > 3);
    }
    // What a session began is told within a second or so; only too few could be counted here.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let begun = transactions(&rig).await - before;
    assert!(begun < 200, "{begun} transactions for 100 first pulls of 4 pages");
}

/// Between two ticks Postgres is left alone, however long somebody waits.
#[tokio::test]
async fn with_a_longer_tick_postgres_is_asked_less() {
    let (mut rig, since) = rig().await;
    let options = ServeOptions {
        tick: Duration::from_secs(10),
        ..ServeOptions::default()
    };
    rig.server = Served::start_with(&rig.pool, options).await;
    // What the server before began is told within a second or so, and counts for nothing here.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = transactions(&rig).await;
    let page = rig.server.page(&format!("since={since}&wait=3")).await;
    assert_eq!(changes(&page), 0);
    let begun = transactions(&rig).await - before;
    assert!(begun < 25, "{begun} transactions in three seconds");
}

/// So they share what comes next, and it is read once.
#[tokio::test]
async fn all_who_lack_nothing_have_one_cursor_whatever_else_is_committed() {
    let (rig, since) = rig().await;
    rig.run("create table other (id int)").await;
    let mut cursors = Vec::new();
    for id in 0..20 {
        rig.run(&format!("insert into other values ({id})")).await;
        let last = cursors.last().unwrap_or(&since);
        for since in [since.clone(), last.clone()] {
            let page = rig.server.page(&format!("since={since}")).await;
            assert_eq!(changes(&page), 0);
            let next = page["next"].as_str().unwrap().to_owned();
            cursors.push(next);
        }
    }
    cursors.dedup();
    assert_eq!(cursors.len(), 1);
    rig.run("update product set name = 'new' where id = 7").await;
    let page = rig.server.page(&format!("since={}", cursors[0])).await;
    assert_eq!(changes(&page), 1);
    let since = page["next"].as_str().unwrap();
    assert_eq!(changes(&rig.server.page(&format!("since={since}")).await), 0);
}
