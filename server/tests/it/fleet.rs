//! The fleet: which devices a server has met, and how they stand.

use std::time::Duration;

use highwater_server::ServeOptions;
use serde_json::{Value, json};

use crate::rig::{Rig, Served};

const TABLES: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 20) g;
    create table customer (id int primary key)";

async fn served(options: ServeOptions) -> (Rig, Served) {
    let rig = Rig::start(TABLES).await;
    rig.enable(&["product", "customer"]).await;
    let server = Served::start_with(&rig.pool, options).await;
    (rig, server)
}

/// GETs a path as a device.
async fn get(server: &Served, path: &str, device: &str) -> reqwest::Response {
    let request = reqwest::Client::new()
        .get(format!("http://{}{path}", server.address))
        .header("highwater-client", device);
    request.send().await.unwrap()
}

/// Waits until the fleet is so.
async fn until(server: &Served, holds: impl Fn(&Value) -> bool) -> Value {
    let mut status = server.until_status(|status| holds(&status["fleet"])).await;
    status["fleet"].take()
}

async fn next(server: &Served, query: &str, device: &str) -> String {
    let page: Value = get(server, &format!("/changes?{query}"), device)
        .await
        .json()
        .await
        .unwrap();
    page["next"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_device_is_up_to_date_until_something_is_committed_that_it_asked_for() {
    let (rig, server) = served(ServeOptions::default()).await;
    let till = "\"till-7\"; version=\"0.1.0\"";
    let cursor = next(&server, "entity=product", till).await;
    let fleet = until(&server, |fleet| fleet["known"] == 1).await;
    assert_eq!(
        fleet["devices"][0]["upToDate"],
        json!(null),
        "it has said nothing yet: {fleet}"
    );
    let cursor = next(&server, &format!("entity=product&since={cursor}"), till).await;
    let fleet = until(&server, |fleet| fleet["upToDate"] == 1).await;
    let device = &fleet["devices"][0];
    assert_eq!(device["device"], "till-7");
    assert_eq!(device["version"], "0.1.0");
    assert_eq!(device["entities"], json!(["product"]));
    assert_eq!(device["caller"], json!(null));
    assert_eq!(device["requests"], 2);
    assert_eq!(device["behindSeconds"], 0);
    assert_eq!(device["errors"], json!([]));
    // Another entity is none of its business.
    rig.run("insert into customer values (1)").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let fleet = until(&server, |fleet| fleet["upToDate"] == 1).await;
    assert!(fleet["devices"][0]["since"].is_string());
    rig.run("update product set name = 'q' where id = 1").await;
    let fleet = until(&server, |fleet| fleet["behind"] == 1).await;
    let device = &fleet["devices"][0];
    assert_eq!(device["upToDate"], false);
    assert!(
        device["behindSeconds"].is_u64() && device["currentAsOf"].is_string(),
        "{device}"
    );
    assert_eq!(device["isFailing"], false);
    let cursor = next(&server, &format!("entity=product&since={cursor}"), till).await;
    next(&server, &format!("entity=product&since={cursor}"), till).await;
    until(&server, |fleet| fleet["upToDate"] == 1).await;
}

#[tokio::test]
async fn a_device_that_waits_shows_until_it_leaves() {
    let (_rig, server) = served(ServeOptions::default()).await;
    let cursor = next(&server, "", "\"till\"").await;
    let path = format!("/changes?wait=60&since={cursor}");
    let address = server.address;
    let waiting = tokio::spawn(async move {
        let request = reqwest::Client::new().get(format!("http://{address}{path}"));
        request.header("highwater-client", "\"till\"").send().await
    });
    let fleet = until(&server, |fleet| fleet["waiting"] == 1).await;
    assert_eq!(fleet["devices"][0]["waits"], true);
    assert_eq!(
        server.metric("highwater_devices{state=\"waiting\"}").await,
        Some(1.0)
    );
    waiting.abort();
    until(&server, |fleet| fleet["waiting"] == 0).await;
}

#[tokio::test]
async fn errors_that_a_device_met_or_tells_of_are_remembered() {
    let (_rig, server) = served(ServeOptions::default()).await;
    for _ in 0..3 {
        assert_eq!(
            get(&server, "/changes?entity=nosuch", "\"a\"").await.status(),
            404
        );
    }
    let cursor = next(&server, "", "\"b\"; failed=disk_full").await;
    next(&server, &format!("since={cursor}"), "\"c\"").await;
    let fleet = until(&server, |fleet| fleet["known"] == 3).await;
    let devices = fleet["devices"].as_array().unwrap();
    let names: Vec<&Value> = devices.iter().map(|device| &device["device"]).collect();
    assert_eq!(names, ["a", "b", "c"], "those that fail come first");
    assert_eq!(fleet["failing"], 2);
    assert_eq!(devices[0]["errors"], json!([{"status": 404, "times": 3}]));
    assert_eq!(devices[0]["lastError"]["code"], "unknown_entity");
    assert_eq!(devices[0]["lastError"]["byDevice"], false);
    assert_eq!(devices[1]["lastError"]["code"], "disk_full");
    assert_eq!(devices[1]["lastError"]["byDevice"], true);
    assert_eq!(devices[2]["lastError"], json!(null));
    assert_eq!(
        server.metric("highwater_devices{state=\"failing\"}").await,
        Some(2.0)
    );
    // Both get through again. What went wrong stays known.
    next(&server, "", "\"a\"").await;
    next(&server, "", "\"b\"").await;
    let fleet = until(&server, |fleet| fleet["failing"] == 0).await;
    assert!(fleet["devices"].to_string().contains("disk_full"));
}

#[tokio::test]
async fn who_was_not_seen_for_longest_is_forgotten_first() {
    let options = ServeOptions {
        devices_max: 3,
        ..ServeOptions::default()
    };
    let (_rig, server) = served(options).await;
    for device in ["\"a\"", "\"b\"", "\"c\"", "\"a\"", "\"d\""] {
        get(&server, "/changes?limit=1", device).await;
    }
    let fleet = until(&server, |fleet| fleet["known"] == 3).await;
    assert_eq!(fleet["knownMax"], 3);
    let mut names: Vec<&str> = fleet["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|device| device["device"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "c", "d"]);
    server.until_reached("devices_max", 1).await;
    assert_eq!(server.metric("highwater_devices_max").await, Some(3.0));
}

#[tokio::test]
async fn what_names_no_device_is_answered_all_the_same() {
    let (_rig, server) = served(ServeOptions::default()).await;
    for header in [
        "",
        "till",
        "\"\"",
        &format!("\"{}\"", "x".repeat(129)),
        "\"a\", \"b\"",
        "%\"%00\"",
    ] {
        assert_eq!(
            get(&server, "/changes?limit=1", header).await.status(),
            200,
            "{header}"
        );
    }
    assert_eq!(server.status("").await["fleet"]["known"], 0);
    let options = ServeOptions {
        devices_max: 0,
        ..ServeOptions::default()
    };
    let (_rig, server) = served(options).await;
    assert_eq!(get(&server, "/changes?limit=1", "\"a\"").await.status(), 200);
    assert_eq!(server.status("").await["fleet"]["known"], 0);
}

#[tokio::test]
async fn a_device_is_found_by_a_part_of_its_name() {
    let (_rig, server) = served(ServeOptions::default()).await;
    for number in 0..12 {
        get(&server, "/entities", &format!("\"Till-{number}\"")).await;
    }
    get(&server, "/entities", "%\"K%c3%a4se <b>\"").await;
    until(&server, |fleet| fleet["known"] == 13).await;
    let fleet = server.status("search=tILL-1&limit=2").await["fleet"].take();
    assert_eq!(fleet["matching"], 3, "1, 10 and 11");
    assert_eq!(fleet["devices"].as_array().unwrap().len(), 2);
    let fleet = server.status("search=k%C3%A4se").await["fleet"].take();
    assert_eq!(fleet["devices"][0]["device"], "Käse <b>");
    assert_eq!(server.status("limit=0").await["fleet"]["devices"], json!([]));
    assert_eq!(server.get("/status?limit=many").await.status(), 400);
}
