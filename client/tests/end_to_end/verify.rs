//! `highwater verify`: every difference is found and named, none is made up, and `--repair` mends them.

use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::rig::{Rig, client, output, run};

pub(crate) const PRODUCTS: &str = "create table product (id int primary key, name text, price numeric(10,2));
    insert into product select g, 'p' || g, g * 1.5 from generate_series(1, 500) g";

/// The client's `verify` of a store.
pub(crate) fn command(url: &str, store: &Path, more: &[&str]) -> Command {
    let mut command = client("verify", store);
    command.args(["--json", "--server", url]).args(more);
    command
}

/// Verifies, and returns the exit code with what was printed.
pub(crate) async fn verify(url: &str, store: &Path, more: &[&str]) -> (i32, Value) {
    let output = output(command(url, store, more)).await;
    let code = output.status.code().expect("an exit code");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match serde_json::from_str(&text) {
        Ok(told) => (code, told),
        Err(_) => (code, Value::String(said)),
    }
}

/// Verifies, and expects no difference.
pub(crate) async fn assert_verified(url: &str, store: &Path, more: &[&str], what: &str) -> Value {
    let (code, told) = verify(url, store, more).await;
    assert_eq!((code, &told["equal"]), (0, &json!(true)), "{what}: {told}");
    told
}

/// Edits a store behind the client's back.
pub(crate) fn edit(store: &Path, sql: &str) {
    let connection = Connection::open(store).unwrap();
    connection
        .busy_timeout(std::time::Duration::from_secs(10))
        .unwrap();
    connection
        .execute_batch(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

pub(crate) async fn pulled(sql: &str, tables: &[&str]) -> (Rig, std::path::PathBuf) {
    let rig = Rig::start(sql, tables).await;
    let store = rig.store("verified.db");
    rig.pulled(&store, &[]).await;
    (rig, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_extra_or_stale_is_named_and_repaired() {
    let (rig, store) = pulled(PRODUCTS, &["product"]).await;
    let url = rig.url();
    let told = assert_verified(&url, &store, &[], "at first").await;
    assert_eq!(told["entities"][0]["rows"], 500, "{told}");
    edit(
        &store,
        "delete from product where id in (7, 300);
         insert into product values (501, 'mine', '1.00', '2026-11-22T10:00:00.000000Z');
         update product set changed_date = '2020-01-01T00:00:00.000000Z' where id = 12;
         create table mine (note text); create index by_name on product (name)",
    );
    let (code, told) = verify(&url, &store, &[]).await;
    let expected = json!({
        "entity": "product", "rows": 499, "parts": told["entities"][0]["parts"], "leftOut": 0,
        "missing": [{"id": 7}, {"id": 300}], "extra": [{"id": 501}], "stale": [{"id": 12}],
    });
    assert_eq!(
        (code, &told["equal"], &told["entities"]),
        (3, &json!(false), &json!([expected]))
    );

    let (code, told) = verify(&url, &store, &["--repair"]).await;
    assert_eq!(
        (code, &told["repaired"], &told["equal"]),
        (0, &json!(true), &json!(false)),
        "{told}"
    );
    assert_verified(&url, &store, &["--deep"], "after the repair").await;
    rig.assert_equal(&store, &["product"], "repaired").await;
    let again = assert_verified(&url, &store, &["--repair"], "nothing to repair").await;
    assert_eq!(again["repaired"], true);
    // The pull goes on from where it was, and what the user added is there.
    run(&rig.pool, "update product set name = 'new' where id = 1").await;
    let output = output(rig.pull(&store, &["--json"])).await;
    let pull: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(pull["rows"], 1, "{pull}");
    edit(&store, "insert into mine values ('kept'); reindex by_name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_value_is_found_by_a_deep_look_and_by_no_other() {
    let (rig, store) = pulled(PRODUCTS, &["product"]).await;
    edit(
        &store,
        "update product set name = 'mine' where id = 3; update product set price = null where id = 4;
         update product set name = case id when 8 then 'p9' else 'p8' end where id in (8, 9)",
    );
    assert_verified(&rig.url(), &store, &[], "by dates").await;
    let (code, told) = verify(&rig.url(), &store, &["--deep"]).await;
    let stale = json!([{"id": 3}, {"id": 4}, {"id": 8}, {"id": 9}]);
    assert_eq!((code, &told["entities"][0]["stale"]), (3, &stale), "{told}");
    let (code, _) = verify(&rig.url(), &store, &["--deep", "--repair"]).await;
    assert_eq!(code, 0);
    rig.assert_equal(&store, &["product"], "repaired").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_since_the_pull_is_no_difference() {
    let (rig, store) = pulled(PRODUCTS, &["product"]).await;
    // In flight while the store was pulled, committed since.
    let mut open = rig.pool.begin().await.unwrap();
    sqlx::raw_sql("update product set name = 'late' where id = 400; delete from product where id = 401")
        .execute(&mut *open)
        .await
        .unwrap();
    run(&rig.pool, "update product set name = 'seen' where id = 399").await;
    rig.pulled(&store, &[]).await;
    let quiet = assert_verified(&rig.url(), &store, &["--deep"], "nothing changed").await;
    open.commit().await.unwrap();
    run(
        &rig.pool,
        "update product set name = 'changed' where id = 1; update product set deleted = true where id = 2;
         delete from product where id = 3; update product set id = 1004 where id = 4;
         insert into product values (1005, 'new'); insert into product values (3, 'again')",
    )
    .await;
    let told = assert_verified(&rig.url(), &store, &["--deep"], "stale, and rightly so").await;
    // 1, 2, 3, 4, 400 and 401 are in the store; 1004 and 1005 are not.
    assert_eq!(
        (&told["entities"][0]["rows"], &told["entities"][0]["leftOut"]),
        (&json!(494), &json!(8))
    );
    // No part differs, so that no keys are asked for: only those that have changed have travelled.
    let bytes = |told: &Value| told["bytes"].as_u64().unwrap();
    assert!(bytes(&told) < bytes(&quiet) + 2_000, "{told} after {quiet}");
    // What is wrong is found all the same, in the midst of it; the rest comes by the pull.
    edit(
        &store,
        "delete from product where id in (1, 5); insert into product values (1004, 'x', '1', 'x')",
    );
    let (code, told) = verify(&rig.url(), &store, &["--repair"]).await;
    assert_eq!(
        (code, &told["entities"][0]["missing"]),
        (0, &json!([{"id": 5}])),
        "{told}"
    );
    rig.pulled(&store, &[]).await;
    assert_verified(&rig.url(), &store, &["--deep"], "pulled").await;
    rig.assert_equal(&store, &["product"], "pulled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_nearly_everything_is_compared_part_by_part() {
    let sql = "create table product (id int primary key, name text);
        insert into product select g, 'p' from generate_series(1, 250000) g";
    let (rig, store) = pulled(sql, &["product"]).await;
    edit(&store, "delete from product where id > 10; vacuum");
    let (code, told) = verify(&rig.url(), &store, &["--repair"]).await;
    assert_eq!(
        (code, told["entities"][0]["missing"].as_array().unwrap().len()),
        (0, 249_990)
    );
    rig.assert_equal(&store, &["product"], "repaired").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_kept_though_deleted_are_no_rows() {
    let (rig, store) = pulled(PRODUCTS, &["product"]).await;
    run(&rig.pool, "delete from product where id < 4").await;
    rig.pulled(&store, &["--keep-deleted"]).await;
    assert_verified(&rig.url(), &store, &["--deep"], "flagged").await;
    edit(
        &store,
        "update product set deleted = 1 where id = 4; update product set deleted = 0 where id = 3",
    );
    let (code, told) = verify(&rig.url(), &store, &["--repair"]).await;
    let found = &told["entities"][0];
    assert_eq!(
        (code, &found["missing"], &found["extra"]),
        (0, &json!([{"id": 4}]), &json!([{"id": 3}]))
    );
    let connection = Connection::open(&store).unwrap();
    let held =
        "select group_concat(id || ':' || deleted) from (select * from product where id < 6 order by id)";
    let held: String = connection.query_row(held, [], |row| row.get(0)).unwrap();
    assert_eq!(held, "1:1,2:1,4:0,5:0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_state_that_cannot_be_compared_says_what_to_do() {
    let rig = Rig::start(
        "create table product (id int primary key, name text); insert into product select g, 'p' from generate_series(1, 9) g;
         create table price (id int primary key)",
        &["product", "price"],
    )
    .await;
    let (store, url) = (rig.store("states.db"), rig.url());
    let refused = async |more: &[&str]| {
        let (code, said) = verify(&url, &store, more).await;
        (code, said.as_str().unwrap_or_default().to_owned())
    };
    for more in [&[][..], &["--repair"]] {
        let (code, said) = refused(more).await;
        assert!(
            code == 1 && said.contains("no such file") && !store.exists(),
            "{said}"
        );
    }
    drop(highwater_client::Store::open(&store).unwrap());
    let (code, said) = refused(&[]).await;
    assert!(
        code == 1 && said.contains("nothing was pulled") && said.contains("highwater pull"),
        "{said}"
    );

    // Apart, at two cursors.
    rig.pulled(&store, &["--entity", "product"]).await;
    run(&rig.pool, "insert into price values (1)").await;
    rig.pulled(&store, &["--entity", "price"]).await;
    let told = assert_verified(&url, &store, &[], "two cursors").await;
    assert_eq!(
        (&told["entities"][0]["rows"], &told["entities"][1]["rows"]),
        (&json!(1), &json!(9))
    );
    let told = assert_verified(&url, &store, &["--entity", "price"], "one of them").await;
    assert_eq!(told["entities"].as_array().unwrap().len(), 1);
    let (code, said) = refused(&["--entity", "nothing"]).await;
    assert!(code == 1 && said.contains("no entity nothing"), "{said}");

    // It would begin anew.
    run(&rig.pool, "truncate price").await;
    let (code, said) = refused(&[]).await;
    assert!(
        code == 1 && said.contains("price is to begin anew") && said.contains("highwater pull"),
        "{said}"
    );
    rig.pulled(&store, &[]).await;
    run(&rig.pool, "alter table price add column note text").await;
    let (code, said) = refused(&["--repair"]).await;
    assert!(code == 1 && said.contains("price is to begin anew"), "{said}");
    rig.pulled(&store, &[]).await;
    // In the middle of a pull, which nobody goes on with.
    let whole = assert_verified(&url, &store, &[], "whole").await;
    assert_eq!(whole["entities"].as_array().unwrap().len(), 2);
    edit(
        &store,
        "update sync_helper set state = 'pulling' where entity = 'price'",
    );
    let (code, said) = refused(&[]).await;
    assert!(
        code == 1 && said.contains("price is in the middle of a pull"),
        "{said}"
    );
    assert_verified(&url, &store, &["--entity", "product"], "the other").await;
    rig.pulled(&store, &[]).await;
    // Withdrawn.
    run(&rig.pool, "select highwater.disable('price')").await;
    let (code, said) = refused(&[]).await;
    assert!(
        code == 1 && said.contains("price") && said.contains("highwater pull"),
        "{said}"
    );
    // Who asks for it by its name is told what the server says of it.
    let (code, said) = refused(&["--entity", "price"]).await;
    assert!(
        code == 1 && said.contains("price") && !said.contains("highwater pull"),
        "{said}"
    );
    rig.pulled(&store, &[]).await;
    let told = assert_verified(&url, &store, &[], "what is left").await;
    assert_eq!(told["entities"].as_array().unwrap().len(), 1);
    let (code, said) = refused(&["--entity", "price"]).await;
    assert!(code == 1 && said.contains("no longer offered price"), "{said}");
    // A table that somebody dropped.
    edit(&store, "drop table product");
    let (code, said) = refused(&[]).await;
    assert!(
        code == 1 && said.contains("the table of product is missing"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_is_waited_for_and_then_named() {
    let (_rig, store) = pulled(PRODUCTS, &["product"]).await;
    let before = std::fs::read(&store).unwrap();
    let query = "select source from sync_helper";
    let (kept, another) = (crate::live::value(&store, query).unwrap(), "another".to_owned());
    for (source, expected) in [
        (another, &["is a copy of the database"][..]),
        (kept, &["trying again", "broke off", "cannot reach"]),
    ] {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        // One answer, which breaks off in the middle; then there is nobody.
        let answering = std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let (mut stream, _) = server.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let start = format!(
                "HTTP/1.1 200 OK\r\nhighwater-source: {source}\r\ncontent-type: application/vnd.highwater.copy\r\ncontent-length: 99\r\n\r\n{{"
            );
            stream.write_all(start.as_bytes()).unwrap();
        });
        let (code, said) = verify(&url, &store, &[]).await;
        let said = said.as_str().unwrap_or_default();
        assert!(
            code == 1 && expected.iter().all(|words| said.contains(words)),
            "{said}"
        );
        answering.join().unwrap();
    }
    assert!(std::fs::read(&store).unwrap() == before, "nothing was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_rows_cannot_be_read_is_named_with_what_to_do() {
    let (rig, store) = pulled(PRODUCTS, &["product"]).await;
    let mut bytes = std::fs::read(&store).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0xff);
    std::fs::write(&store, bytes).unwrap();
    for more in [&[][..], &["--deep"], &["--repair"]] {
        let (code, said) = verify(&rig.url(), &store, more).await;
        let said = said.as_str().unwrap_or_default();
        assert!(
            code == 1 && said.contains("verified.db is damaged") && said.contains("highwater reset"),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_told_in_words_and_quiet_is_quiet() {
    let (rig, store) = pulled(PRODUCTS, &["product"]).await;
    let text = async |more: &[&str]| {
        let mut command = client("verify", &store);
        command.args(["--server", &rig.url()]).args(more);
        let output = output(command).await;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), printed)
    };
    let (code, said) = text(&[]).await;
    assert!(
        code == Some(0) && said.starts_with("product: 500 rows, all the same\nequal ("),
        "{said}"
    );
    edit(&store, "delete from product where id > 480");
    let (code, said) = text(&[]).await;
    assert!(
        code == Some(3) && said.contains("product: 480 rows, 20 missing\n  missing: id=481\n"),
        "{said}"
    );
    assert!(
        said.contains("and 10 more") && said.contains("--repair"),
        "{said}"
    );
    assert_eq!(text(&["--quiet"]).await, (Some(3), String::new()));
    let (code, said) = text(&["--repair"]).await;
    assert!(code == Some(0) && said.contains("were repaired"), "{said}");
}

/// More rows lie in parts that differ than keys are asked for at once, so that the parts are split first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_differ_are_found_where_parts_have_to_be_split() {
    let table = "create table reading (id int primary key);
        insert into reading select g from generate_series(1, 120000) g";
    let (rig, store) = pulled(table, &["reading"]).await;
    edit(&store, "delete from reading where id % 40 = 7");
    let (code, told) = verify(&rig.url(), &store, &[]).await;
    let missing: Vec<Value> = (7..=120_000).step_by(40).map(|id| json!({ "id": id })).collect();
    let found = &told["entities"][0];
    assert_eq!(
        (code, &found["missing"], &found["extra"], &found["stale"]),
        (3, &json!(missing), &json!([]), &json!([]))
    );
    let parts = found["parts"].as_u64().unwrap();
    assert!(120_000 / parts > 64, "{parts} parts, too small to be split");
}
