//! Which database a cursor belongs to: restores, copies and promotions, with real servers.

use highwater_server::{ServeOptions, admin};
use highwater_testbed::{Cluster, Profile, caught_up, cut_off, promote, until};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::rig::{Copy, Pull as _, Rig, Served, cluster, pool, run, source};

/// Pulls, and after a 410 begins without a cursor, as every client does.
async fn pull_or_resync(copy: &mut Copy, server: &Served) -> bool {
    let since = copy.since.clone().unwrap_or_default();
    let response = server.get(&format!("/changes?since={since}")).await;
    let gone = response.status() == 410;
    if gone {
        let problem: serde_json::Value = response.json().await.unwrap();
        assert_eq!(problem["reason"], "source_changed", "{problem}");
        copy.since = None;
    }
    copy.pull(server, 0).await;
    gone
}

/// What a server says that will not serve a database.
pub(crate) async fn refusal(pool: &PgPool) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let refused = highwater_server::serve(listener, pool.clone(), ServeOptions::default(), stop).await;
    refused.unwrap_err().to_string()
}

/// The ids in the rows of a dump are higher than those of the fresh cluster that it is read into.
#[tokio::test]
async fn a_dump_in_a_fresh_cluster_is_served_after_a_rebase() {
    let (old, old_pool) = cluster(&[]).await;
    for _ in 0..300 {
        run(&old_pool, "update product set name = name || '.' where id = 1").await;
    }
    run(&old_pool, "delete from product where id = 20").await;
    let server = Served::start(&old_pool).await;
    let mut copy = Copy::default();
    copy.pull(&server, 0).await;
    drop(server);

    let fresh = Cluster::start(Profile::Fast).unwrap();
    fresh.restore("postgres", &old.dump("postgres").unwrap()).unwrap();
    let pool = pool(&fresh.url("postgres")).await;

    assert!(refusal(&pool).await.contains("highwater-server rebase"));
    admin::rebase(
        &mut PgConnection::connect(&fresh.url("postgres")).await.unwrap(),
        false,
    )
    .await
    .unwrap();
    let server = Served::start(&pool).await;
    assert!(pull_or_resync(&mut copy, &server).await);
    assert_eq!(copy.rows("product"), source(&pool, "product", "id").await);
    copy.recount();
    run(
        &pool,
        "update product set name = 'after' where id = 2; delete from product where id = 3",
    )
    .await;
    copy.pull(&server, 0).await;
    assert_eq!((copy.upserts, copy.deletes), (1, 1), "nothing is sent again");
    assert_eq!(copy.rows("product"), source(&pool, "product", "id").await);
    let valid = "select indisvalid from pg_index where indexrelid = 'highwater_1_xid'::regclass";
    assert!(
        sqlx::query_scalar::<_, bool>(valid)
            .fetch_one(&pool)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_copy_of_a_database_is_served_after_a_rebase() {
    let (cluster, original) = cluster(&[]).await;
    let server = Served::start(&original).await;
    let mut copy = Copy::default();
    copy.pull(&server, 0).await;
    drop(server);
    original.close().await;
    let mut elsewhere = PgConnection::connect(&cluster.url("template1")).await.unwrap();
    sqlx::raw_sql("create database staging template postgres")
        .execute(&mut elsewhere)
        .await
        .unwrap();

    let staging = pool(&cluster.url("staging")).await;
    assert!(refusal(&staging).await.contains("rebase --new-id"));
    let own_id = "select own_id::text from highwater.source";
    let before: String = sqlx::query_scalar(own_id).fetch_one(&staging).await.unwrap();
    admin::rebase(
        &mut PgConnection::connect(&cluster.url("staging")).await.unwrap(),
        true,
    )
    .await
    .unwrap();
    let after: String = sqlx::query_scalar(own_id).fetch_one(&staging).await.unwrap();
    assert_ne!(before, after);
    let server = Served::start(&staging).await;
    assert!(pull_or_resync(&mut copy, &server).await);
    run(&staging, "update product set name = 'staged' where id = 2").await;
    copy.pull(&server, 0).await;
    assert_eq!(copy.rows("product"), source(&staging, "product", "id").await);

    // Stores must be able to tell from the page which database it is of.
    let told = server.get("/changes").await.headers()["highwater-source"].clone();
    assert_eq!(told, after.as_str());
    admin::rebase(
        &mut PgConnection::connect(&cluster.url("staging")).await.unwrap(),
        true,
    )
    .await
    .unwrap();
    let own_id: String = sqlx::query_scalar(own_id).fetch_one(&staging).await.unwrap();
    assert_ne!(own_id, after);
    let told = server.get("/changes").await.headers()["highwater-source"].clone();
    assert_eq!(told, own_id.as_str());
}

/// A promotion that kept all that a client has seen costs it nothing; one that lost some of it is
/// another source.
#[tokio::test]
async fn a_promotion_costs_a_resync_only_where_something_was_lost() {
    let (mut primary, primary_pool) = cluster(&[]).await;
    let standby = primary.start_standby(Profile::Fast, &[]).unwrap();
    let standby_pool = pool(&standby.url("postgres")).await;
    let server = Served::start(&primary_pool).await;
    let mut kept = Copy::default();
    kept.pull(&server, 0).await;
    // What is shown from here on goes down with the primary.
    cut_off(&primary_pool, &standby_pool).await;
    let mut lost = kept.clone();
    run(&primary_pool, "update product set name = 'lost' where id = 7").await;
    lost.pull(&server, 0).await;
    drop(server);
    primary_pool.close().await;
    primary.stop().unwrap();

    promote(&standby_pool).await;
    let mut untold = kept.clone();
    let [before, after] = [&kept, &lost].map(|copy| copy.since.clone().unwrap());
    let server = Served::start(&standby_pool).await;
    run(&standby_pool, "update product set name = 'new' where id = 8").await;
    // Rows that go by a lost cursor do not go on from an earlier one, though that is served.
    let joining = server.get(&format!("/changes?since={before}&held={after}")).await;
    assert_eq!(joining.status(), 410);
    let problem: serde_json::Value = joining.json().await.unwrap();
    assert_eq!(problem["earlier"], true, "{problem}");
    let nothing_lost = format!("/changes?since={before}&held={before}");
    assert_eq!(server.get(&nothing_lost).await.status(), 200);
    for (copy, resync) in [(&mut kept, false), (&mut lost, true)] {
        copy.recount();
        assert_eq!(pull_or_resync(copy, &server).await, resync);
        assert_eq!(copy.rows("product"), source(&standby_pool, "product", "id").await);
        assert_eq!(copy.resets, usize::from(resync));
    }
    drop(server);

    // To a role without the right to read the history file, all that came before is another source.
    let grants = admin::grants(&mut standby_pool.acquire().await.unwrap(), "reader").await;
    run(&standby_pool, &grants.unwrap()).await;
    let reader = pool(&standby.url("postgres").replace("postgres@", "reader@")).await;
    let server = Served::start(&reader).await;
    assert!(pull_or_resync(&mut untold, &server).await);
    assert_eq!(
        untold.rows("product"),
        source(&standby_pool, "product", "id").await
    );
}

/// Who may not read the history learns from a mark what a promotion kept.
#[tokio::test]
async fn without_the_history_a_mark_tells_what_a_promotion_kept() {
    let (mut primary, primary_pool) = cluster(&[]).await;
    let standby = primary.start_standby(Profile::Fast, &[]).unwrap();
    let standby_pool = pool(&standby.url("postgres")).await;
    let grants = admin::grants(&mut primary_pool.acquire().await.unwrap(), "reader").await;
    run(&primary_pool, &grants.unwrap()).await;
    let server = Served::start(&primary_pool).await;
    let mut kept = Copy::default();
    kept.pull(&server, 0).await;
    admin::mark(&mut primary_pool.acquire().await.unwrap())
        .await
        .unwrap();
    // Kept as well, but no mark says so.
    let mut untold = kept.clone();
    run(&primary_pool, "update product set name = 'kept' where id = 6").await;
    untold.pull(&server, 0).await;
    cut_off(&primary_pool, &standby_pool).await;
    drop(server);
    primary_pool.close().await;
    primary.stop().unwrap();

    promote(&standby_pool).await;
    run(&standby_pool, "update product set name = 'new' where id = 8").await;
    let reader = pool(&standby.url("postgres").replace("postgres@", "reader@")).await;
    let server = Served::start(&reader).await;
    let refused = server
        .get(&format!("/changes?since={}", untold.since.as_deref().unwrap()))
        .await;
    let problem: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(problem["earlier"], true, "{problem}");
    kept.recount();
    assert!(!pull_or_resync(&mut kept, &server).await);
    assert_eq!(kept.rows("product"), source(&standby_pool, "product", "id").await);
    assert_eq!((kept.resets, kept.upserts), (0, 2));
}

/// A standby that follows a promotion is told its timeline late by Postgres, where no process receives log.
#[tokio::test]
async fn a_standby_without_a_receiver_serves_no_cursor_that_has_seen_what_a_promotion_lost() {
    let (mut primary, primary_pool) = cluster(&[("full_page_writes", "on")]).await;
    let standby = primary.start_standby(Profile::Fast, &[]).unwrap();
    let standby_pool = pool(&standby.url("postgres")).await;
    let following = standby.start_standby(Profile::Fast, &[]).unwrap();
    let following_pool = pool(&following.url("postgres")).await;
    let server = Served::start(&primary_pool).await;
    let mut kept = Copy::default();
    kept.pull(&server, 0).await;
    cut_off(&primary_pool, &standby_pool).await;
    let mut lost = kept.clone();
    run(&primary_pool, "update product set name = 'lost' where id = 7").await;
    lost.pull(&server, 0).await;
    drop(server);
    primary_pool.close().await;
    primary.stop().unwrap();

    promote(&standby_pool).await;
    // Replay goes on beyond the position of what was lost.
    run(&standby_pool, MANY_BYTES).await;
    cut_off(&standby_pool, &following_pool).await;
    let told: i32 = sqlx::query_scalar(
        "select greatest(timeline_id, min_recovery_end_timeline) from pg_control_checkpoint(), pg_control_recovery()",
    )
    .fetch_one(&following_pool)
    .await
    .unwrap();
    assert_eq!(told, 1, "Postgres tells the timeline late");
    let server = Served::start(&following_pool).await;
    for (copy, resync) in [(&mut kept, false), (&mut lost, true)] {
        assert_eq!(pull_or_resync(copy, &server).await, resync);
        assert_eq!(
            copy.rows("product"),
            source(&following_pool, "product", "id").await
        );
    }
    drop(server);

    // A cursor that was given by the one that follows holds at the one that leads.
    let server = Served::start(&standby_pool).await;
    run(&standby_pool, FEW_BYTES).await;
    assert!(!pull_or_resync(&mut kept, &server).await);
    assert_eq!(kept.rows("product"), source(&standby_pool, "product", "id").await);
}

/// A standby that has replayed more than the promoted one kept is told of the new timeline, and cannot follow.
#[tokio::test]
async fn what_a_standby_shows_that_cannot_follow_a_promotion_belongs_to_another_source() {
    let (mut primary, primary_pool) = cluster(&[]).await;
    let behind = primary.start_standby(Profile::Fast, &[]).unwrap();
    let behind_pool = pool(&behind.url("postgres")).await;
    let soon = [("wal_retrieve_retry_interval", "100ms")];
    let ahead = primary.start_standby(Profile::Fast, &soon).unwrap();
    let ahead_pool = pool(&ahead.url("postgres")).await;
    // A role that is not told of what receives log.
    let grants = admin::grants(&mut primary_pool.acquire().await.unwrap(), "reader").await;
    run(&primary_pool, &grants.unwrap()).await;
    let may_read = "grant execute on function pg_read_file(text, bigint, bigint, boolean) to reader";
    run(&primary_pool, may_read).await;
    cut_off(&primary_pool, &behind_pool).await;
    run(&primary_pool, "update product set name = 'lost' where id = 7").await;
    caught_up(&primary_pool, &ahead_pool).await;
    primary_pool.close().await;
    primary.stop().unwrap();

    promote(&behind_pool).await;
    run(&behind_pool, MANY_BYTES).await;
    let follow = format!("alter system set primary_conninfo = '{}'", behind.url("postgres"));
    run(&ahead_pool, &follow).await;
    run(&ahead_pool, "select pg_reload_conf()").await;
    until(
        &ahead_pool,
        "select pg_read_file('pg_wal/00000002.history', 0, 0, true) is not null",
    )
    .await;
    let mut copy = Copy::default();
    let reader = pool(&ahead.url("postgres").replace("postgres@", "reader@")).await;
    copy.pull(&Served::start(&reader).await, 0).await;
    assert_eq!(copy.rows("product"), source(&ahead_pool, "product", "id").await);
    let server = Served::start(&behind_pool).await;
    assert!(pull_or_resync(&mut copy, &server).await);
    assert_eq!(copy.rows("product"), source(&behind_pool, "product", "id").await);
}

/// A disk that is put back shows itself until its ids and its log have both caught up. `lost` is what
/// the original did after the backup, `new` what the backup does in its place.
async fn put_back(lost: &[&str], new: &[&str]) {
    let (mut original, original_pool) = cluster(&[]).await;
    let mut backup = original.start_standby(Profile::Fast, &[]).unwrap();
    backup.stop().unwrap();
    // What makes a standby of it; without it Postgres starts where the backup ends.
    std::fs::remove_file(backup.data_dir().join("standby.signal")).unwrap();

    let server = Served::start(&original_pool).await;
    let mut copy = Copy::default();
    for statement in lost {
        run(&original_pool, statement).await;
    }
    copy.pull(&server, 0).await;
    drop(server);
    original_pool.close().await;
    original.stop().unwrap();

    backup.start_again().unwrap();
    let pool = pool(&backup.url("postgres")).await;
    let server = Served::start(&pool).await;
    for statement in new {
        run(&pool, statement).await;
    }
    assert!(pull_or_resync(&mut copy, &server).await);
    assert_eq!(copy.rows("product"), source(&pool, "product", "id").await);
    run(&pool, "delete from product where id = 1").await;
    assert!(!pull_or_resync(&mut copy, &server).await);
    assert_eq!(copy.rows("product"), source(&pool, "product", "id").await);
}

const FEW_BYTES: &str = "update product set name = name || '.' where id = 2";
const MANY_BYTES: &str = "update product set name = repeat('x', 10000); update product set name = 'y'";

#[tokio::test]
async fn a_base_backup_whose_log_is_behind_is_another_source() {
    put_back(&[MANY_BYTES], &[FEW_BYTES; 10]).await;
}

#[tokio::test]
async fn a_base_backup_whose_ids_are_behind_is_another_source() {
    put_back(&[FEW_BYTES; 10], &[MANY_BYTES]).await;
}

#[tokio::test]
async fn a_rebase_leaves_every_index_there() {
    let tables = "create table product (id int primary key, shop int not null); create table part (id int primary key)";
    let rig = Rig::start(tables).await;
    rig.enable_scoped("product", "shop").await;
    rig.enable(&["part"]).await;
    let mut connection = rig.database.connect().await.unwrap();
    admin::rebase(&mut connection, false).await.unwrap();
    for entity in admin::entities(&mut connection).await.unwrap() {
        assert!(entity.indexed, "{}", entity.name);
    }
}

/// A view of all columns is soon made, and Postgres would drop it with the column.
#[tokio::test]
async fn a_view_that_stands_in_the_way_of_a_rebase_is_named() {
    let rig = Rig::start("create table product (id int primary key)").await;
    rig.enable(&["product"]).await;
    rig.run("create view everything as select * from product").await;
    let mut connection = rig.database.connect().await.unwrap();
    let refused = admin::rebase(&mut connection, false)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("view public.everything"), "{refused}");
    rig.run("drop view everything").await;
    admin::rebase(&mut connection, false).await.unwrap();
}
