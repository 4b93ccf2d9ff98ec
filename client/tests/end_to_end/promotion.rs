//! A promotion that lost what stores have seen already: they go back to a cursor from before, and only what was
//! written since travels.

use highwater_server::admin::{self, EnableOptions};
use highwater_testbed::{Cluster, Profile, cut_off, promote};
use serde_json::json;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::resync::pulled;
use crate::rig::{assert_equal, migrate, run, serve};
use crate::verify::assert_verified;

/// One entity has more rows than one that is not compared before it begins anew.
const SCHEMA: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 60000) g;
    create table label (word text, part uuid, note text, primary key (part, word));
    insert into label select E'a\\tb\\\\' || g, md5(g::text)::uuid, 'n' from generate_series(1, 100) g";
pub(crate) const TABLES: [&str; 2] = ["product", "label"];

/// A primary, and a standby that takes over.
struct Pair {
    primary: Cluster,
    primary_pool: PgPool,
    standby: Cluster,
    standby_pool: PgPool,
    folder: TempDir,
    stop: CancellationToken,
}

impl Pair {
    async fn start() -> Self {
        let primary = Cluster::start(Profile::Fast).unwrap();
        let url = primary.url("postgres");
        migrate(url.clone()).await.unwrap();
        let primary_pool = PgPool::connect(&url).await.unwrap();
        enabled(&primary_pool).await;
        let standby = primary.start_standby(Profile::Fast, &[]).unwrap();
        Self {
            standby_pool: PgPool::connect(&standby.url("postgres")).await.unwrap(),
            primary,
            primary_pool,
            standby,
            folder: TempDir::new().unwrap(),
            stop: CancellationToken::new(),
        }
    }

    /// A server at a Postgres, which it reads as this role.
    async fn serve(&self, cluster: &Cluster, role: &str) -> String {
        let database = cluster.url("postgres").replace("postgres@", &format!("{role}@"));
        serve(&database, &self.stop).await
    }

    /// From here on nothing that the primary does reaches the standby.
    async fn cut_off(&self) {
        cut_off(&self.primary_pool, &self.standby_pool).await;
    }

    async fn promote(&mut self) {
        self.primary_pool.close().await;
        self.primary.crash().unwrap();
        promote(&self.standby_pool).await;
    }
}

/// Makes the tables, and entities of them.
pub(crate) async fn enabled(pool: &PgPool) {
    run(pool, SCHEMA).await;
    let mut connection = pool.acquire().await.unwrap();
    for table in TABLES {
        admin::enable(&mut connection, table, &EnableOptions::default())
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_promotion_only_what_was_written_since_travels() {
    let mut pair = Pair::start().await;
    let [store, compared] = ["store.db", "compared.db"].map(|name| pair.folder.path().join(name));
    let url = pair.serve(&pair.primary, "postgres").await;
    let pull = async || {
        for store in [&store, &compared] {
            pulled(&url, store, &[]).await;
        }
    };
    pull().await;
    run(
        &pair.primary_pool,
        "update product set name = 'kept' where id <= 20",
    )
    .await;
    pull().await;
    pair.cut_off().await;
    run(
        &pair.primary_pool,
        "update product set name = 'lost' where id in (7, 20); delete from product where id in (8, 12);
         insert into product values (70001, 'lost'); update product set id = 70002 where id = 9;
         update label set note = 'lost' where word like '%1'; delete from label where word like '%2'",
    )
    .await;
    pull().await;
    // Written twice, put back, and taken away again: what counts is what the source has, not what was done.
    run(
        &pair.primary_pool,
        "update product set name = 'lost twice' where id in (7, 10); insert into product values (8, 'lost');
         delete from product where id = 70001; insert into label values (E'\\\\N', gen_random_uuid(), 'lost')",
    )
    .await;
    pull().await;
    pair.promote().await;
    let pool = &pair.standby_pool;
    run(
        pool,
        "update product set name = 'new' where id in (7, 13); delete from product where id in (10, 14);
         insert into product values (70001, 'new'), (70003, 'new'); delete from label where word like '%3'",
    )
    .await;
    let url = pair.serve(&pair.standby, "postgres").await;
    let back = pulled(&url, &store, &[]).await;
    assert_equal(pool, &store, &TABLES, "promoted").await;
    assert_verified(&url, &store, &["--deep"], "promoted").await;
    let came = |key: &str| back[key].as_u64().unwrap();
    assert!(came("rows") + came("deleted") < 100, "{back}");
    assert!(came("bytes") < 50_000, "{back}");
    run(pool, "update product set name = 'last' where id = 5").await;
    let next = pulled(&url, &store, &[]).await;
    assert_eq!((&next["rows"], &next["pages"]), (&json!(1), &json!(1)), "{next}");

    // Without the right to read where the lost history began, all is compared.
    let grants = admin::grants(&mut pool.acquire().await.unwrap(), "reader")
        .await
        .unwrap();
    run(pool, &grants).await;
    let url = pair.serve(&pair.standby, "reader").await;
    let all = pulled(&url, &compared, &[]).await;
    assert_equal(pool, &compared, &TABLES, "compared").await;
    assert!(all["bytes"].as_u64().unwrap() > 50_000, "{all}");
    pair.stop.cancel();
}

/// What an entity was begun anew with, or what is older than all that is remembered, is compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_a_past_that_was_kept_is_compared() {
    let mut pair = Pair::start().await;
    let store = pair.folder.path().join("store.db");
    let url = pair.serve(&pair.primary, "postgres").await;
    pair.cut_off().await;
    run(
        &pair.primary_pool,
        "update product set name = 'lost' where id = 7",
    )
    .await;
    pulled(&url, &store, &[]).await;
    run(
        &pair.primary_pool,
        "update product set name = 'lost' where id = 8",
    )
    .await;
    pulled(&url, &store, &[]).await;
    pair.promote().await;
    let url = pair.serve(&pair.standby, "postgres").await;
    let all = pulled(&url, &store, &[]).await;
    assert_equal(&pair.standby_pool, &store, &TABLES, "compared").await;
    assert_eq!((&all["rows"], &all["deleted"]), (&json!(2), &json!(0)), "{all}");
    assert!(all["bytes"].as_u64().unwrap() > 50_000, "{all}");
    pair.stop.cancel();
}
