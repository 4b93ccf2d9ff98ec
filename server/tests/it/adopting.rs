//! Tables that know deletion and dates already: `--deleted-column`, and columns that are taken over.

use std::time::Duration;

use highwater_server::admin::{self, EnableOptions, PurgeOptions};
use serde_json::json;

use crate::rig::{Copy, Pull as _, Rig};

const NOTE: &str = "create table note (id int primary key, text text, deleted_at timestamptz);
    insert into note select g, 't' || g, case when g <= 2 then now() end from generate_series(1, 5) g";

async fn enable(rig: &Rig, table: &str, column: &str) -> Result<(), String> {
    let options = EnableOptions {
        deleted_column: Some(column.to_owned()),
        ..EnableOptions::default()
    };
    let mut connection = rig.database.connect().await.unwrap();
    admin::enable(&mut connection, table, &options)
        .await
        .map_err(|error| error.to_string())
}

async fn ids(rig: &Rig, copy: &mut Copy, entity: &str) -> Vec<i64> {
    copy.pull(&rig.server, 0).await;
    let mut ids: Vec<i64> = copy
        .rows(entity)
        .values()
        .map(|row| row["id"].as_i64().unwrap())
        .collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn the_flag_follows_the_applications_column() {
    let rig = Rig::start(NOTE).await;
    enable(&rig, "note", "deleted_at").await.unwrap();
    let mut copy = Copy::default();
    assert_eq!(
        ids(&rig, &mut copy, "note").await,
        [3, 4, 5],
        "what was deleted before"
    );
    rig.run(
        "update note set deleted_at = now() where id = 3; update note set deleted_at = null where id = 1;
             insert into note values (6, 'live', null), (7, 'never seen', now())",
    )
    .await;
    assert_eq!(ids(&rig, &mut copy, "note").await, [1, 4, 5, 6]);
    copy.recount();
    rig.run("update note set deleted_at = deleted_at, text = text")
        .await;
    copy.pull(&rig.server, 0).await;
    assert_eq!((copy.upserts, copy.deletes), (0, 0), "nothing changed");

    // The deletions that every entity knows work beside it, and enabling again leaves them alone.
    rig.run("update note set deleted = true where id = 4; delete from note where id = 5")
        .await;
    enable(&rig, "note", "deleted_at").await.unwrap();
    assert_eq!(ids(&rig, &mut copy, "note").await, [1, 6]);
    rig.run(
        "update note set deleted_at = now() where id = 4; update note set deleted_at = null where id = 4",
    )
    .await;
    assert_eq!(ids(&rig, &mut copy, "note").await, [1, 4, 6]);
    assert_eq!(copy.rows("note"), rig.source("note", "id").await);
}

#[tokio::test]
async fn a_flag_of_the_applications_own_is_followed_by_its_value() {
    let rig = Rig::start(
        "create table note (id int primary key, gone boolean not null default false, seen boolean);
         insert into note values (1, true), (2, false)",
    )
    .await;
    enable(&rig, "note", "gone").await.unwrap();
    let mut copy = Copy::default();
    assert_eq!(ids(&rig, &mut copy, "note").await, [2]);
    rig.run("update note set gone = not gone").await;
    assert_eq!(ids(&rig, &mut copy, "note").await, [1]);
}

#[tokio::test]
async fn partitions_follow_too() {
    let rig = Rig::start(
        "create table part (id int primary key, deleted_at timestamptz) partition by range (id);
         create table part_1 partition of part for values from (0) to (10);
         create table part_2 partition of part for values from (10) to (20);
         insert into part values (1, now()), (2, null), (11, now()), (12, null)",
    )
    .await;
    enable(&rig, "part", "deleted_at").await.unwrap();
    let mut copy = Copy::default();
    assert_eq!(ids(&rig, &mut copy, "part").await, [2, 12]);
    rig.run("update part_1 set deleted_at = now(); update part set deleted_at = null where id = 11; update part set id = 5 where id = 12")
        .await;
    assert_eq!(ids(&rig, &mut copy, "part").await, [5, 11]);
}

/// The application's writes go on; what is no longer true is not served.
#[tokio::test]
async fn a_followed_column_that_is_renamed_stops_the_entity_and_not_the_application() {
    let rig = Rig::start(NOTE).await;
    enable(&rig, "note", "deleted_at").await.unwrap();
    rig.run("alter table note rename column deleted_at to removed_at; update note set removed_at = now() where id = 3; insert into note values (8)")
        .await;
    let response = rig.server.get("/changes?entity=note").await;
    assert_eq!(response.status(), 503);
    assert!(response.text().await.unwrap().contains("deleted_at"));
    enable(&rig, "note", "removed_at").await.unwrap();
    let mut copy = Copy::default();
    assert_eq!(ids(&rig, &mut copy, "note").await, [4, 5, 8]);
}

#[tokio::test]
async fn a_column_that_cannot_say_is_refused() {
    let rig = Rig::start(
        "create table note (id int primary key, made timestamptz not null default now(), gone timestamptz generated always as (null) stored)",
    )
    .await;
    for (column, reason) in [
        ("made", "cannot say whether a row is deleted"),
        ("gone", "must not be generated"),
        ("deleted", "Highwater's own"),
        ("nosuch", "has no column"),
    ] {
        let said = enable(&rig, "note", column).await.unwrap_err();
        assert!(said.contains(reason), "{column}: {said}");
    }
}

#[tokio::test]
async fn columns_of_the_same_name_are_taken_over_with_what_they_hold() {
    let rig = Rig::start(
        "create table note (changed_date timestamptz default now(), id int primary key, deleted boolean);
         insert into note values ('2020-02-02 20:20:20.202020Z', 1, false), ('2021-01-01 00:00Z', 2, true)",
    )
    .await;
    rig.enable(&["note"]).await;
    let mut copy = Copy::default();
    assert_eq!(ids(&rig, &mut copy, "note").await, [1]);
    let page = rig.server.page("").await;
    assert_eq!(page["changes"][1]["changedDate"], "2020-02-02T20:20:20.202020Z");
    assert_eq!(
        page["changes"][1]["row"],
        json!({"id": 1}),
        "they are Highwater's now"
    );
    // An application that goes on writing them is no hindrance.
    rig.run("update note set changed_date = '2001-01-01', deleted = null; insert into note values (null, 3, null)")
        .await;
    assert_eq!(ids(&rig, &mut copy, "note").await, [1, 2, 3]);
    assert_eq!(copy.rows("note"), rig.source("note", "id").await);

    rig.run("create table gaps (id int primary key, changed_date timestamptz); insert into gaps values (1)")
        .await;
    let mut connection = rig.database.connect().await.unwrap();
    let said = admin::enable(&mut connection, "gaps", &EnableOptions::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("null in some rows") && said.contains("update public.gaps set changed_date"),
        "{said}"
    );
}

/// The purge of a few flagged rows does not read the table.
#[tokio::test]
async fn a_purge_finds_flagged_rows_by_their_index() {
    let rig = Rig::start(
        "create table product (id int primary key, name text); insert into product select g, 'p' from generate_series(1, 20000) g",
    )
    .await;
    rig.enable(&["product"]).await;
    rig.run("update product set deleted = true where id in (3, 9); analyze product")
        .await;
    let mut connection = rig.database.connect().await.unwrap();
    admin::purge(&mut connection, &PurgeOptions::older_than(Duration::ZERO))
        .await
        .unwrap();
    // What a session has counted is told when it ends.
    sqlx::Connection::close(connection).await.unwrap();
    let told = async {
        loop {
            let scans: i64 = sqlx::query_scalar(
                "select idx_scan from pg_stat_user_indexes where indexrelname = 'highwater_1_deleted'",
            )
            .fetch_one(&rig.pool)
            .await
            .unwrap();
            if scans > 0 {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told)
        .await
        .expect("the index is used");
}
