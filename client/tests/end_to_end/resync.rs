//! A cursor that is worth nothing any more costs what differs: after a restore, a purge, a touch, and a change
//! of scope.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use highwater_server::admin::{self, PurgeOptions};
use highwater_server::auth::{self, NewKey};
use highwater_server::caller::Grant;
use highwater_testbed::{Process, seed};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::midway::midway;
use crate::rig::{Rig, assert_equal, client, output, run, serve};
use crate::verify::{assert_verified, edit};
use crate::writers::{SCHEMA, TABLES, Writers};

/// More than an entity that is not compared before it begins anew.
const MANY: &str = "create type mood as enum ('so', 'fine');
    create table product (id int primary key, name text, mood mood default 'so');
    insert into product select g, 'p' || g from generate_series(1, 60000) g;
    create table price (id int primary key, amount int); insert into price select g, g from generate_series(1, 100) g";
const BOTH: [&str; 2] = ["product", "price"];

/// A database restored elsewhere, and a server on it.
struct Restored {
    name: String,
    admin: String,
    pool: PgPool,
    url: String,
    stop: CancellationToken,
}

impl Restored {
    /// Restores the database of a rig, which ends with it.
    async fn of(rig: &Rig) -> Self {
        let name = format!("{}_restored", rig.database.name());
        let admin = rig.database.url().replace(rig.database.name(), "postgres");
        let mut connection = PgConnection::connect(&admin).await.unwrap();
        for sql in [
            format!("alter database {} allow_connections false", rig.database.name()),
            format!(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}'",
                rig.database.name()
            ),
            format!("create database {name} template {}", rig.database.name()),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .unwrap();
        }
        let database = rig.database.url().replace(rig.database.name(), &name);
        let pool = PgPool::connect(&database).await.unwrap();
        admin::rebase(&mut pool.acquire().await.unwrap(), false)
            .await
            .unwrap();
        let stop = CancellationToken::new();
        Self {
            name,
            admin,
            pool,
            url: serve(&database, &stop).await,
            stop,
        }
    }

    async fn end(self) {
        self.stop.cancel();
        let mut connection = PgConnection::connect(&self.admin).await.unwrap();
        let sql = format!("drop database {} with (force)", self.name);
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

/// Pulls, and returns what was told of it.
pub(crate) async fn pulled(url: &str, store: &Path, more: &[&str]) -> Value {
    let mut command = client("pull", store);
    command.args(["--json", "--server", url]).args(more);
    let output = output(command).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_only_what_differs_travels() {
    let rig = Rig::start(MANY, &BOTH).await;
    let store = rig.store("restored.db");
    let first = pulled(&rig.url(), &store, &[]).await;
    let restored = Restored::of(&rig).await;
    run(
        &restored.pool,
        "update product set name = 'other' where id % 100 = 0; delete from product where id % 1000 = 1;
         insert into product select g, 'new' from generate_series(60001, 60010) g; delete from price where id = 7",
    )
    .await;
    edit(
        &store,
        "update price set amount = 0 where id = 8; create table mine (note text); create unique index one on product (id)",
    );
    let resync = pulled(&restored.url, &store, &[]).await;
    assert_eq!(
        (&resync["rows"], &resync["deleted"]),
        (&json!(611), &json!(61)),
        "{resync}"
    );
    assert_eq!(resync["entities"][1]["state"], "current", "{resync}");
    assert_equal(&restored.pool, &store, &["price"], "restored").await;
    assert_verified(&restored.url, &store, &["--deep"], "restored").await;
    assert_eq!(first["rows"], 60_100, "{first}");
    let bytes = |told: &Value| told["bytes"].as_u64().unwrap();
    assert!(
        bytes(&resync) > 0 && bytes(&resync) < bytes(&first) / 4,
        "{resync} after {first}"
    );
    // It goes on from there, and nothing begins anew.
    run(&restored.pool, "update product set name = 'last' where id = 5").await;
    let next = pulled(&restored.url, &store, &[]).await;
    assert_eq!((&next["rows"], &next["pages"]), (&json!(1), &json!(1)), "{next}");
    restored.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_too_much_differs_or_deleted_rows_are_kept_all_begins_anew() {
    let rig = Rig::start(MANY, &BOTH).await;
    let (changed, kept) = (rig.store("changed.db"), rig.store("kept.db"));
    pulled(&rig.url(), &changed, &[]).await;
    pulled(&rig.url(), &kept, &["--keep-deleted"]).await;
    let restored = Restored::of(&rig).await;
    run(&restored.pool, "delete from product where id = 1").await;
    let resync = pulled(&restored.url, &kept, &["--keep-deleted"]).await;
    assert_eq!(resync["rows"], 60_099, "{resync}");
    let flagged = "select cast(sum(deleted) as text) from product";
    assert_eq!(crate::live::value(&kept, flagged).as_deref(), Some("1"));
    run(
        &restored.pool,
        "update product set name = 'other' where id % 2 = 0",
    )
    .await;
    let resync = pulled(&restored.url, &changed, &[]).await;
    assert_eq!(resync["rows"], 60_099, "{resync}");
    assert_verified(&restored.url, &changed, &["--deep"], "begun anew").await;
    restored.end().await;
}

/// It is no state that could be compared, neither in the middle of a first pull nor where readers have the old rows still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_that_is_half_there_begins_anew() {
    let rig = Rig::start(MANY, &["product"]).await;
    let (first, renewed) = (rig.store("first.db"), rig.store("renewed.db"));
    drop(midway(&rig, &first, "pulling").await);
    pulled(&rig.url(), &renewed, &[]).await;
    run(&rig.pool, "alter table product add column note text").await;
    drop(midway(&rig, &renewed, "renewing").await);
    let restored = Restored::of(&rig).await;
    run(&restored.pool, "delete from product where id = 1").await;
    for store in [first, renewed] {
        let resync = pulled(&restored.url, &store, &[]).await;
        assert_eq!(resync["rows"], 59_999, "{resync}");
        assert_verified(&restored.url, &store, &["--deep"], "begun anew").await;
    }
    restored.end().await;
}

/// Deletes 20 rows and changes one of the other entity, purges, and pulls.
async fn purged(rig: &Rig, store: &Path, keys_max: u32) {
    run(
        &rig.pool,
        "delete from product where id in (select id from product order by id limit 20);
         update price set amount = amount + 5 where id = 1",
    )
    .await;
    // Transactions of other tests that are older would have any cursor begin anew after the purge.
    let all_later = "select pg_snapshot_xmin(highwater.current_snapshot()) > (select max(changed_xid::text::bigint)::text::xid8 from highwater.tombstone)";
    while !sqlx::query_scalar::<_, bool>(all_later)
        .fetch_one(&rig.pool)
        .await
        .unwrap()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut connection = rig.database.connect().await.unwrap();
    let options = PurgeOptions {
        keys_max,
        ..PurgeOptions::older_than(Duration::ZERO)
    };
    admin::purge(&mut connection, &options).await.unwrap();
    let resync = pulled(&rig.url(), store, &[]).await;
    assert_eq!(
        (&resync["rows"], &resync["deleted"]),
        (&json!(1), &json!(20)),
        "{resync}"
    );
    assert_verified(&rig.url(), store, &["--deep"], "purged").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_purge_or_a_touch_only_what_differs_travels() {
    let rig = Rig::start(MANY, &BOTH).await;
    let store = rig.store("purged.db");
    pulled(&rig.url(), &store, &[]).await;
    // Where keys are kept these come, and where not what differs is found.
    for keys_max in [PurgeOptions::KEYS_MAX, 0] {
        purged(&rig, &store, keys_max).await;
    }
    // No row was written, and no date has changed.
    run(
        &rig.pool,
        "update product set mood = 'fine' where id between 130 and 139",
    )
    .await;
    pulled(&rig.url(), &store, &[]).await;
    run(
        &rig.pool,
        "alter type mood rename value 'fine' to 'great'; select highwater.touch('product')",
    )
    .await;
    let resync = pulled(&rig.url(), &store, &[]).await;
    assert_eq!(
        (&resync["rows"], &resync["deleted"]),
        (&json!(10), &json!(0)),
        "{resync}"
    );
    assert_verified(&rig.url(), &store, &["--deep"], "touched").await;
    // A table with few rows comes as a whole.
    run(&rig.pool, "select highwater.touch('price')").await;
    assert_eq!(pulled(&rig.url(), &store, &[]).await["rows"], 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_scope_that_was_taken_away_leave_and_no_others_come() {
    let rig = Rig::start(
        "create table product (id int primary key, tenant int, name text);
         insert into product select g, g % 20, 'p' || g from generate_series(1, 2000) g",
        &[],
    )
    .await;
    rig.enable_scoped("product", "tenant").await;
    let file = rig.folder.path().join("keys");
    let mut keys = Vec::new();
    for tenants in [0..20, 0..19] {
        let grant = Grant {
            name: "till".to_owned(),
            entities: None,
            scopes: [(
                "tenant".to_owned(),
                tenants.map(|tenant| tenant.to_string()).collect(),
            )]
            .into(),
            is_operator: false,
        };
        keys.push(auth::add_key(&file, &NewKey { grant, expires: None }).unwrap());
    }
    let url = rig.serve_keys(&file).await;
    let (store, token) = (rig.store("till.db"), rig.folder.path().join("token"));
    let mut told = Vec::new();
    for key in [&keys[0], &keys[1], &keys[0]] {
        std::fs::write(&token, key).unwrap();
        let resync = pulled(&url, &store, &["--token-file", token.to_str().unwrap()]).await;
        told.push((resync["rows"].clone(), resync["deleted"].clone()));
    }
    assert_eq!(
        told,
        [
            (json!(2000), json!(0)),
            (json!(0), json!(100)),
            (json!(100), json!(0))
        ]
    );
    // A seed serves no other scope than its own.
    let seed = rig.store("till.seed");
    let mut command = client("seed", &store);
    command.arg("--out").arg(&seed);
    assert!(output(command).await.status.success());
    let arguments = [
        "--token-file",
        token.to_str().unwrap(),
        "--seed",
        seed.to_str().unwrap(),
    ];
    for (key, is_refused, rows) in [(&keys[0], false, 0), (&keys[1], true, 1900)] {
        std::fs::write(&token, key).unwrap();
        let begun = pulled(&url, &rig.store(&format!("begun{rows}.db")), &arguments).await;
        let reason = begun["seed"]["refused"].as_str().unwrap_or_default();
        assert_eq!(reason.contains("another scope"), is_refused, "{begun}");
        assert_eq!(begun["rows"], rows, "{begun}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_among_writers_ends_at_the_source_whatever_is_killed() {
    let seed = seed();
    eprintln!("HIGHWATER_SEED={seed}");
    let rig = Rig::start(SCHEMA, &TABLES).await;
    let store = rig.store("killed.db");
    pulled(&rig.url(), &store, &[]).await;
    let restored = Restored::of(&rig).await;
    let database = rig.database.url().replace(rig.database.name(), &restored.name);
    let writers = Writers::start(&database, seed);
    // Killed ever later, until a pull ends.
    for wait in (5..).step_by(15) {
        let mut command = client("pull", &store);
        command.args(["--quiet", "--server", &restored.url]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn(command).unwrap();
        tokio::time::sleep(Duration::from_millis(wait)).await;
        if process.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        drop(process);
    }
    for round in 0..5 {
        pulled(&restored.url, &store, &[]).await;
        assert_verified(
            &restored.url,
            &store,
            &["--deep"],
            &format!("seed {seed}, round {round}"),
        )
        .await;
    }
    writers.stop().await;
    pulled(&restored.url, &store, &[]).await;
    assert_equal(&restored.pool, &store, &TABLES, &format!("seed {seed}")).await;
    restored.end().await;
}
