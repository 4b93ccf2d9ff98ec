//! A dump that was marked before it was taken, restored elsewhere: stores that have seen more go back to a cursor from before
//! the mark, and only what was written since travels.

use highwater_server::admin;
use highwater_testbed::{Cluster, Profile};
use serde_json::json;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::promotion::{TABLES, enabled};
use crate::resync::pulled;
use crate::rig::{assert_equal, migrate, run, serve};
use crate::verify::assert_verified;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_of_a_marked_dump_only_what_was_written_since_travels() {
    let cluster = Cluster::start(Profile::Fast).unwrap();
    let folder = TempDir::new().unwrap();
    let [store, level] = ["store.db", "level.db"].map(|name| folder.path().join(name));
    let original = cluster.url("postgres");
    migrate(original.clone()).await.unwrap();
    let pool = PgPool::connect(&original).await.unwrap();
    enabled(&pool).await;
    let stop = CancellationToken::new();
    let url = serve(&original, &stop).await;
    pulled(&url, &store, &[]).await;
    run(&pool, "update product set name = 'kept' where id <= 20").await;
    for store in [&store, &level] {
        pulled(&url, store, &[]).await;
    }
    admin::mark(&mut pool.acquire().await.unwrap()).await.unwrap();
    run(
        &pool,
        "update product set name = 'dumped' where id in (6, 7); delete from product where id = 11;
         update label set note = 'dumped' where word like '%4'",
    )
    .await;
    let dump = cluster.dump("postgres").unwrap();
    run(
        &pool,
        "update product set name = 'lost' where id in (7, 20); delete from product where id in (8, 12);
         insert into product values (70001, 'lost'); update product set id = 70002 where id = 9;
         update label set note = 'lost' where word like '%1'; delete from label where word like '%2'",
    )
    .await;
    pulled(&url, &store, &[]).await;
    run(
        &pool,
        "update product set name = 'lost twice' where id in (7, 10); insert into product values (8, 'lost')",
    )
    .await;
    pulled(&url, &store, &[]).await;

    cluster.restore("restored", &dump).unwrap();
    let restored = cluster.url("restored");
    let pool = PgPool::connect(&restored).await.unwrap();
    let rebased = admin::rebase(&mut pool.acquire().await.unwrap(), false)
        .await
        .unwrap();
    assert!(rebased.is_marked && rebased.anew.is_empty(), "{rebased:?}");
    run(
        &pool,
        "update product set name = 'new' where id in (7, 13); delete from product where id in (10, 14);
         insert into product values (70001, 'new'), (70003, 'new'); delete from label where word like '%3'",
    )
    .await;
    let url = serve(&restored, &stop).await;
    // The one goes on as if nothing had happened, the other goes back first.
    for store in [&level, &store] {
        let back = pulled(&url, store, &[]).await;
        assert_equal(&pool, store, &TABLES, "restored").await;
        assert_verified(&url, store, &["--deep"], "restored").await;
        let came = |key: &str| back[key].as_u64().unwrap();
        assert!(came("rows") + came("deleted") < 100, "{back}");
        assert!(came("bytes") < 50_000, "{back}");
    }
    run(&pool, "update product set name = 'last' where id = 5").await;
    let next = pulled(&url, &store, &[]).await;
    assert_eq!((&next["rows"], &next["pages"]), (&json!(1), &json!(1)), "{next}");
    stop.cancel();
}
