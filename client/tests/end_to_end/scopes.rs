//! What a device may see changes, and its store with it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use highwater_server::auth::{self, NewKey};
use highwater_server::caller::Grant;
use highwater_shared::EntityName;

use crate::live::value;
use crate::rig::{Rig, client, output, run};

const TABLES: &str = "create table product (id int primary key, tenant int, name text);
    insert into product select g, g % 2 + 1, 'p' || g from generate_series(1, 10) g;
    create table news (id int primary key, title text);
    insert into news values (1, 'for all')";

fn grant(tenants: &[&str], entities: &[&str]) -> Grant {
    Grant {
        name: "till".to_owned(),
        entities: Some(Arc::new(entities.iter().copied().map(EntityName::new).collect())),
        scopes: [(
            "tenant".to_owned(),
            tenants.iter().map(ToString::to_string).collect(),
        )]
        .into(),
        is_operator: false,
    }
}

fn pull(url: &str, store: &Path, key: &str) -> Command {
    let mut command = client("pull", store);
    command
        .args(["--quiet", "--keep-deleted", "--server", url])
        .env("HIGHWATER_TOKEN", key);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_device_may_no_longer_see_leave_its_store() {
    let rig = Rig::start(TABLES, &["news"]).await;
    rig.enable_scoped("product", "tenant").await;
    let file = rig.folder.path().join("keys");
    let mut keys = Vec::new();
    for (tenants, entities) in [
        (&["1", "2"][..], &["product", "news"][..]),
        (&["2"], &["product", "news"]),
        (&["2"], &["product"]),
        (&["2"], &["product", "news"]),
    ] {
        let new = NewKey {
            grant: grant(tenants, entities),
            expires: None,
        };
        keys.push(auth::add_key(&file, &new).unwrap());
    }
    let url = rig.serve_keys(&file).await;
    let store = rig.store("till.db");
    let count = |query: &str| value(&store, query);
    let mut seen = Vec::new();
    for key in &keys {
        let pulled = output(pull(&url, &store, key)).await;
        assert!(
            pulled.status.success(),
            "{}",
            String::from_utf8_lossy(&pulled.stderr)
        );
        seen.push((
            count("select cast(count(*) as text) from product").unwrap(),
            count("select cast(count(*) as text) from news").unwrap(),
        ));
    }
    let expected = [("10", "1"), ("5", "1"), ("5", "0"), ("5", "1")];
    assert_eq!(
        seen,
        expected.map(|(product, news)| (product.to_owned(), news.to_owned()))
    );

    // One that leaves does so, though deleted rows are kept here.
    run(
        &rig.pool,
        "update product set tenant = 1 where id = 1; delete from product where id = 3",
    )
    .await;
    let pulled = output(pull(&url, &store, &keys[3])).await;
    assert!(pulled.status.success());
    let held = "select group_concat(id || ':' || deleted) from (select id, deleted from product where id <= 3 order by id)";
    assert_eq!(count(held).as_deref(), Some("3:1"));
}
