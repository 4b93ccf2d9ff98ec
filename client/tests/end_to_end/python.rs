//! The example client in Python keeps a store that equals the source, whatever happens to it and to
//! the network between the two.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use highwater_server::admin;
use highwater_server::auth::{self, NewKey};
use highwater_server::caller::Grant;
use highwater_shared::EntityName;
use highwater_testbed::process::Signal;
use highwater_testbed::{Fault, Process, Proxy, has_language};

use crate::live::value;
use crate::rig::{Rig, output, run};

/// More rows than the client asks for in a page.
const TABLES: &str = "
    create table product (id bigint primary key, name text, price numeric(10, 2), weight float8, stocked bool, more jsonb);
    insert into product select g, 'p' || g, g / 4.0, g / 8.0, g % 2 = 0, json_build_object('n', g) from generate_series(1, 25000) g;
    insert into product values (9223372036854775807, E'tab\\t, \"quote\" and snow \u{2603}', 99999999.99, 0.1, null, '[1.5]');
    create table line (orders int, item text, total numeric, primary key (item, orders));
    insert into line values (1, 'a', 12345678901234567890123.5), (1, 'b', 7);
    create table nothing (id uuid primary key)";

const NAMES: [&str; 3] = ["product", "line", "nothing"];

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python/client.py")
}

fn client(server: &str, store: &Path) -> Command {
    let mut command = Command::new("python3");
    command.arg(example()).arg(server).arg(store);
    command
        .env_remove("HIGHWATER_TOKEN")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

async fn pulled(server: &str, store: &Path) {
    succeeded(client(server, store)).await;
}

async fn succeeded(client: Command) {
    let output = output(client).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn assert_equal(rig: &Rig, store: &Path, what: &str) {
    rig.assert_equal(store, &NAMES, what).await;
    assert_eq!(
        value(store, "select current || '' from sync_helper").as_deref(),
        Some("1")
    );
}

#[test]
fn the_client_fits_on_a_few_screens() {
    let text = std::fs::read_to_string(example()).unwrap();
    assert!(text.lines().count() < 100, "{}", text.lines().count());
    assert!(text.lines().all(|line| line.chars().count() <= 118));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_deletions_and_resets_end_in_an_equal_store() {
    if !has_language("python3", &["-c", "import sqlite3"]) {
        return;
    }
    let rig = Rig::start(TABLES, &NAMES).await;
    let store = rig.store("python.db");
    pulled(&rig.url(), &store).await;
    assert_equal(&rig, &store, "a first pull").await;
    run(
        &rig.pool,
        "update product set price = 1, stocked = null where id % 1000 = 0; delete from product where id % 1000 = 1;
         update product set deleted = true where id % 1000 = 2; update line set total = null where orders = 1;
         delete from line where item = 'b'; insert into nothing values (gen_random_uuid())",
    )
    .await;
    pulled(&rig.url(), &store).await;
    assert_equal(&rig, &store, "changes and deletions").await;
    run(
        &rig.pool,
        "truncate line; insert into line values (2, 'c', 0.10); alter table product add column colour text default 'red'",
    )
    .await;
    pulled(&rig.url(), &store).await;
    assert_equal(&rig, &store, "resets").await;
    run(&rig.pool, "truncate nothing").await;
    pulled(&rig.url(), &store).await;
    assert_equal(&rig, &store, "a reset without rows").await;
    // A copy that goes its own way is not for this store.
    let mut connection = rig.database.connect().await.unwrap();
    admin::rebase(&mut connection, true).await.unwrap();
    let copy = format!("http://{}", rig.serve_anew().await);
    let refused = output(client(&copy, &store)).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("another database"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_and_a_kill_leave_a_store_that_the_next_pull_mends() {
    if !has_language("python3", &["-c", "import sqlite3"]) {
        return;
    }
    let rig = Rig::start(TABLES, &NAMES).await;
    let store = rig.store("python.db");
    let proxy = Proxy::before(rig.address).await.unwrap();
    // Slow enough to be killed in the middle of the second page.
    proxy.set(Fault::Throttle(40_000_000));
    let url = proxy.url();
    let mut process = Process::spawn(client(&url, &store)).unwrap();
    let kept = |store: &Path| value(store, "select cursor from sync_helper");
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while kept(&store).is_none() {
        // Rows without their cursor would come twice, and a cursor without its rows never.
        let torn =
            "select 'torn' from sync_helper where cursor is null and exists (select 1 from \"product~anew\")";
        assert_eq!(value(&store, torn), None);
        assert!(std::time::Instant::now() < deadline && process.try_wait().unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.signal(Signal::Kill).unwrap();
    process.wait_up_to(Duration::from_secs(20)).unwrap();
    // Readers have nothing of an entity before all of it is there.
    assert_eq!(
        value(&store, "select name from sqlite_schema where name = 'product'"),
        None
    );
    assert_eq!(
        value(&store, "select current || '' from sync_helper").as_deref(),
        Some("0")
    );
    proxy.set(Fault::None);
    run(&rig.pool, "delete from product where id < 5000").await;
    pulled(&proxy.url(), &store).await;
    assert_equal(&rig, &store, "after a kill").await;
    // Cut, but not killed: it tries again until the network is whole.
    run(&rig.pool, "update product set name = name || '!'").await;
    let before = proxy.passed();
    proxy.set(Fault::Cut(300_000));
    let mut process = Process::spawn(client(&url, &store)).unwrap();
    while proxy.passed() < before + 300_000 {
        assert!(process.try_wait().unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.set(Fault::None);
    let ended = tokio::task::spawn_blocking(move || process.wait_up_to(Duration::from_mins(1)).unwrap());
    assert_eq!(ended.await.unwrap().and_then(|status| status.code()), Some(0));
    assert_equal(&rig, &store, "after a cut").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_follows_has_a_change_soon() {
    if !has_language("python3", &["-c", "import sqlite3"]) {
        return;
    }
    let rig = Rig::start(TABLES, &NAMES).await;
    let store = rig.store("python.db");
    let mut command = client(&rig.url(), &store);
    command.arg("--follow");
    let mut process = Process::spawn(command).unwrap();
    for name in ["first", "second"] {
        run(
            &rig.pool,
            &format!("update product set name = '{name}' where id = 7"),
        )
        .await;
        let waiting = async {
            while value(&store, "select name from product where id = 7").as_deref() != Some(name) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // Sooner than a wait that nothing ends.
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .unwrap();
    }
    assert!(process.try_wait().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_may_no_longer_see_goes_and_the_rest_begins_anew() {
    if !has_language("python3", &["-c", "import sqlite3"]) {
        return;
    }
    let rig = Rig::start(TABLES, &NAMES).await;
    let file = rig.folder.path().join("keys");
    let key = |entities: &[&str]| {
        let grant = Grant {
            name: "till".to_owned(),
            entities: Some(Arc::new(entities.iter().copied().map(EntityName::new).collect())),
            scopes: BTreeMap::default(),
            is_operator: false,
        };
        auth::add_key(&file, &NewKey { grant, expires: None }).unwrap()
    };
    let (all, some) = (key(&NAMES), key(&["line", "nothing"]));
    let url = rig.serve_keys(&file).await;
    let store = rig.store("python.db");
    let stranger = output(client(&url, &store)).await;
    assert_eq!(stranger.status.code(), Some(1));
    for key in [&all, &some] {
        let mut client = client(&url, &store);
        client.env("HIGHWATER_TOKEN", key);
        succeeded(client).await;
        rig.assert_equal(&store, &["line", "nothing"], "what a key opens")
            .await;
    }
    assert_eq!(
        value(&store, "select name from sqlite_schema where name = 'product'"),
        None
    );
}
