//! `highwater verify` while everything moves, and for callers who may not see everything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_server::auth::{self, NewKey};
use highwater_server::caller::Grant;
use highwater_testbed::{Process, seed};
use serde_json::json;

use crate::rig::{Rig, client, output, run};
use crate::verify::{assert_verified, edit, verify};
use crate::writers::{SCHEMA, TABLES, Writers};

/// How long the writers write.
const WRITING: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_writer_makes_a_false_alarm_and_none_hides_a_fault() {
    let seed = seed();
    eprintln!("HIGHWATER_SEED={seed}");
    let rig = Rig::start(SCHEMA, &TABLES).await;
    let (followed, still) = (rig.store("followed.db"), rig.store("still.db"));
    for store in [&followed, &still] {
        rig.pulled(store, &[]).await;
    }
    let mut daemon = client("run", &followed);
    daemon.args(["--quiet", "--server", &rig.url()]);
    let daemon = Process::spawn(daemon).unwrap();
    let writers = Writers::start(&rig.database.url(), seed);
    let until = Instant::now() + WRITING;
    let (mut verified, mut left_out) = (0, 0);
    while Instant::now() < until {
        for store in [&followed, &still] {
            let what = format!("seed {seed}, comparison {verified} of {}", store.display());
            let told = assert_verified(&rig.url(), store, &["--deep"], &what).await;
            verified += 1;
            left_out += told["entities"][0]["leftOut"].as_u64().unwrap();
        }
    }
    assert!(
        verified > 9 && left_out > 0,
        "{verified} comparisons, {left_out} left out"
    );
    drop(daemon);
    // A fault is found in the midst of it, unless a writer has changed the row.
    edit(
        &still,
        "delete from account where id % 7 = 0; update line set note = 'x' where account % 7 = 1",
    );
    let (code, told) = verify(&rig.url(), &still, &["--deep"]).await;
    let found = |entity: usize, kind: &str| told["entities"][entity][kind].as_array().unwrap().len();
    assert!(
        code == 3 && found(0, "missing") > 50 && found(1, "stale") > 50,
        "{told}"
    );
    assert_eq!(
        (
            found(0, "extra"),
            found(0, "stale"),
            found(1, "missing"),
            found(1, "extra")
        ),
        (0, 0, 0, 0)
    );
    let (code, told) = verify(&rig.url(), &still, &["--deep", "--repair"]).await;
    assert_eq!((code, &told["repaired"]), (0, &json!(true)), "{told}");
    writers.stop().await;
    for store in [&followed, &still] {
        assert_verified(&rig.url(), store, &["--deep"], "in the end").await;
        rig.pulled(store, &[]).await;
        rig.assert_equal(store, &TABLES, "in the end").await;
        let told = assert_verified(&rig.url(), store, &["--deep"], "pulled").await;
        assert_eq!(told["entities"][0]["leftOut"], 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_hears_of_its_own_rows_alone() {
    let rig = Rig::start(
        "create table product (id int primary key, tenant int, name text);
         insert into product select g, g % 3, 'p' || g from generate_series(1, 300) g;
         create table news (id int primary key); insert into news values (1)",
        &["news"],
    )
    .await;
    rig.enable_scoped("product", "tenant").await;
    let file = rig.folder.path().join("keys");
    let grant = Grant {
        name: "till".to_owned(),
        entities: Some(Arc::new([highwater_shared::EntityName::new("product")].into())),
        scopes: [("tenant".to_owned(), ["1".to_owned(), "2".to_owned()].into())].into(),
        is_operator: false,
    };
    let key = auth::add_key(&file, &NewKey { grant, expires: None }).unwrap();
    let url = rig.serve_keys(&file).await;
    let token = rig.folder.path().join("token");
    std::fs::write(&token, key).unwrap();
    let token = token.to_str().unwrap();
    let store = rig.store("till.db");
    let mut pull = client("pull", &store);
    pull.args(["--quiet", "--server", &url, "--token-file", token]);
    assert!(output(pull).await.status.success());
    let told = assert_verified(&url, &store, &["--token-file", token], "its own").await;
    assert_eq!(
        (
            &told["entities"][0]["rows"],
            told["entities"].as_array().unwrap().len()
        ),
        (&json!(200), 1)
    );
    // Changes to the rows of others are not named to it; those that leave and come are.
    run(
        &rig.pool,
        "update product set name = 'x' where tenant = 0; delete from product where id in (3, 6);
         update product set tenant = 0 where id = 1; update product set tenant = 1 where id = 9;
         delete from product where id = 2",
    )
    .await;
    let told = assert_verified(&url, &store, &["--deep", "--token-file", token], "moved").await;
    assert_eq!(
        (&told["entities"][0]["rows"], &told["entities"][0]["leftOut"]),
        (&json!(198), &json!(3))
    );
    // A row of another's is extra here, though the source has it.
    edit(
        &store,
        "insert into product values (12, 0, 'p12', '2026-11-22T10:00:00.000000Z')",
    );
    let (code, told) = verify(&url, &store, &["--repair", "--token-file", token]).await;
    assert_eq!(
        (code, &told["entities"][0]["extra"]),
        (0, &json!([{"id": 12}])),
        "{told}"
    );
    let (code, said) = verify(&url, &store, &[]).await;
    assert!(
        code == 1 && said.as_str().unwrap().contains("unauthenticated"),
        "{said}"
    );
}
