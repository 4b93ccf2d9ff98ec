//! `highwater verify --repair`: what stands in its way, and what it gets by it.

use highwater_testbed::{Fault, Process, Proxy};
use serde_json::{Value, json};

use crate::rig::{client, output, run};
use crate::verify::{PRODUCTS, assert_verified, command, edit, pulled, verify};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_trade_a_unique_value_are_repaired() {
    let (rig, store) = pulled(PRODUCTS, &["product"]).await;
    edit(
        &store,
        "update product set name = case id when 1 then 'p2' else 'p1' end where id in (1, 2);
         create unique index one_name on product (name)",
    );
    let (code, told) = verify(&rig.url(), &store, &["--deep", "--repair"]).await;
    assert_eq!(code, 0, "{told}");
    rig.assert_equal(&store, &["product"], "repaired").await;
    edit(
        &store,
        "update product set name = 'p3', id = 1003 where id = 3; insert into product values (3, 'x', '1', 'x')",
    );
    let (code, told) = verify(&rig.url(), &store, &["--deep", "--repair"]).await;
    assert_eq!(code, 0, "the row that is too much goes first: {told}");
    rig.assert_equal(&store, &["product"], "repaired").await;
}

/// What somebody else wrote into the store need not be a key for the source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_whose_key_is_none_at_the_source_is_removed() {
    let (rig, store) = pulled(
        "create table host (address inet primary key, name text); insert into host values ('10.0.0.1', 'a')",
        &["host"],
    )
    .await;
    for edit_of_key in [
        "update host set address = 'nowhere'",
        "insert into host select 'elsewhere', name, changed_date from host",
    ] {
        edit(&store, edit_of_key);
        let (code, told) = verify(&rig.url(), &store, &["--repair"]).await;
        assert_eq!((code, &told["repaired"]), (0, &json!(true)), "{told}");
        assert_verified(&rig.url(), &store, &["--deep"], edit_of_key).await;
    }
}

/// A trigger in the store may undo what is written. That is not called repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_undone_is_told_as_a_difference_that_remains() {
    let tables =
        format!("{PRODUCTS}; create table news (id int primary key); insert into news values (1), (2)");
    let (rig, store) = pulled(&tables, &["product", "news"]).await;
    edit(
        &store,
        "delete from product where id = 7; delete from news where id = 2;
         create trigger undoes after insert on product begin delete from product where id = 7; end",
    );
    let (code, told) = verify(&rig.url(), &store, &["--repair"]).await;
    assert_eq!((code, &told["repaired"]), (3, &json!(false)), "{told}");
    edit(&store, "drop trigger undoes");
    let (code, told) = verify(&rig.url(), &store, &["--repair"]).await;
    assert_eq!((code, &told["repaired"]), (0, &json!(true)), "{told}");
    rig.assert_equal(&store, &["product", "news"], "repaired").await;
}

/// The rows that are missing are asked for in seven lists, and no connection lasts for two of them: that is more failures than
/// there are attempts, but each list comes with the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_that_is_cut_off_keeps_what_it_has() {
    const PAGES: &str = "create table page (path text primary key, body text);
        alter table page alter body set storage external;
        insert into page select repeat('p', 600) || g, repeat(md5(g::text), 100)
        from generate_series(1, 6000) g";
    let (rig, store) = pulled(PAGES, &["page"]).await;
    edit(
        &store,
        "delete from page; insert into page values ('mine', '', '')",
    );
    let proxy = Proxy::before(rig.address).await.unwrap();
    proxy.set(Fault::Cut(4_000_000));
    let output = output(command(&proxy.url(), &store, &["--repair"])).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(
        (output.status.code(), &told["repaired"]),
        (Some(0), &json!(true)),
        "{told}"
    );
    assert!(said.matches("trying again").count() > 5, "{said}");
    let (passed, taken) = (proxy.passed(), told["bytes"].as_u64().unwrap());
    assert!(passed > taken && passed < 2 * taken, "{passed} bytes for {told}");
    rig.assert_equal(&store, &["page"], "repaired").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_runs_beside_a_daemon_which_repairs_wait_for_in_vain() {
    let (rig, store) = pulled(PRODUCTS, &["product"]).await;
    let mut daemon = client("run", &store);
    daemon.args(["--quiet", "--server", &rig.url()]);
    let daemon = Process::spawn(daemon).unwrap();
    run(&rig.pool, "update product set name = 'live' where id = 1").await;
    let arrived = || crate::live::value(&store, "select name from product where id = 1");
    while arrived().as_deref() != Some("live") {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_verified(&rig.url(), &store, &["--deep"], "beside a daemon").await;
    let (code, said) = verify(&rig.url(), &store, &["--repair"]).await;
    let said = said.as_str().unwrap_or_default();
    assert!(
        code == 1 && said.contains("in use by another highwater"),
        "{said}"
    );
    drop(daemon);
}
