//! A crash of Postgres: what a cursor has seen must survive it.

use std::time::Duration;

use highwater_server::admin;
use highwater_testbed::{Cluster, Profile};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::rig::{Copy, Pull as _, Served, run, source};

async fn pool(cluster: &Cluster) -> PgPool {
    PgPoolOptions::new()
        .max_connections(8)
        .connect(&cluster.url("postgres"))
        .await
        .expect("a pool")
}

/// A cluster whose log is flushed by commits alone, as far as Postgres lets it be.
fn lazy_cluster() -> Cluster {
    Cluster::start_with(
        Profile::Fast,
        &[
            ("wal_writer_delay", "10s"),
            ("bgwriter_delay", "10s"),
            ("autovacuum", "off"),
        ],
    )
    .expect("a cluster")
}

/// An id that a client has seen, of a transaction that rolled back or was not flushed, must not
/// be given out again after a crash: its rows would never be sent.
#[tokio::test]
async fn ids_that_a_client_has_seen_are_not_used_again_after_a_crash() {
    let mut cluster = lazy_cluster();
    let before = pool(&cluster).await;
    admin::migrate(&mut PgConnection::connect(&cluster.url("postgres")).await.unwrap())
        .await
        .unwrap();
    run(
        &before,
        "create table product (id int primary key, name text); select highwater.enable('product')",
    )
    .await;
    run(
        &before,
        "insert into product select g, 'p' from generate_series(1, 5) g; checkpoint",
    )
    .await;

    let server = Served::start(&before).await;
    let mut copy = Copy::default();
    // Ids that come to nothing, the last of them above all that is on disk.
    for _ in 0..40 {
        run(
            &before,
            "begin; update product set name = 'rolled back'; rollback",
        )
        .await;
    }
    run(
        &before,
        "set synchronous_commit = off; update product set name = 'lazy' where id = 1",
    )
    .await;
    copy.pull(&server, 0).await;
    let seen = copy.rows("product");
    drop(server);
    before.close().await;

    cluster.crash().unwrap();
    cluster.start_again().unwrap();
    let after = pool(&cluster).await;
    assert_eq!(
        source(&after, "product", "id").await,
        seen,
        "what was shown to a client was on disk"
    );
    let server = Served::start(&after).await;
    for id in 1..=5 {
        run(
            &after,
            &format!("update product set name = 'after {id}' where id = {id}"),
        )
        .await;
    }
    copy.pull(&server, 0).await;
    assert_eq!(copy.rows("product"), source(&after, "product", "id").await);
    assert_eq!(copy.resets, 1, "no resync was needed");
}

/// A writer that sits idle in its transaction leaves the log unflushed for long; the page is not
/// held up by it.
#[tokio::test]
async fn an_idle_writer_does_not_hold_up_a_page() {
    let cluster = lazy_cluster();
    let pool = pool(&cluster).await;
    admin::migrate(&mut PgConnection::connect(&cluster.url("postgres")).await.unwrap())
        .await
        .unwrap();
    run(
        &pool,
        "create table product (id int primary key); select highwater.enable('product')",
    )
    .await;
    let server = Served::start(&pool).await;
    let mut idle = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    let mut open = idle.begin().await.unwrap();
    sqlx::query("insert into product values (1)")
        .execute(&mut *open)
        .await
        .unwrap();
    let page = tokio::time::timeout(Duration::from_secs(5), server.page("")).await;
    assert!(page.is_ok(), "the page waited for the log");
}
