//! What a pull delivers, and what it leaves out.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::rig::{Copy, Pull as _, Rig, run};

const PRODUCT: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 20) g";

#[tokio::test]
async fn a_first_pull_begins_with_a_reset_and_holds_every_live_row() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    rig.run("update product set deleted = true where id <= 5").await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    assert_eq!((copy.resets, copy.upserts, copy.deletes), (1, 15, 0));
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
}

#[tokio::test]
async fn only_what_changed_travels() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!(
        (copy.resets, copy.upserts, copy.deletes, copy.pages),
        (0, 0, 0, 1),
        "nothing changed"
    );

    rig.run("update product set name = 'new' where id = 1; insert into product values (21, 'p21')")
        .await;
    rig.run("update product set deleted = true where id = 2; delete from product where id = 3")
        .await;
    rig.run("update product set id = 104 where id = 4; update product set name = name where id = 5")
        .await;
    copy.pull(&rig.server, 0).await;
    assert_eq!((copy.resets, copy.upserts, copy.deletes), (0, 3, 3));
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
}

#[tokio::test]
async fn any_page_size_leads_to_the_same() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    for limit in [1, 2, 7, 20, 21] {
        let mut copy = Copy::default();
        copy.pull(&rig.server, limit).await;
        assert_eq!(
            copy.rows("product"),
            rig.source("product", "id").await,
            "limit {limit}"
        );
    }
}

#[tokio::test]
async fn pages_of_a_delta_go_on_where_they_ended() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    // In one transaction, so that equal ids meet the page boundary; and in several.
    rig.run("update product set name = 'a' where id <= 10; delete from product where id between 11 and 14")
        .await;
    for id in 15..=18 {
        rig.run(&format!("update product set name = 'b' where id = {id}"))
            .await;
    }
    copy.recount();
    copy.pull(&rig.server, 3).await;
    assert_eq!((copy.upserts, copy.deletes), (14, 4), "each once");
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
}

#[tokio::test]
async fn a_row_changed_during_a_pull_comes_later_in_it() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    assert!(copy.pull_page(&rig.server, 5).await);
    rig.run("update product set name = 'early' where id = 1; update product set name = 'late' where id = 20")
        .await;
    rig.run("delete from product where id = 2; delete from product where id = 19; insert into product values (0, 'zero')").await;
    copy.pull(&rig.server, 5).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    // 1 to 5, then 6 to 18; then what changed since, each once: 1, 20 and 0.
    assert_eq!(
        (copy.upserts, copy.deletes),
        (5 + 13 + 3, 2),
        "nothing ahead of its snapshot"
    );
}

#[tokio::test]
async fn an_open_writer_delays_its_own_rows_and_nobody_elses() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;

    let mut slow = rig.database.connect().await.unwrap();
    let mut open = slow.begin().await.unwrap();
    sqlx::query("update product set name = 'slow' where id = 1")
        .execute(&mut *open)
        .await
        .unwrap();
    rig.run("update product set name = 'quick' where id = 2").await;
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.upserts, 1);
    assert_eq!(copy.rows("product")[r#"{"id":2}"#]["name"], "quick");

    rig.run("update product set name = 'later' where id = 3").await;
    copy.pull(&rig.server, 0).await;
    open.commit().await.unwrap();
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.upserts, 1, "the late commit alone");
    assert_eq!(copy.rows("product")[r#"{"id":1}"#]["name"], "slow");
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
}

/// Each late commit is a range of its own, and may be more than a page holds.
#[tokio::test]
async fn late_commits_of_several_pages_come_whole() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut before = Copy::default();
    before.pull(&rig.server, 0).await;
    let mut writers = Vec::new();
    for late in [
        "update product set name = 'late' where id <= 5",
        "update product set name = 'later' where id between 6 and 10",
        "delete from product where id between 11 and 15",
    ] {
        let mut writer = rig.database.connect().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("begin; {late}")))
            .execute(&mut writer)
            .await
            .unwrap();
        writers.push(writer);
    }
    rig.run("update product set name = 'quick' where id = 20").await;
    before.pull(&rig.server, 0).await;
    before.recount();
    for mut writer in writers {
        sqlx::raw_sql("commit").execute(&mut writer).await.unwrap();
    }
    for rows_of_a_page in [1, 2, 5, 7] {
        let mut copy = before.clone();
        copy.pull(&rig.server, rows_of_a_page).await;
        assert_eq!(
            (copy.upserts, copy.deletes),
            (10, 5),
            "{rows_of_a_page} rows a page"
        );
        assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    }
}

#[tokio::test]
async fn savepoints_and_prepared_transactions_are_delivered() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run(
        "begin; savepoint a; update product set name = 'gone' where id = 1; rollback to a;
         savepoint b; update product set name = 'kept' where id = 2; release b; commit",
    )
    .await;
    rig.run("begin; delete from product where id = 3; prepare transaction 'p'")
        .await;
    copy.pull(&rig.server, 0).await;
    assert!(
        copy.rows("product").contains_key(r#"{"id":3}"#),
        "not committed yet"
    );
    rig.run("commit prepared 'p'").await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
}

#[tokio::test]
async fn several_entities_come_from_one_snapshot() {
    let rig = Rig::start(
        "create table orders (id int primary key); create table line (order_id int, place int, primary key (order_id, place))",
    )
    .await;
    rig.enable(&["line", "orders"]).await;
    let pool = rig.pool.clone();
    let writer = tokio::spawn(async move {
        for id in 0..150 {
            run(&pool, &format!("begin; insert into orders values ({id}); insert into line values ({id}, 1), ({id}, 2); commit")).await;
        }
    });
    let mut copy = Copy::default();
    loop {
        let last = writer.is_finished();
        copy.pull(&rig.server, 0).await;
        assert_eq!(
            copy.rows("orders").len() * 2,
            copy.rows("line").len(),
            "an order without its lines"
        );
        if last {
            break;
        }
    }
    writer.await.unwrap();
    assert_eq!(copy.rows("orders").len(), 150);
}

#[tokio::test]
async fn an_entity_that_joins_begins_anew_beside_the_others() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("create table shop (id int primary key); insert into shop values (1), (2)")
        .await;
    rig.enable(&["shop"]).await;
    rig.run("update product set name = 'n' where id = 1").await;
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!((copy.resets, copy.upserts), (1, 3));
    assert_eq!(copy.rows("shop"), rig.source("shop", "id").await);
}

#[tokio::test]
async fn a_key_that_lives_again_is_not_reported_as_gone() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("delete from product where id = 1; insert into product values (1, 'again')")
        .await;
    rig.run("delete from product where id = 2; insert into product (id, name, deleted) values (2, 'flagged', true)").await;
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.upserts, 1);
    assert_eq!(
        copy.deletes, 2,
        "key 2 alone: from its tombstone, since a flagged row is not live, and from its flag"
    );
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
}

#[tokio::test]
async fn a_pull_narrowed_to_one_entity_claims_no_other() {
    let rig = Rig::start(PRODUCT).await;
    rig.run("create table shop (id int primary key); insert into shop values (1)")
        .await;
    rig.enable(&["product", "shop"]).await;
    let all = rig.server.page("").await;
    rig.run("insert into shop values (2); update product set name = 'n' where id = 1")
        .await;
    let since = all["next"].as_str().unwrap();
    let one = rig.server.page(&format!("since={since}&entity=product")).await;
    assert_eq!(one["entities"], serde_json::json!(["product"]));
    assert_eq!(one["changes"].as_array().unwrap().len(), 1);
    let wide = rig
        .server
        .page(&format!("since={}", one["next"].as_str().unwrap()))
        .await;
    assert_eq!(
        wide["changes"][0]["reason"], "reset",
        "shop was not covered: {wide}"
    );
}

/// What a session's settings say must not show in a key that is remembered.
#[tokio::test]
async fn a_deleted_key_is_remembered_the_same_whatever_the_settings() {
    let rig = Rig::start(
        "create type span as (day date, what text);
         create table stay (days daterange, at timestamptz[], s span, cost money, primary key (days, at, s, cost));
         insert into stay values ('[2026-01-02,2026-03-04)', '{2026-01-02 03:04Z}', '(2026-01-02,x)', 1.5)",
    )
    .await;
    rig.enable(&["stay"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("set datestyle = 'SQL, DMY'; set timezone = 'Asia/Kolkata'; delete from stay; reset datestyle; reset timezone")
        .await;
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!((copy.deletes, copy.resets), (1, 0));
    assert!(copy.rows("stay").is_empty());
}

/// An index row has a limit, and the application's delete must not meet it.
#[tokio::test]
async fn a_row_with_a_long_key_can_be_deleted() {
    let rig = Rig::start(
        "create table long (a bytea, b text, primary key (a, b));
         insert into long select sha512(g::text::bytea) || decode(repeat('ab', 1200), 'hex'), repeat('k', 1200) || g from generate_series(1, 9) g",
    )
    .await;
    rig.enable(&["long"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run(
        "delete from long where b like '%7' or b like '%8'; update long set b = 'short' where b like '%9'",
    )
    .await;
    copy.pull(&rig.server, 1).await;
    assert_eq!(copy.rows("long"), rig.source("long", "a, b").await);
}

/// A label that a deleted key had is gone: the page says what to run, and after that all is well.
#[tokio::test]
async fn a_deleted_key_that_its_type_no_longer_knows_asks_for_a_touch() {
    let rig = Rig::start(
        "create type size as enum ('s', 'm'); create table shirt (size size primary key); insert into shirt values ('s'), ('m');
         create table product (id int primary key)",
    )
    .await;
    rig.enable(&["shirt", "product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run(
        "delete from shirt where size = 's'; alter type size rename value 's' to 'small'; insert into product values (1)",
    )
    .await;
    let since = copy.since.clone().unwrap();
    // When it is found, and then where it is named.
    for path in [
        format!("/changes?since={since}"),
        format!("/changes?entity=shirt&since={since}"),
    ] {
        let response = rig.server.get(&path).await;
        assert_eq!(response.status(), 503);
        assert!(response.text().await.unwrap().contains("highwater-server touch"));
    }
    // The others are served.
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    let page: Value = rig.server.get("/changes").await.json().await.unwrap();
    assert_eq!(page["entities"], serde_json::json!(["product"]));
    let mut connection = rig.database.connect().await.unwrap();
    highwater_server::admin::touch(&mut connection, "shirt")
        .await
        .unwrap();
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("shirt"), rig.source("shirt", "size").await);
}
