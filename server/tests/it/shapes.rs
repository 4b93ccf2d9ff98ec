//! Tables that are not what they were, or that came from elsewhere: no row is lost for it, and what cannot be
//! followed is left out and said.

use highwater_server::admin::{self, EnableOptions};
use serde_json::Value;

use crate::rig::{Copy, Pull as _, Rig};

/// Pulls in pages of two rows, and expects what the source has.
async fn pulled(rig: &Rig, copy: &mut Copy, entity: &str) {
    copy.pull(&rig.server, 2).await;
    assert_eq!(copy.rows(entity), rig.source(entity, "id").await, "{entity}");
}

/// Why an entity is not served, as a caller hears it who names it.
async fn fault(rig: &Rig, entity: &str) -> String {
    let response = rig.server.get(&format!("/changes?entity={entity}")).await;
    assert_eq!(response.status(), 503, "{entity}");
    let problem: Value = response.json().await.unwrap();
    problem["detail"].as_str().unwrap().to_owned()
}

async fn refusal(rig: &Rig, table: &str, options: &EnableOptions) -> String {
    let mut connection = rig.database.connect().await.unwrap();
    let refused = admin::enable(&mut connection, table, options).await;
    refused.expect_err(table).to_string()
}

/// They lie above all that this cluster has given out, and a pull of several pages would take them for later.
#[tokio::test]
async fn ids_of_another_cluster_cost_no_row() {
    let rig = Rig::start(
        "create table product (id int primary key, name text, changed_xid xid8 not null);
         insert into product select g, 'p', '99999999' from generate_series(1, 9) g;
         create table part (id int not null, k int not null, name text, primary key (id, k)) partition by list (k);
         create table part_1 partition of part for values in (1); insert into part values (1, 1), (2, 1), (3, 1)",
    )
    .await;
    let mut connection = rig.database.connect().await.unwrap();
    let options = EnableOptions::default();
    let plan = admin::plan_enable(&mut connection, "product", &options)
        .await
        .unwrap();
    assert!(
        plan.contains("drop column changed_xid") && plan.contains("add column changed_xid"),
        "{plan}"
    );
    rig.enable(&["product", "part"]).await;
    let mut copy = Copy::default();
    pulled(&rig, &mut copy, "product").await;
    rig.run("update product set name = 'n' where id = 9").await;
    pulled(&rig, &mut copy, "product").await;

    rig.attach_foreign(
        "part",
        "(id, k) select g, 2 from generate_series(11, 16) g",
        "in (2)",
    )
    .await;
    copy.pull(&rig.server, 2).await;
    assert_eq!(copy.rows("part").len(), 9);
    // They come once, and again where they change.
    for (change, rows) in [
        ("select pg_current_xact_id()", 0),
        ("update part set name = 'n' where id = 12", 1),
        ("select pg_current_xact_id()", 0),
    ] {
        rig.run(change).await;
        copy.recount();
        copy.pull(&rig.server, 2).await;
        assert_eq!((copy.upserts, copy.resets), (rows, 0), "{change}");
    }
    assert_eq!(copy.rows("part"), rig.source("part", "id, k").await);
}

#[tokio::test]
async fn a_generated_column_follows_what_is_hidden() {
    let rig = Rig::start(
        "create table product (id int primary key, secret int, twice int generated always as (secret * 2) stored);
         insert into product values (1, 1)",
    )
    .await;
    let hidden = EnableOptions {
        exclude: Some(vec!["secret".to_owned()]),
        ..EnableOptions::default()
    };
    let mut connection = rig.database.connect().await.unwrap();
    admin::enable(&mut connection, "product", &hidden).await.unwrap();
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("update product set secret = 50").await;
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.upserts, 1);
}

#[tokio::test]
async fn a_generated_column_that_becomes_a_plain_one_waits_for_enable() {
    let rig = Rig::start(
        "create table product (id int primary key, x int, g int generated always as (x * 2) stored);
         insert into product (id, x) values (1, 1)",
    )
    .await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    pulled(&rig, &mut copy, "product").await;
    rig.run("alter table product alter g drop expression; update product set g = 99")
        .await;
    assert!(fault(&rig, "product").await.contains("enable"));
    rig.enable(&["product"]).await;
    rig.run("update product set g = 100").await;
    pulled(&rig, &mut copy, "product").await;
}

#[tokio::test]
async fn a_truncate_of_a_partition_that_was_another_entitys_is_seen() {
    let rig = Rig::start(
        "create table one (id int, k int, primary key (id, k)) partition by list (k);
         create table leaf partition of one for values in (1); insert into one values (1, 1), (2, 1);
         create table other (like one, primary key (id, k)) partition by list (k)",
    )
    .await;
    rig.enable(&["one", "other"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run(
        "alter table one detach partition leaf; alter table other attach partition leaf for values in (1)",
    )
    .await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("other").len(), 2);
    rig.run("truncate leaf").await;
    copy.pull(&rig.server, 0).await;
    assert!(copy.rows("other").is_empty());
}

#[tokio::test]
async fn a_scope_column_of_the_same_name_is_another() {
    let rig =
        Rig::start("create table product (id int primary key, shop int); insert into product values (1, 1)")
            .await;
    let hidden = EnableOptions {
        scope: Some("shop".to_owned()),
        exclude: Some(vec!["shop".to_owned()]),
        ..EnableOptions::default()
    };
    let mut connection = rig.database.connect().await.unwrap();
    admin::enable(&mut connection, "product", &hidden).await.unwrap();
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("alter table product drop shop, add shop int default 7")
        .await;
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.resets, 1, "whoever saw the old scope may see other rows now");
}

#[tokio::test]
async fn what_cannot_be_followed_any_more_is_left_out_and_said() {
    let rig = Rig::start(
        "create table heir (id int primary key); create table unlogged (id int primary key);
         create table alike (id int primary key, name text); create table gone (id int primary key);
         create table fine (id int primary key); insert into fine values (1)",
    )
    .await;
    let tables = ["heir", "unlogged", "alike", "gone", "fine"];
    rig.enable(&tables).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run(
        "create table child () inherits (heir); alter table unlogged set unlogged; alter table alike add column \"NAME\" text;
         drop table gone; insert into fine values (2)",
    )
    .await;
    pulled(&rig, &mut copy, "fine").await;
    for (entity, says) in [
        ("heir", "inherit"),
        ("unlogged", "set logged"),
        ("alike", "only by case"),
        ("gone", "was dropped"),
    ] {
        let fault = fault(&rig, entity).await;
        assert!(fault.contains(says), "{entity}: {fault}");
    }
    let list: Value = rig.server.get("/entities").await.json().await.unwrap();
    let list = list["entities"].as_array().unwrap().iter();
    let described: Vec<&Value> = list.map(|entity| &entity["name"]).collect();
    assert_eq!(
        described,
        ["alike", "fine", "heir", "unlogged"],
        "of what is no more nothing is described"
    );
    rig.run("drop table child").await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(rig.server.get("/changes?entity=heir").await.status(), 200);
}

#[tokio::test]
async fn tables_that_no_store_or_statement_can_hold_are_refused() {
    let rig = Rig::start(
        "create table dated (id int primary key, \"Changed_Date\" text); create table listed (id int primary key, shops int[]);
         create table pragma_table_info (id int primary key)",
    )
    .await;
    let plain = EnableOptions::default();
    assert!(refusal(&rig, "dated", &plain).await.contains("only by case"));
    assert!(
        refusal(&rig, "pragma_table_info", &plain)
            .await
            .contains("reserved")
    );
    let scoped = EnableOptions {
        scope: Some("shops".to_owned()),
        ..EnableOptions::default()
    };
    assert!(refusal(&rig, "listed", &scoped).await.contains("array"));
    let has_ltree = "select exists (select from pg_available_extensions where name = 'ltree')";
    let has_ltree: bool = sqlx::query_scalar(has_ltree).fetch_one(&rig.pool).await.unwrap();
    if has_ltree {
        rig.run("create extension ltree; create table tree (path ltree primary key)")
            .await;
        assert!(refusal(&rig, "tree", &plain).await.contains("extension"));
    }
}

#[tokio::test]
async fn settings_of_the_database_do_not_show() {
    let rig = Rig::start("create table product (id text[] primary key, of regclass)").await;
    rig.run(&format!(
        "alter database \"{0}\" set array_nulls = off; alter database \"{0}\" set quote_all_identifiers = on",
        rig.database.name()
    ))
    .await;
    rig.enable(&["product"]).await;
    let mut connection = rig.database.connect().await.unwrap();
    let write = "set array_nulls = on; insert into product values ('{NULL,\"NULL\"}', 'pg_class'), ('{a}', 'pg_class')";
    sqlx::raw_sql(write).execute(&mut connection).await.unwrap();
    let server = crate::rig::Served::start(&rig.database.pool().await.unwrap()).await;
    let mut copy = Copy::default();
    copy.pull(&server, 0).await;
    assert_eq!(copy.rows("product").len(), 2);
    sqlx::raw_sql("delete from product where id <> '{a}'")
        .execute(&mut connection)
        .await
        .unwrap();
    copy.pull(&server, 0).await;
    let rows = copy.rows("product");
    assert_eq!(rows.len(), 1);
    assert!(
        format!("{rows:?}").contains("pg_class") && !format!("{rows:?}").contains("\\\"pg_class"),
        "{rows:?}"
    );
}

/// Such a database takes a backslash in a plain literal for the beginning of an escape.
#[tokio::test]
async fn literals_mean_the_same_whatever_the_database_makes_of_them() {
    let rig = Rig::start("create table product (id int primary key); insert into product values (1)").await;
    rig.run(&format!(
        "alter database \"{}\" set standard_conforming_strings = off",
        rig.database.name()
    ))
    .await;
    let mut connection = rig.database.connect().await.unwrap();
    admin::enable(&mut connection, "product", &EnableOptions::default())
        .await
        .unwrap();
    let server = crate::rig::Served::start(&rig.database.pool().await.unwrap()).await;
    let mut copy = Copy::default();
    copy.pull(&server, 0).await;
    assert_eq!(copy.rows("product").len(), 1);
}

/// Nobody pulls in between: what is written to a partition while it is none is stamped by nobody.
#[tokio::test]
async fn a_partition_that_comes_back_is_another_one() {
    let rig = Rig::start(
        "create table part (id int not null, k int not null, name text, primary key (id, k)) partition by list (k);
         create table part_1 partition of part for values in (1); insert into part select g, 1, 'a' from generate_series(1, 5) g",
    )
    .await;
    rig.enable(&["part"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run(
        "alter table part detach partition part_1; update part_1 set name = 'b' where id = 1; delete from part_1 where id = 2;
         alter table part attach partition part_1 for values in (1)",
    )
    .await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("part"), rig.source("part", "id, k").await);
}

/// A migration that was taken back: what happened in between is told of, although the table is as it was.
#[tokio::test]
async fn what_happens_while_a_scope_has_another_name_is_told_of() {
    let rig = Rig::start(
        "create table product (id int primary key, tenant int); insert into product select g, 7 from generate_series(1, 5) g",
    )
    .await;
    rig.enable_scoped("product", "tenant").await;
    let since = rig.server.page("limit=9").await["next"]
        .as_str()
        .unwrap()
        .to_owned();
    rig.run(
        "alter table product rename column tenant to shop; delete from product where id = 1;
         alter table product rename column shop to tenant",
    )
    .await;
    let page = rig.server.page(&format!("since={since}")).await;
    assert_eq!(page["changes"][0]["reason"], "reset", "{page}");
}

#[tokio::test]
async fn what_was_written_to_a_column_that_was_generated_comes_with_enable() {
    let rig = Rig::start(
        "create table product (id int primary key, x int, g int generated always as (x * 2) stored);
         insert into product (id, x) select g, g from generate_series(1, 5) g",
    )
    .await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    pulled(&rig, &mut copy, "product").await;
    rig.run("alter table product alter column g drop expression; update product set g = 99 where id = 1")
        .await;
    rig.enable(&["product"]).await;
    pulled(&rig, &mut copy, "product").await;
}

/// What a new column is made of did not count until now.
#[tokio::test]
async fn a_column_made_of_a_hidden_one_waits_for_enable() {
    let rig =
        Rig::start("create table product (id int primary key, secret text); insert into product values (1)")
            .await;
    let mut connection = rig.database.connect().await.unwrap();
    let hiding = EnableOptions {
        exclude: Some(vec!["secret".to_owned()]),
        ..EnableOptions::default()
    };
    admin::enable(&mut connection, "product", &hiding).await.unwrap();
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run(
        "alter table product add column masked text generated always as (left(secret, 2)) stored;
         update product set secret = 'top secret'",
    )
    .await;
    assert!(fault(&rig, "product").await.contains("hidden"));
    admin::enable(&mut connection, "product", &hiding).await.unwrap();
    copy.pull(&rig.server, 0).await;
    assert!(
        format!("{:?}", copy.rows("product")).contains("\"to\""),
        "{:?}",
        copy.rows("product")
    );
}

/// Without them every page, of others too, would wait for a look at the whole table.
#[tokio::test]
async fn an_entity_is_served_when_its_indexes_stand() {
    let rig = Rig::start(
        "create table product (id int primary key); insert into product values (1); create table other (id int primary key)",
    )
    .await;
    rig.enable(&["other"]).await;
    let mut copy = Copy::default();
    rig.run("select highwater.enable('product', whole => false); insert into other values (1)")
        .await;
    pulled(&rig, &mut copy, "other").await;
    assert!(copy.rows("product").is_empty());
    assert!(fault(&rig, "product").await.contains("indexes"));
    rig.enable(&["product"]).await;
    pulled(&rig, &mut copy, "product").await;
    assert_eq!(copy.rows("product").len(), 1);
}

/// JSON has no infinity, and a date of one may be there before `enable`.
#[tokio::test]
async fn a_date_without_end_is_still_json() {
    let rig = Rig::start(
        "create table product (id int primary key, changed_date timestamptz not null); insert into product values (1, 'infinity')",
    )
    .await;
    rig.enable(&["product"]).await;
    let page: Value = rig.server.get("/changes").await.json().await.unwrap();
    assert_eq!(page["changes"][1]["changedDate"], "9999-12-31T23:59:59.999999Z");
    // It is later than any date, and stands in the way of none.
    let now = rig.date("select clock_timestamp()").await;
    rig.run("insert into product (id) values (2)").await;
    let page = rig.server.page(&format!("since={now}")).await;
    assert_eq!(page["changes"].as_array().unwrap().len(), 2, "{page}");
}
