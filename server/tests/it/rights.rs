//! The server needs to read, and nothing else.

use std::time::Duration;

use highwater_server::admin::{self, EnableOptions, PurgeOptions};
use highwater_testbed::Database;
use sqlx::PgPool;

use crate::rig::{Copy, Pull as _, Rig, Served, acting_as, run};

/// A role that may read Highwater's own tables and `product`, and connections that act as it.
async fn reader(rig: &Rig) -> (String, PgPool) {
    let role = format!("reader_{}", rig.database.name());
    rig.run(&format!(
        "create role \"{role}\" login; grant usage on schema highwater to \"{role}\";
         grant select on all tables in schema highwater to \"{role}\"; grant select on product to \"{role}\""
    ))
    .await;
    let pool = acting_as(&rig.database, &role).await;
    (role, pool)
}

async fn drop_role(rig: &Rig, role: &str) {
    rig.run(&format!("drop owned by \"{role}\"; drop role \"{role}\""))
        .await;
}

/// A role that may read the entities and Highwater's own tables serves every kind of page, the
/// nudge of the log included, and nothing it does changes a table.
#[tokio::test]
async fn a_role_that_can_only_read_serves() {
    let rig = Rig::start("create table product (id int primary key, name text); insert into product select g from generate_series(1, 9) g").await;
    rig.enable(&["product"]).await;
    let (role, reader) = reader(&rig).await;
    assert!(
        sqlx::query("delete from product").execute(&reader).await.is_err(),
        "the role can write"
    );
    let server = Served::start(&reader).await;

    let mut copy = Copy::default();
    copy.pull(&server, 2).await;
    // Not flushed by its commit, so that the page has to see to it.
    rig.run("set synchronous_commit = off; update product set name = 'n' where id = 1; delete from product where id = 2").await;
    copy.pull(&server, 2).await;
    rig.run("truncate product").await;
    copy.pull(&server, 2).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    assert_eq!(server.get("/entities").await.status(), 200);
    assert_eq!(server.get("/readyz").await.status(), 200);

    drop(server);
    reader.close().await;
    drop_role(&rig, &role).await;
}

/// Who owns the tables needs no other right, also on partitions and on those that come later.
#[tokio::test]
async fn an_owner_who_is_no_superuser_does_it_all() {
    let database = Database::create("owned").await.unwrap();
    let role = format!("owner_{}", database.name());
    let mut admin = database.connect().await.unwrap();
    let right = format!(
        "create role \"{role}\" login; grant create on database \"{}\" to \"{role}\"; grant create on schema public to \"{role}\"",
        database.name()
    );
    run(&mut admin, &right).await;
    let pool = acting_as(&database, &role).await;
    let mut owner = pool.acquire().await.unwrap();
    admin::migrate(&mut owner).await.unwrap();
    run(
        &pool,
        "create table sale (id int, area text, primary key (id, area)) partition by list (area);
         create table sale_a partition of sale for values in ('a');
         insert into sale values (1, 'a'), (2, 'a')",
    )
    .await;
    // The second time it finds all there.
    for _ in 0..2 {
        admin::enable(&mut owner, "sale", &EnableOptions::default())
            .await
            .unwrap();
    }
    let server = Served::start(&pool).await;
    let mut copy = Copy::default();
    copy.pull(&server, 0).await;
    run(
        &pool,
        "create table sale_b partition of sale for values in ('b');
         insert into sale values (3, 'b'), (4, 'b'); delete from sale where id in (1, 3);
         update sale set area = 'b' where id = 2",
    )
    .await;
    copy.pull(&server, 0).await;
    assert_eq!(copy.rows("sale").len(), 2);
    run(&pool, "truncate sale_b; insert into sale values (5, 'b')").await;
    copy.pull(&server, 0).await;
    assert_eq!(copy.rows("sale").len(), 1);
    let purge = PurgeOptions::older_than(Duration::ZERO);
    admin::purge(&mut owner, &purge).await.unwrap();
    assert!(admin::touch(&mut owner, "sale").await.unwrap());
    assert!(admin::disable(&mut owner, "sale", true).await.unwrap());
    drop(owner);
    drop(server);
    pool.close().await;
    run(
        &mut admin,
        &format!("drop owned by \"{role}\" cascade; drop role \"{role}\""),
    )
    .await;
}

/// Whoever enables a table and forgets the grant takes nothing from those who pull the others.
#[tokio::test]
async fn an_entity_that_the_role_may_not_read_is_left_out_until_it_may() {
    let tables = "create table product (id int primary key); insert into product select g from generate_series(1, 9) g;
        create table late (id int primary key); insert into late select g from generate_series(1, 5) g";
    let rig = Rig::start(tables).await;
    rig.enable(&["product"]).await;
    let (role, reader) = reader(&rig).await;
    let server = Served::start(&reader).await;
    let mut copy = Copy::default();
    copy.pull(&server, 0).await;

    rig.enable(&["late"]).await;
    let mut connection = rig.database.connect().await.unwrap();
    let without = admin::without_rights(&mut connection, "late").await.unwrap();
    assert!(without.contains(&role), "{without:?}");
    rig.run("update product set id = id + 100 where id = 1").await;
    copy.pull(&server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    assert!(copy.rows("late").is_empty());
    let named = server.get("/changes?entity=late").await;
    assert_eq!(named.status(), 503);
    let problem: serde_json::Value = named.json().await.unwrap();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("highwater-server grants"), "{problem}");

    rig.run(&format!("grant select on late to \"{role}\"")).await;
    assert!(
        admin::without_rights(&mut connection, "late")
            .await
            .unwrap()
            .is_empty()
    );
    copy.pull(&server, 0).await;
    assert_eq!(copy.rows("late"), rig.source("late", "id").await);
    rig.run(&format!(
        "revoke select on late from \"{role}\"; delete from product where id = 2"
    ))
    .await;
    copy.pull(&server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);

    drop(server);
    reader.close().await;
    drop_role(&rig, &role).await;
}
