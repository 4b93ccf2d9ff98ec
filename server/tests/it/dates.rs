//! Dates as `since`, and the `lastSyncDate` that is safe to send next.

use sqlx::Connection as _;

use crate::rig::{Copy, Pull as _, Rig};

const PRODUCT: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 20) g";

/// Pulls until the date has caught up with the newest row: the server's samples must have passed
/// it first.
async fn pull_until_date_is_newest(rig: &Rig, copy: &mut Copy) {
    let newest = rig.date("select max(changed_date) from product").await;
    let wait = async {
        while copy.last_sync_date < newest {
            copy.pull(&rig.server, 0).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), wait)
        .await
        .expect("the date moves on");
    assert_eq!(copy.last_sync_date, newest);
}

#[tokio::test]
async fn the_epoch_means_everything() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let none = rig.server.page("").await;
    let epoch = rig.server.page("since=1970-01-01T00:00:00Z").await;
    assert_eq!(none["changes"], epoch["changes"]);
}

#[tokio::test]
async fn a_date_brings_what_changed_later() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    pull_until_date_is_newest(&rig, &mut copy).await;
    rig.run("update product set name = 'new' where id = 7; delete from product where id = 8")
        .await;
    rig.run("update product set deleted = true where id = 9").await;
    for limit in [100, 1] {
        let mut by_date = copy.clone();
        by_date.recount();
        by_date.since = Some(copy.last_sync_date.clone());
        by_date.pull(&rig.server, limit).await;
        assert_eq!(
            (by_date.upserts, by_date.deletes, by_date.resets),
            (1, 2, 0),
            "limit {limit}"
        );
        assert_eq!(by_date.rows("product"), rig.source("product", "id").await);
    }
}

#[tokio::test]
async fn a_date_does_not_pass_a_transaction_that_may_still_commit() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    pull_until_date_is_newest(&rig, &mut copy).await;

    let mut slow = rig.database.connect().await.unwrap();
    let mut open = slow.begin().await.unwrap();
    sqlx::query("update product set name = 'slow' where id = 1")
        .execute(&mut *open)
        .await
        .unwrap();
    for round in 0..5 {
        rig.run(&format!("update product set name = 'quick {round}' where id = 2"))
            .await;
        copy.since = Some(copy.last_sync_date.clone());
        copy.pull(&rig.server, 0).await;
    }
    open.commit().await.unwrap();
    copy.since = Some(copy.last_sync_date.clone());
    copy.pull(&rig.server, 0).await;
    assert_eq!(
        copy.rows("product"),
        rig.source("product", "id").await,
        "the late commit is in time"
    );
}

#[tokio::test]
async fn a_date_stays_what_was_sent_while_there_is_more() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let first = rig.server.page("limit=5").await;
    assert_eq!(first["more"], true);
    assert_eq!(first["lastSyncDate"], "1970-01-01T00:00:00Z");
    let date = "2001-02-03T04:05:06.000000Z";
    let dated = rig.server.page(&format!("limit=5&since={date}")).await;
    assert_eq!(dated["more"], true);
    assert_eq!(dated["lastSyncDate"], date);
}

#[tokio::test]
async fn a_date_from_before_the_entity_begins_anew() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let page = rig.server.page("since=2001-01-01T00:00:00%2B01:00").await;
    assert_eq!(page["changes"][0]["reason"], "reset");
    assert_eq!(page["changes"].as_array().unwrap().len(), 21);
}

#[tokio::test]
async fn a_date_set_by_hand_does_not_slip_past() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    pull_until_date_is_newest(&rig, &mut copy).await;
    rig.run("update product set name = 'x', changed_date = '2001-01-01' where id = 1")
        .await;
    rig.run("insert into product (id, name, changed_date) values (50, 'y', '2001-01-01')")
        .await;
    copy.since = Some(copy.last_sync_date.clone());
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.upserts, 2);
}

/// A sample can come between the two, and then only this order makes its date safe. The window is
/// too small to be met by chance, so this reads the functions themselves.
#[tokio::test]
async fn every_stamp_takes_the_id_before_the_clock() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let stamps = "select proname::text, prosrc from pg_proc
        where pronamespace = 'highwater'::regnamespace and prosrc like '%clock_timestamp()%'
          -- These write others.
          and proname not in ('write_stamp_insert', 'trigger_functions', 'add_triggers', 'add_columns')";
    let stamps: Vec<(String, String)> = sqlx::query_as(stamps).fetch_all(&rig.pool).await.unwrap();
    let names: Vec<&str> = stamps.iter().map(|(name, _)| name.as_str()).collect();
    assert!(
        ["bury_1", "enable", "note_truncate", "stamp_1", "stamp_insert"]
            .iter()
            .all(|name| names.contains(name)),
        "{names:?}"
    );
    for (name, source) in &stamps {
        for (clock, _) in source.match_indices("clock_timestamp()") {
            let before = &source[..clock];
            let ids = ["pg_current_xact_id()", "highwater.current_xid()"];
            let last = ids.iter().filter_map(|id| before.rfind(id)).max();
            // In a stamp nothing lies between the two.
            let near = if name.starts_with("stamp") {
                250
            } else {
                usize::MAX
            };
            assert!(
                last.is_some_and(|id| clock - id < near),
                "{name}: {}",
                &source[clock.saturating_sub(250)..]
            );
        }
    }
}

/// A date given by hand must not slip past a sample that cannot know of its row.
#[tokio::test]
async fn an_insert_keeps_no_date_of_its_own() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    rig.run(
        "insert into product (id, name, changed_date, changed_xid, deleted)
         select 100 + g, 'by hand', clock_timestamp() + g * interval '1 hour', '3', null from generate_series(-2, 2) g;
         insert into product (id, name, changed_date) values (200, 'early', now() - interval '20 milliseconds'), (201, 'null', null)",
    )
    .await;
    let odd: i64 = sqlx::query_scalar(
        "select count(*) from product where deleted or changed_xid < '10'
           or changed_date not between now() - interval '1 minute' and clock_timestamp()",
    )
    .fetch_one(&rig.pool)
    .await
    .unwrap();
    assert_eq!(odd, 0);
    let (early, null): (bool, bool) = sqlx::query_as(
        "select (select changed_date from product where id = 200) >= (select max(changed_date) from product where id < 200),
                (select changed_date from product where id = 201) >= (select changed_date from product where id = 200)",
    )
    .fetch_one(&rig.pool)
    .await
    .unwrap();
    assert!(early && null, "stamped by the clock, in the order of writing");
}

/// Rows come in the order of their keys, or of the transactions that changed them, and not of their dates.
#[tokio::test]
async fn the_newest_date_counts_wherever_it_stands() {
    let rig = Rig::start(
        "create table product (id int primary key, name text, changed_date timestamptz not null);
         insert into product values (1, 'a', '2026-01-02 10:00+00'), (2, 'b', '2026-01-03 10:00+00'),
            (3, 'c', '2026-01-01 10:00+00')",
    )
    .await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    pull_until_date_is_newest(&rig, &mut copy).await;
    assert_eq!(copy.last_sync_date, "2026-01-03T10:00:00.000000Z");
}
