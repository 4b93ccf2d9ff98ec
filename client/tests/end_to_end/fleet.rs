//! The fleet as the server sees it: the real client names its device, falls behind, fails and comes back.

use std::path::Path;

use highwater_testbed::{Fault, Process, Proxy, until_told};
use serde_json::{Value, json};

use crate::rig::{Rig, client, output, run};

const TABLE: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 100) g";

/// What `/status` says of the devices.
async fn fleet(server: &str) -> Value {
    let status = reqwest::get(format!("{server}/status")).await.unwrap();
    let mut status: Value = status.json().await.unwrap();
    status["fleet"].take()
}

/// Waits until the one device is so.
async fn until(server: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut fleet = until_told(async || fleet(server).await, |fleet| holds(&fleet["devices"][0])).await;
    fleet["devices"][0].take()
}

fn daemon(server: &str, store: &Path) -> Process {
    let mut command = client("run", store);
    command.args(["--quiet", "--server", server, "--device", "Käse-Till 7"]);
    Process::spawn(command).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_seen_to_wait_to_fall_behind_to_fail_and_to_come_back() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let (server, store) = (rig.url(), rig.store("till.db"));
    let proxy = Proxy::before(rig.address).await.unwrap();
    let process = daemon(&proxy.url(), &store);
    let device = until(&server, |device| {
        device["waits"] == true && device["upToDate"] == true
    })
    .await;
    assert_eq!(device["device"], "Käse-Till 7");
    assert_eq!(device["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(device["lastError"], json!(null));
    // It is switched off, and something is committed.
    drop(process);
    until(&server, |device| device["waits"] == false).await;
    run(&rig.pool, "update product set name = 'new' where id = 1").await;
    let device = until(&server, |device| device["upToDate"] == false).await;
    assert!(device["behindSeconds"].is_u64(), "{device}");
    // It is switched on again where the network is bad.
    proxy.set(Fault::Cut(0));
    let _process = daemon(&proxy.url(), &store);
    let device = until(&server, |device| device["isFailing"] == true).await;
    assert_eq!(device["lastError"]["byDevice"], true, "{device}");
    let code = device["lastError"]["code"].clone();
    assert!(code == "unreachable" || code == "cut", "{device}");
    proxy.set(Fault::None);
    let device = until(&server, |device| {
        device["waits"] == true && device["upToDate"] == true
    })
    .await;
    assert_eq!(device["isFailing"], false);
    assert_eq!(device["lastError"]["code"], code, "what went wrong stays known");
    rig.assert_equal(&store, &["product"], "back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_called_like_its_host_unless_it_is_told_otherwise() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let names = |fleet: &Value| -> Vec<String> {
        let devices = fleet["devices"].as_array().unwrap().iter();
        devices
            .map(|device| device["device"].as_str().unwrap().to_owned())
            .collect()
    };
    // With an empty name nothing is told.
    let mut silent = rig.pull(&rig.store("silent.db"), &[]);
    silent.env("HIGHWATER_DEVICE", "");
    assert!(output(silent).await.status.success());
    assert_eq!(names(&fleet(&rig.url()).await), [""; 0]);
    rig.pulled(&rig.store("host.db"), &[]).await;
    let mut told = rig.pull(&rig.store("told.db"), &[]);
    told.env("HIGHWATER_DEVICE", "kiosk");
    assert!(output(told).await.status.success());
    let mut expected = [host_name(), "kiosk".to_owned()];
    expected.sort_unstable();
    let met = |fleet: &Value| {
        let mut met = names(fleet);
        met.sort_unstable();
        met == expected
    };
    until_told(async || fleet(&rig.url()).await, met).await;
}

fn host_name() -> String {
    let name = std::process::Command::new("uname").arg("-n").output().unwrap();
    String::from_utf8(name.stdout).unwrap().trim().to_owned()
}
