//! A device that the server holds to a pace waits as it is told, and gets all the same what it came for.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use highwater_server::ServeOptions;
use highwater_server::auth::{self, AuthOptions, Authenticator, NewKey};
use highwater_server::caller::Grant;
use serde_json::Value;

use crate::rig::{Rig, client, output};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_told_to_wait_waits_and_gets_every_row() {
    let table = "create table product (id int primary key, name text);
        insert into product select g, 'p' || g from generate_series(1, 60) g";
    let rig = Rig::start(table, &["product"]).await;
    let file = rig.folder.path().join("keys");
    let grant = Grant {
        name: "till-7".to_owned(),
        ..Grant::default()
    };
    let key = auth::add_key(&file, &NewKey { grant, expires: None }).unwrap();
    let known = AuthOptions {
        api_keys: Some(file),
        tokens: None,
    };
    let options = ServeOptions {
        authenticator: Some(Arc::new(Authenticator::open(known).await.unwrap())),
        caller_requests_per_second: NonZeroU32::new(10),
        ..ServeOptions::default()
    };
    let address = rig.serve_with(options).await;
    let store = rig.store("paced.db");
    let mut pull = client("pull", &store);
    pull.args(["--json", "--limit", "2", "--server", &format!("http://{address}")])
        .env("HIGHWATER_TOKEN", key);
    let began = Instant::now();
    let pulled = output(pull).await;
    let said = String::from_utf8_lossy(&pulled.stderr).into_owned();
    assert!(pulled.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&pulled.stdout).unwrap();
    // Thirty pages at once are more than it may ask for; and it comes back when it is told to, not before,
    // or it would be refused far more often.
    let retries = report["retries"].as_u64().unwrap();
    assert!((1..=5).contains(&retries), "{report}");
    assert!(began.elapsed().as_secs() >= 1, "{:?}", began.elapsed());
    rig.assert_equal(&store, &["product"], "at a pace").await;
}
