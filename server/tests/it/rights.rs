//! The server needs to read, and nothing else.

use std::str::FromStr as _;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::rig::{Copy, Pull as _, Rig, Served};

/// A role that may read the entities and Highwater's own tables serves every kind of page, the
/// nudge of the log included, and nothing it does changes a table.
#[tokio::test]
async fn a_role_that_can_only_read_serves() {
    let rig = Rig::start("create table product (id int primary key, name text); insert into product select g from generate_series(1, 9) g").await;
    rig.enable(&["product"]).await;
    let role = format!("reader_{}", rig.database.name());
    rig.run(&format!(
        "create role \"{role}\"; grant usage on schema highwater to \"{role}\";
         grant select on all tables in schema highwater to \"{role}\"; grant select on product to \"{role}\""
    ))
    .await;
    let options = PgConnectOptions::from_str(&rig.database.url())
        .unwrap()
        .options([("role", role.as_str())]);
    let reader = PgPoolOptions::new()
        .max_connections(4)
        .connect_with(options)
        .await
        .unwrap();
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
    rig.run(&format!("drop owned by \"{role}\"; drop role \"{role}\""))
        .await;
}
