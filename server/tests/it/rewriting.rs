//! What is not MVCC-safe: truncate and DDL that rewrites a table.

use std::time::Duration;

use crate::rig::{Copy, Pull as _, Rig};

const PRODUCT: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 20) g";

/// Waits until some session waits for a lock.
async fn until_someone_waits(rig: &Rig) {
    let waiting = async {
        loop {
            let waits: bool = sqlx::query_scalar(
                "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())",
            )
            .fetch_one(&rig.pool)
            .await
            .unwrap();
            if waits {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(4), waiting)
        .await
        .expect("someone waits");
}

#[tokio::test]
async fn a_truncate_empties_the_copy() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("truncate product").await;
    rig.run("insert into product values (1, 'after')").await;
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!((copy.resets, copy.upserts), (1, 1));
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.resets, 0, "once seen, it is over");
}

#[tokio::test]
async fn a_truncate_in_the_middle_of_a_pull_loses_no_later_row() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    for limit in [3, 6] {
        let mut copy = Copy::default();
        assert!(copy.pull_page(&rig.server, limit).await);
        rig.run("truncate product").await;
        rig.run("insert into product select g, 'again' from generate_series(1, 20) g")
            .await;
        copy.pull(&rig.server, limit).await;
        assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    }
}

#[tokio::test]
async fn a_rewrite_and_a_truncate_under_way_are_waited_for() {
    let rewrites = [
        "alter table product alter column name type varchar(50) using name || '!'",
        "truncate product; insert into product values (7, 'seven')",
        "cluster product using product_pkey",
    ];
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    for (limit, rewrite) in (100..).zip(rewrites) {
        let mut copy = Copy::default();
        let mut ddl = rig.database.connect().await.unwrap();
        sqlx::raw_sql("begin").execute(&mut ddl).await.unwrap();
        sqlx::raw_sql(rewrite).execute(&mut ddl).await.unwrap();
        let (pulled, ()) = tokio::join!(
            async {
                // Another limit each time, or a page that was read before serves: none of its rows changes.
                copy.pull(&rig.server, limit).await;
                copy
            },
            async {
                until_someone_waits(&rig).await;
                sqlx::raw_sql("commit").execute(&mut ddl).await.unwrap();
            }
        );
        assert_eq!(
            pulled.rows("product"),
            rig.source("product", "id").await,
            "{rewrite}"
        );
        assert!(!pulled.rows("product").is_empty(), "{rewrite}");
    }
}

/// A page, or a look at all entities, locks tables in an order of its own.
#[tokio::test]
async fn who_alters_tables_in_another_order_is_not_ended_for_a_deadlock() {
    let rig = Rig::start(PRODUCT).await;
    rig.run("create table price (id int primary key)").await;
    rig.enable(&["product", "price"]).await;
    let mut ddl = rig.database.connect().await.unwrap();
    let begin = "begin; alter table price add column amount int";
    sqlx::raw_sql(begin).execute(&mut ddl).await.unwrap();
    let (page, ()) = tokio::join!(rig.server.get("/changes"), async {
        until_someone_waits(&rig).await;
        let rest = "alter table product add column weight int; commit";
        sqlx::raw_sql(rest).execute(&mut ddl).await.unwrap();
    });
    assert_eq!(page.status(), 200);
}

#[tokio::test]
async fn a_table_that_stays_locked_is_unavailable() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut ddl = rig.database.connect().await.unwrap();
    sqlx::raw_sql("begin; lock table product in access exclusive mode")
        .execute(&mut ddl)
        .await
        .unwrap();
    let response = rig.server.get("/changes").await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let problem: serde_json::Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "unavailable");
    sqlx::raw_sql("rollback").execute(&mut ddl).await.unwrap();
    assert_eq!(rig.server.get("/changes").await.status(), 200);
}

#[tokio::test]
async fn columns_that_come_and_go_keep_the_page_whole() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("alter table product add column price numeric default 9.5")
        .await;
    // No row was written, and every row has a new value.
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    rig.run("update product set price = 1 where id = 1").await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("product")[r#"{"id":1}"#]["price"], 1);
    rig.run("alter table product drop column name; update product set price = 2 where id = 2")
        .await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(
        copy.rows("product")[r#"{"id":2}"#],
        serde_json::json!({"id": 2, "price": 2})
    );
    // Another column, though nothing but its values says so.
    rig.run("alter table product drop column price; alter table product add column price numeric default 7")
        .await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    assert_eq!(copy.rows("product")[r#"{"id":2}"#]["price"], 7);
}

#[tokio::test]
async fn a_changed_key_is_served_again_once_enabled_again() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("alter table product rename column id to number").await;
    // The application goes on, whatever Highwater makes of it.
    rig.run("update product set name = 'n' where number = 1; delete from product where number = 2")
        .await;
    rig.run("update product set number = 99 where number = 3").await;
    let response = rig.server.get("/changes?entity=product").await;
    assert_eq!(response.status(), 503);
    assert!(response.text().await.unwrap().contains("highwater-server enable"));
    rig.enable(&["product"]).await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "number").await);
}

#[tokio::test]
async fn partitions_that_come_and_go_begin_the_entity_anew() {
    let rig = Rig::start(
        "create table part (id int, area text, primary key (id, area)) partition by list (area);
         create table part_a partition of part for values in ('a');
         create table part_b partition of part for values in ('b');
         insert into part select g, case g % 2 when 0 then 'a' else 'b' end from generate_series(1, 10) g",
    )
    .await;
    rig.enable(&["part"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 3).await;
    assert_eq!(copy.rows("part"), rig.source("part", "id, area").await);
    rig.run("update part set area = 'b' where id = 2; delete from part where id = 3")
        .await;
    copy.pull(&rig.server, 3).await;
    assert_eq!(copy.rows("part"), rig.source("part", "id, area").await);
    rig.run("truncate part_a").await;
    copy.pull(&rig.server, 3).await;
    assert_eq!(copy.rows("part"), rig.source("part", "id, area").await);
    rig.run("alter table part detach partition part_b").await;
    copy.pull(&rig.server, 3).await;
    assert!(copy.rows("part").is_empty());
    rig.run("alter table part attach partition part_b for values in ('b')")
        .await;
    copy.pull(&rig.server, 3).await;
    assert!(!copy.rows("part").is_empty());
    assert_eq!(copy.rows("part"), rig.source("part", "id, area").await);
}

#[tokio::test]
async fn an_entity_that_changes_in_the_middle_of_a_pull_begins_anew() {
    let table = |name: &str| {
        format!(
            "create table {name} (code text primary key, id int not null);
             insert into {name} select 'c' || g, g from generate_series(1, 20) g;"
        )
    };
    let rig = Rig::start(&format!("{} {}", table("product"), table("shop"))).await;
    rig.enable(&["product", "shop"]).await;
    // One in its middle, where the position is no key of its new kind, and one whose turn has
    // not come.
    let mut copy = Copy::default();
    assert!(copy.pull_page(&rig.server, 5).await);
    for table in ["product", "shop"] {
        rig.run(&format!(
            "alter table {table} drop constraint {table}_pkey, add primary key (id)"
        ))
        .await;
        rig.enable(&[table]).await;
    }
    copy.pull(&rig.server, 5).await;
    for table in ["product", "shop"] {
        assert_eq!(copy.rows(table), rig.source(table, "id").await);
    }
}

/// A deletion whose key is not where it was when the table was enabled is told too, and never fails for how other columns
/// print in the session that deletes.
#[tokio::test]
async fn rows_go_by_a_renamed_key_whatever_the_session_prints() {
    let rig = Rig::start(
        "create table sale (id int primary key, at timestamptz, took interval, bytes bytea);
         insert into sale select g, timestamptz '2026-06-01 10:00+00' + g * interval '1 day', interval '1 day', '\\x00' from generate_series(1, 30) g",
    )
    .await;
    rig.enable(&["sale"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("alter table sale rename id to number").await;
    for (set, number) in [
        ("datestyle = 'SQL, DMY'", 8),
        ("datestyle = 'SQL, MDY'", 20),
        ("datestyle = 'German'", 9),
        ("timezone = 'Asia/Kolkata'", 10),
        ("intervalstyle = 'iso_8601'", 11),
        ("bytea_output = 'escape'", 12),
    ] {
        rig.run(&format!(
            "begin; set local {set}; delete from sale where number = {number}; commit"
        ))
        .await;
    }
    let buried = "select array_agg(key[1]::int order by changed_xid) from highwater.tombstone";
    let buried: Vec<i32> = sqlx::query_scalar(buried).fetch_one(&rig.pool).await.unwrap();
    assert_eq!(buried, [8, 20, 9, 10, 11, 12]);
    rig.enable(&["sale"]).await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("sale"), rig.source("sale", "number").await);
}
