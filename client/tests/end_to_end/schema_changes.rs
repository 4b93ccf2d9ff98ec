//! The tables of the source are altered while the client is out: what its next pull makes of it, what
//! becomes of the user's own things in the store, and who is told.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use highwater_server::admin::{self, EnableOptions};
use highwater_testbed::Process;
use highwater_testbed::process::Signal;
use rusqlite::Connection;
use sqlx::PgConnection;

use crate::rig::{Rig, client, output, run};

const TABLE: &str = "create table product (id int primary key, code text not null, name text);
    insert into product select g, 'c' || g, 'p' || g from generate_series(1, 300) g";

/// What a user may have put into the store.
const OWN: &str = "create index by_name on product (name);
    create table note (text text); insert into note values ('mine');
    create trigger noted after insert on product begin insert into note values (new.name); end;
    create view names as select name from product;
    create view on_names as select count(*) as many from names;
    create view ids as select id from product";

/// What is said when an entity is gone.
const NOT_OFFERED: &str = "highwater: the server no longer offers product; its table is kept up no more";

/// A store that was pulled once, with things of the user's in it.
async fn with_own(rig: &Rig, name: &str) -> (PathBuf, Connection) {
    let store = rig.store(name);
    rig.pulled(&store, &[]).await;
    let user = Connection::open(&store).unwrap();
    user.execute_batch(OWN).unwrap();
    (store, user)
}

/// Pulls as a person does, and returns what is said on standard error.
async fn told(rig: &Rig, store: &Path) -> Vec<String> {
    let mut command = client("pull", store);
    command.args(["--server", &format!("http://{}", rig.address)]);
    let pulled = output(command).await;
    let said = String::from_utf8_lossy(&pulled.stderr).into_owned();
    assert_eq!(pulled.status.code(), Some(0), "{said}");
    said.lines().map(str::to_owned).collect()
}

fn texts(store: &Connection, sql: &str) -> Vec<String> {
    let mut statement = store.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// The indexes, triggers and views of the user's that are there.
fn own(store: &Connection) -> Vec<String> {
    texts(
        store,
        "select name from sqlite_schema where sql is not null and (type in ('view', 'trigger')
         or type = 'index' and tbl_name not in ('sync_helper', 'highwater_table')) order by name",
    )
}

fn state(store: &Connection) -> String {
    texts(store, "select state from sync_helper where entity = 'product'").remove(0)
}

async fn enable(rig: &Rig, table: &str) {
    let mut connection = rig.database.connect().await.unwrap();
    admin::enable(&mut connection, table, &EnableOptions::default())
        .await
        .unwrap();
}

async fn connection(rig: &Rig) -> PgConnection {
    rig.database.connect().await.unwrap()
}

/// Columns that come, change and go reach the store with the next pull, also where no row was
/// written; what the user added stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_come_and_go_reach_the_store() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let (store, user) = with_own(&rig, "columns.db").await;
    let before = own(&user);
    for change in [
        "alter table product add column colour text",
        "alter table product add column price numeric not null default 9.50",
        "alter table product alter column price type integer using price::integer",
        "alter table product rename column price to cost",
        "alter table product drop column colour; alter table product add column colour text default 'red'",
        "alter table product drop column cost, drop column colour",
        // By its place, the value of one would be in the other.
        "alter table product rename column code to other; alter table product rename column name to code;
         alter table product rename column other to name",
    ] {
        run(&rig.pool, change).await;
        let told = told(&rig, &store).await;
        assert!(told.is_empty(), "{change}: {told:?}");
        rig.assert_equal(&store, &["product"], change).await;
        assert_eq!(own(&user), before, "{change}");
        assert_eq!(texts(&user, "select cast(many as text) from on_names"), ["300"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_loses_its_column_is_named_to_whoever_pulls() {
    for change in [
        "alter table product drop column name",
        "alter table product rename column name to title",
    ] {
        let rig = Rig::start(TABLE, &["product"]).await;
        let (store, user) = with_own(&rig, "lost.db").await;
        run(&rig.pool, change).await;
        let told = told(&rig, &store).await;
        let misfit = "does not fit the new columns of product";
        let kept = "it was kept, and cannot be read until it is mended";
        assert_eq!(
            told,
            [
                format!("highwater: index by_name {misfit}, and was dropped"),
                format!("highwater: trigger noted {misfit}, and was dropped"),
                format!("highwater: view names {misfit}; {kept}"),
                format!("highwater: view on_names {misfit}; {kept}"),
            ],
            "{change}"
        );
        assert_eq!(own(&user), ["ids", "names", "on_names"], "{change}");
        assert_eq!(texts(&user, "select text from note"), ["mine"]);
        rig.assert_equal(&store, &["product"], change).await;
        assert!(self::told(&rig, &store).await.is_empty(), "it is told once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_are_told_as_well_and_the_quiet_are_not() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let (json, _json) = with_own(&rig, "json.db").await;
    let (quiet, _quiet) = with_own(&rig, "quiet.db").await;
    let (followed, _followed) = with_own(&rig, "followed.db").await;
    let server = format!("http://{}", rig.address);
    let mut command = client("run", &followed);
    command.args(["--server", &server, "--interval", "20ms"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut daemon = Process::spawn(command).unwrap();
    run(&rig.pool, "alter table product drop column name").await;

    let report = output(rig.pull(&json, &["--json"])).await;
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let product = &report["entities"][0];
    assert_eq!(
        product["dropped"],
        serde_json::json!(["index by_name", "trigger noted"])
    );
    assert_eq!(
        product["broken"],
        serde_json::json!(["view names", "view on_names"])
    );

    let Output { stdout, stderr, .. } = output(rig.pull(&quiet, &[])).await;
    assert_eq!((stdout.len(), stderr.len()), (0, 0));

    let log = daemon.stderr.take().unwrap();
    let said = tokio::task::spawn_blocking(move || {
        let lines = std::io::BufRead::lines(std::io::BufReader::new(log)).map(Result::unwrap);
        let mut said: Vec<String> = Vec::new();
        for line in lines {
            said.push(line);
            if said.last().is_some_and(|line| line.contains("on_names")) {
                break;
            }
        }
        said
    });
    let said = said.await.unwrap();
    for name in ["index by_name", "trigger noted", "view names", "view on_names"] {
        let told: Vec<&String> = said.iter().filter(|line| line.contains(name)).collect();
        assert_eq!(told.len(), 1, "{name}: {said:#?}");
        assert!(told[0].contains("WARN"), "{told:?}");
    }
    daemon.signal(Signal::Terminate).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_table_stays_the_entity_that_it_was() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let (store, user) = with_own(&rig, "renamed.db").await;
    run(
        &rig.pool,
        "alter table product rename to goods; update goods set name = 'new' where id = 7; delete from goods where id = 8",
    )
    .await;
    let report = output(rig.pull(&store, &["--json"])).await;
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!((&report["rows"], &report["deleted"]), (&1.into(), &1.into()));
    rig.assert_same(&store, "goods", "product", "renamed").await;
    assert_eq!(own(&user).len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_key_stands_still_until_it_is_enabled_again() {
    for (change, new_key) in [
        (
            "alter table product drop constraint product_pkey, add primary key (code)",
            "code",
        ),
        ("alter table product rename column id to number", "number"),
    ] {
        let both = format!("{TABLE}; create table tax (id int primary key, name text)");
        let rig = Rig::start(&both, &["product", "tax"]).await;
        let (store, user) = with_own(&rig, "key.db").await;
        let held = || texts(&user, "select name from product order by rowid");
        let before = held();
        run(&rig.pool, change).await;
        run(
            &rig.pool,
            "update product set name = 'new' where code = 'c7'; insert into tax values (1, 'VAT')",
        )
        .await;
        assert_eq!(told(&rig, &store).await, [NOT_OFFERED]);
        assert_eq!(state(&user), "withdrawn");
        assert_eq!(held(), before);
        rig.assert_equal(&store, &["tax"], change).await;
        enable(&rig, "product").await;
        told(&rig, &store).await;
        assert_eq!(state(&user), "current");
        rig.assert_equal(&store, &["product", "tax"], change).await;
        let key = "select name from pragma_table_info('product') where pk > 0";
        assert_eq!(texts(&user, key), [new_key]);
        assert_eq!(
            own(&user),
            ["by_name", "ids", "names", "noted", "on_names"],
            "what the user added stays"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_dropped_and_made_again_is_another() {
    let again = "drop table product; create table product (id int primary key, name text, size int);
        insert into product values (1, 'other', 3), (900, 'new', 4)";
    for pulls_between in [false, true] {
        let rig = Rig::start(TABLE, &["product"]).await;
        let (store, user) = with_own(&rig, "again.db").await;
        run(&rig.pool, again).await;
        if pulls_between {
            // No entity, until it is made one.
            assert_eq!(told(&rig, &store).await, [NOT_OFFERED]);
            assert_eq!(state(&user), "withdrawn");
            assert_eq!(texts(&user, "select name from product").len(), 300);
        }
        enable(&rig, "product").await;
        assert!(told(&rig, &store).await.is_empty());
        rig.assert_equal(&store, &["product"], "made again").await;
        assert_eq!(own(&user).len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_that_is_disabled_and_enabled_begins_anew() {
    for pulls_between in [false, true] {
        let rig = Rig::start(TABLE, &["product"]).await;
        let (store, user) = with_own(&rig, "disabled.db").await;
        let mut postgres = connection(&rig).await;
        admin::disable(&mut postgres, "product", false).await.unwrap();
        // Nobody notes this one: that it is gone shows when all rows come anew.
        run(&rig.pool, "delete from product where id = 8").await;
        if pulls_between {
            assert_eq!(told(&rig, &store).await, [NOT_OFFERED]);
            assert_eq!(state(&user), "withdrawn");
            assert_eq!(texts(&user, "select name from product").len(), 300);
        }
        enable(&rig, "product").await;
        assert!(told(&rig, &store).await.is_empty());
        assert_eq!(state(&user), "current");
        rig.assert_equal(&store, &["product"], "enabled again").await;
        assert_eq!(own(&user).len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_change_without_a_column_come_after_a_touch() {
    let rig = Rig::start(
        "create type mood as enum ('fine', 'so so');
         create table product (id int primary key, mood mood, name text);
         insert into product values (1, 'fine', 'chair'), (2, 'so so', 'table')",
        &["product"],
    )
    .await;
    let store = rig.store("touched.db");
    rig.pulled(&store, &[]).await;
    let user = Connection::open(&store).unwrap();
    let held = || texts(&user, "select mood || ' ' || name from product order by id");
    let before = held();
    for change in [
        "alter type mood rename value 'fine' to 'good'",
        "alter table product alter name type text using upper(name)",
    ] {
        run(&rig.pool, change).await;
        rig.pulled(&store, &[]).await;
        assert_eq!(held(), before, "{change}");
    }
    admin::touch(&mut connection(&rig).await, "product")
        .await
        .unwrap();
    rig.pulled(&store, &[]).await;
    assert_eq!(held(), ["good CHAIR", "so so TABLE"]);
}
