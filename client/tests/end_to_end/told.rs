//! What a pull tells of rows and entities that are gone without a deletion of their own, and how entities stand
//! that were reset.

use std::path::Path;

use highwater_server::admin::{self, EnableOptions};
use serde_json::Value;

use crate::live::value;
use crate::rig::{Rig, client, output, run};
use crate::verify::verify;

const SQL: &str =
    "create table product (id int primary key); insert into product select g from generate_series(1, 9) g;
    create table part (id int primary key); insert into part select g from generate_series(1, 5) g";
const BOTH: [&str; 2] = ["product", "part"];

/// A pull's exit code, what it prints, and what it says on standard error.
async fn pull(rig: &Rig, store: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = client("pull", store);
    command.args(["--server", &rig.url()]).args(more);
    let output = output(command).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_go_by_a_truncate_are_counted() {
    let rig = Rig::start(SQL, &BOTH).await;
    let (store, other) = (rig.store("text.db"), rig.store("json.db"));
    for store in [&store, &other] {
        rig.pulled(store, &[]).await;
    }
    run(&rig.pool, "truncate product; insert into product values (1)").await;
    let (_, told, _) = pull(&rig, &store, &[]).await;
    assert!(told.starts_with("1 row, 8 deleted"), "{told}");
    let (_, told, _) = pull(&rig, &other, &["--json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["rows"], &told["deleted"]),
        (&1.into(), &8.into()),
        "{told}"
    );
    rig.assert_equal(&store, &BOTH, "after a truncate").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_offered_nothing_is_told_so() {
    let rig = Rig::start(SQL, &[]).await;
    let store = rig.store("empty.db");
    let (code, told, said) = pull(&rig, &store, &[]).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(
        told.contains("offers nothing") && told.contains("no table was enabled"),
        "{told}"
    );
    let mut connection = rig.database.connect().await.unwrap();
    admin::enable(&mut connection, "part", &EnableOptions::default())
        .await
        .unwrap();
    let (_, told, _) = pull(&rig, &store, &[]).await;
    assert!(told.starts_with("5 rows"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_that_is_no_longer_offered_is_named_once() {
    let rig = Rig::start(SQL, &BOTH).await;
    let store = rig.store("withdrawn.db");
    rig.pulled(&store, &[]).await;
    let mut connection = rig.database.connect().await.unwrap();
    admin::disable(&mut connection, "part", false).await.unwrap();
    let (code, _, said) = pull(&rig, &store, &[]).await;
    assert_eq!(code, Some(0));
    assert!(said.contains("no longer offers part"), "{said}");
    let (_, _, said) = pull(&rig, &store, &[]).await;
    assert_eq!(said, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_that_was_reset_waits_beside_the_others() {
    let rig = Rig::start(SQL, &BOTH).await;
    let store = rig.store("reset.db");
    rig.pulled(&store, &[]).await;
    let mut reset = client("reset", &store);
    reset.args(["--entity", "part"]);
    assert!(output(reset).await.status.success());
    let at_one_cut = "select cast(min(state = 'current') as text) from sync_helper";
    assert_eq!(value(&store, at_one_cut).as_deref(), Some("0"));
    let (code, told) = verify(&rig.url(), &store, &[]).await;
    assert_eq!(code, 1, "{told}");
    assert!(
        told.as_str().is_some_and(|told| told.contains("part was reset")),
        "{told}"
    );
    rig.pulled(&store, &[]).await;
    assert_eq!(value(&store, at_one_cut).as_deref(), Some("1"));
    rig.assert_equal(&store, &BOTH, "after a reset").await;

    let missing = rig.store("missing.db");
    let reset = output(client("reset", &missing)).await;
    assert_eq!(reset.status.code(), Some(0));
    assert!(!missing.exists() && !rig.store("missing.db.lock").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entities_are_named_with_commas_too() {
    let rig = Rig::start(SQL, &BOTH).await;
    let store = rig.store("commas.db");
    let (code, _, said) = pull(&rig, &store, &["--entity", "product,part"]).await;
    assert_eq!(code, Some(0), "{said}");
    rig.assert_equal(&store, &BOTH, "by commas").await;
    let (code, _, _) = pull(&rig, &store, &["--entity", "product,"]).await;
    assert_eq!(code, Some(2));
}
