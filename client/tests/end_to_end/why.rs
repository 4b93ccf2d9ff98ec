//! `highwater why`: what the store has and what the server says, held against each other.

use std::path::Path;
use std::process::Command;

use highwater_server::auth::{self, NewKey};
use highwater_server::caller::Grant;
use serde_json::{Value, json};

use crate::midway::midway;
use crate::rig::{Rig, client, output, run};
use crate::verify::edit;

const PRODUCTS: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 20) g;
    create table news (id int primary key, title text); insert into news values (1, 'for all')";

fn command(url: &str, store: &Path, words: &[&str]) -> Command {
    let mut command = client("why", store);
    command.args(["--server", url]).args(words);
    command
}

/// Asks, and returns the exit code with what was printed, and what went wrong.
async fn why(url: &str, store: &Path, words: &[&str]) -> (i32, Value, String) {
    let output = output(command(url, store, &[&["--json"], words].concat())).await;
    let told = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), told, said)
}

/// Asks about a product, and expects this verdict of the two, and this outcome of the server's.
async fn is(rig: &Rig, store: &Path, key: &str, verdict: &str, outcome: &str) -> Value {
    let (code, told, said) = why(&rig.url(), store, &["product", key]).await;
    assert_eq!(
        (code, &told["verdict"], &told["server"]["outcome"]),
        (0, &json!(verdict), &json!(outcome)),
        "{key}: {told} {said}"
    );
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_and_what_goes_is_told_and_then_the_pull_brings_it() {
    let rig = Rig::start(PRODUCTS, &["product", "news"]).await;
    let store = rig.store("why.db");
    rig.pulled(&store, &["--entity", "news"]).await;
    let told = is(&rig, &store, "7", "comes", "not_covered").await;
    assert_eq!(told["store"]["state"], Value::Null, "{told}");
    is(&rig, &store, "77", "absent", "not_covered").await;
    rig.pulled(&store, &[]).await;
    let told = is(&rig, &store, "7", "equal", "seen").await;
    assert_eq!(told["store"]["row"]["changedDate"], told["server"]["changedDate"]);
    run(
        &rig.pool,
        "update product set name = 'new' where id = 7; delete from product where id = 8;
         update product set deleted = true where id = 9; insert into product values (30, 'new')",
    )
    .await;
    for (key, verdict, outcome) in [
        ("7", "comes", "changed_since"),
        ("id=30", "comes", "changed_since"),
        ("{\"id\": 8}", "goes", "deleted"),
        ("9", "goes", "deleted"),
        ("10", "equal", "seen"),
        ("99", "absent", "no_such_row"),
    ] {
        is(&rig, &store, key, verdict, outcome).await;
    }
    rig.pulled(&store, &[]).await;
    for (key, verdict, outcome) in [
        ("7", "equal", "seen"),
        ("30", "equal", "seen"),
        ("8", "absent", "deleted"),
        ("9", "absent", "deleted"),
    ] {
        is(&rig, &store, key, verdict, outcome).await;
    }
    run(&rig.pool, "truncate product").await;
    is(&rig, &store, "7", "goes", "begins_anew").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contradictions_are_told_and_verify_mends_them() {
    let rig = Rig::start(PRODUCTS, &["product"]).await;
    let store = rig.store("edited.db");
    rig.pulled(&store, &[]).await;
    run(&rig.pool, "delete from product where id = 3").await;
    rig.pulled(&store, &[]).await;
    edit(
        &store,
        "delete from product where id = 1;
         update product set changed_date = '2020-01-01T00:00:00.000000Z' where id = 2;
         insert into product values (3, 'back', '2026-11-22T10:00:00.000000Z'), (50, 'mine', 'never')",
    );
    for (key, verdict, outcome) in [
        ("1", "missing", "seen"),
        ("2", "stale", "seen"),
        ("3", "extra", "deleted"),
        ("50", "extra", "no_such_row"),
        ("4", "equal", "seen"),
    ] {
        let told = is(&rig, &store, key, verdict, outcome).await;
        let remedy = told["remedy"].as_str().unwrap();
        assert_eq!(
            remedy.contains("verify --repair --entity product"),
            verdict != "equal",
            "{told}"
        );
    }
    let shown = output(command(&rig.url(), &store, &["product", "1"])).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        (lines.first(), lines.get(1)),
        (Some(&"product 1"), Some(&"The store has no such row.")),
        "{shown}"
    );
    assert!(
        shown.contains("lacks a row that its cursor has seen") && lines.last().unwrap().starts_with("-> Run"),
        "{shown}"
    );
    let mut repair = client("verify", &store);
    repair.args(["--quiet", "--repair", "--server", &rig.url()]);
    assert!(output(repair).await.status.success());
    for (key, verdict, outcome) in [
        ("1", "equal", "seen"),
        ("2", "equal", "seen"),
        ("3", "absent", "deleted"),
    ] {
        is(&rig, &store, key, verdict, outcome).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_kept_although_deleted_is_no_row() {
    let rig = Rig::start(PRODUCTS, &["product"]).await;
    let store = rig.store("kept.db");
    rig.pulled(&store, &["--keep-deleted"]).await;
    run(&rig.pool, "delete from product where id = 3").await;
    rig.pulled(&store, &["--keep-deleted"]).await;
    let told = is(&rig, &store, "3", "absent", "deleted").await;
    assert_eq!(told["store"]["row"]["deleted"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_middle_of_a_pull_it_is_told_what_has_arrived() {
    let table = "create table product (id int primary key, name text);
        insert into product select g, 'p' from generate_series(1, 3000) g";
    let rig = Rig::start(table, &["product"]).await;
    let store = rig.store("midway.db");
    rig.pulled(&store, &[]).await;
    edit(&store, "delete from product where id = 1");
    run(&rig.pool, "select highwater.touch('product')").await;
    // Ended where it stands.
    drop(midway(&rig, &store, "renewing").await);
    let told = is(&rig, &store, "1", "under_way", "seen").await;
    assert!(
        told["what"][0]
            .as_str()
            .unwrap()
            .contains("shows it when the pull"),
        "{told}"
    );
    is(&rig, &store, "3000", "comes", "page_to_come").await;
    rig.pulled(&store, &[]).await;
    is(&rig, &store, "1", "equal", "seen").await;
    is(&rig, &store, "3000", "equal", "seen").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_all_kinds_are_found_however_they_are_written() {
    let tables = "create table pair (a int, b text, primary key (b, a)); insert into pair values (-1, 'x,y=z');
        create table item (id uuid primary key); insert into item values ('3f333df6-90a4-4fda-8dd3-9485d27cee36');
        create table reading (at timestamptz primary key); insert into reading values ('2026-11-22T10:00:00.12Z');
        create table mark (at timestamp primary key); insert into mark values ('2026-11-22 10:00:00.5');
        create table blob (id bytea primary key); insert into blob values ('\\x00ff');
        create table flag (id boolean primary key); insert into flag values (true);
        create table price (id numeric(8, 2) primary key); insert into price values (1.5)";
    let names = ["pair", "item", "reading", "mark", "blob", "flag", "price"];
    let rig = Rig::start(tables, &names).await;
    let store = rig.store("kinds.db");
    rig.pulled(&store, &[]).await;
    for (entity, key) in [
        ("pair", "{\"a\": -1, \"b\": \"x,y=z\"}"),
        ("item", "3F333DF6-90A4-4FDA-8DD3-9485D27CEE36"),
        ("item", "id=3f333df6-90a4-4fda-8dd3-9485d27cee36"),
        ("reading", "2026-11-22T11:00:00.12+01:00"),
        ("reading", "2026-11-22 10:00:00.12+00"),
        ("mark", "2026-11-22T10:00:00.5"),
        ("blob", "\\x00FF"),
        ("flag", "true"),
        ("flag", "yes"),
        ("price", "1.5"),
    ] {
        let (code, told, said) = why(&rig.url(), &store, &[entity, key]).await;
        assert_eq!(
            (code, &told["verdict"]),
            (0, &json!("equal")),
            "{entity} {key}: {told} {said}"
        );
    }
    for (entity, key) in [("pair", "7"), ("pair", "a=1"), ("item", "seven"), ("item", "{id")] {
        let (code, _, said) = why(&rig.url(), &store, &[entity, key]).await;
        assert_eq!(
            (code, said.contains("a key is written 7, id=7")),
            (2, true),
            "{entity} {key}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_server_it_says_what_the_store_alone_can() {
    let rig = Rig::start(PRODUCTS, &["product"]).await;
    let store = rig.store("alone.db");
    let (code, _, said) = why(&rig.url(), &store, &["product", "7"]).await;
    assert_eq!(
        (code, said.contains("there is no such file")),
        (1, true),
        "{said}"
    );
    rig.pulled(&store, &[]).await;
    let away = "http://127.0.0.1:1";
    for (key, is_there) in [("7", true), ("77", false)] {
        let (code, told, said) = why(away, &store, &["product", key]).await;
        assert_eq!(
            (code, &told["verdict"], &told["server"]),
            (1, &json!("unknown"), &Value::Null),
            "{told}"
        );
        assert_eq!(told["store"]["row"].is_object(), is_there, "{told}");
        assert!(
            said.contains("cannot reach") && told["error"].as_str().unwrap().contains("cannot reach"),
            "{said}"
        );
        assert_eq!(
            told["remedy"].as_str().unwrap().contains("The row is there"),
            is_there,
            "{told}"
        );
    }
    let (code, told, said) = why(&rig.url(), &store, &["nosuch", "7"]).await;
    assert_eq!(
        (code, said.contains("unknown_entity")),
        (1, true),
        "{told} {said}"
    );
    let other = Rig::start(PRODUCTS, &["product"]).await;
    let (code, _, said) = why(&other.url(), &store, &["product", "7"]).await;
    assert_eq!(
        (code, said.contains("is a copy of the database")),
        (1, true),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_hears_of_its_own_scope_only() {
    let rig = Rig::start(
        "create table product (id int primary key, tenant int); insert into product select g, g % 2 from generate_series(1, 10) g",
        &[],
    )
    .await;
    rig.enable_scoped("product", "tenant").await;
    let file = rig.folder.path().join("keys");
    let key = auth::add_key(
        &file,
        &NewKey {
            grant: Grant {
                name: "till".to_owned(),
                scopes: [("tenant".to_owned(), ["1".to_owned()].into())].into(),
                ..Grant::default()
            },
            expires: None,
        },
    )
    .unwrap();
    let url = rig.serve_keys(&file).await;
    let store = rig.store("till.db");
    let mut pull = client("pull", &store);
    pull.args(["--quiet", "--server", &url])
        .env("HIGHWATER_TOKEN", &key);
    assert!(output(pull).await.status.success());
    for (id, verdict, outcome) in [
        ("3", "equal", "seen"),
        ("4", "absent", "no_such_row"),
        ("99", "absent", "no_such_row"),
    ] {
        let mut asked = command(&url, &store, &["product", id, "--json"]);
        asked.env("HIGHWATER_TOKEN", &key);
        let output = output(asked).await;
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&told["verdict"], &told["server"]["outcome"]),
            (&json!(verdict), &json!(outcome)),
            "{told}"
        );
    }
    let (code, _, said) = why(&url, &store, &["product", "3"]).await;
    assert_eq!((code, said.contains("unauthenticated")), (1, true), "{said}");
}
