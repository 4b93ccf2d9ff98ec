//! Who may see the page and the status: operators, by Bearer or by what a browser sends.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use highwater_server::ServeOptions;
use highwater_server::auth::{self, NewKey};
use highwater_server::caller::Grant;
use highwater_testbed::until_told;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::rig::{Rig, Served};

const TABLES: &str = "create table product (id int primary key, tenant int not null);
    insert into product select g, g % 2 from generate_series(1, 20) g;
    create table \"Odd \"\"Name\" (id int primary key)";

/// All that is for operators.
const PATHS: [&str; 4] = ["/", "/page.js", "/page.css", "/status"];

fn key(file: &Path, is_operator: bool) -> String {
    let grant = Grant {
        name: "anna".to_owned(),
        is_operator,
        ..Grant::default()
    };
    auth::add_key(file, &NewKey { grant, expires: None }).unwrap()
}

fn basic(user: &str, key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{key}")))
}

/// A server that knows an operator and another caller, and their keys.
async fn asking() -> (Rig, Served, String, String) {
    let rig = Rig::start(TABLES).await;
    rig.enable(&["product"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let (operator, other) = (key(&file, true), key(&file, false));
    let server = Served::start_keys(&rig.pool, &file, ServeOptions::default()).await;
    (rig, server, operator, other)
}

#[tokio::test]
async fn operators_are_let_in_and_nobody_else() {
    let (_rig, server, operator, other) = asking().await;
    for path in PATHS {
        for good in [
            format!("Bearer {operator}"),
            basic("anna", &operator),
            basic("", &operator),
        ] {
            assert_eq!(
                server.get_by(path, &good).await.status(),
                StatusCode::OK,
                "{path}"
            );
        }
        for other in [format!("Bearer {other}"), basic("anna", &other)] {
            let refused = server.get_by(path, &other).await;
            assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
            let problem: Value = refused.json().await.unwrap();
            assert_eq!(problem["code"], "forbidden");
            assert!(
                problem["detail"].as_str().unwrap().contains("--operator"),
                "{problem}"
            );
        }
        for wrong in [
            "Basic ///",
            &basic("anna", "hw_1_no"),
            &basic(&operator, ""),
            "Bearer x",
        ] {
            let refused = server.get_by(path, wrong).await;
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path} {wrong}");
        }
    }
}

#[tokio::test]
async fn a_browser_is_asked_for_a_password_by_the_page_and_by_nothing_else() {
    let (_rig, server, operator, _) = asking().await;
    let challenges = |response: &reqwest::Response| -> Vec<String> {
        let all = response.headers().get_all("www-authenticate").iter();
        all.map(|challenge| challenge.to_str().unwrap().to_owned())
            .collect()
    };
    for path in PATHS {
        let refused = server.get(path).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(refused.headers()["cache-control"], "no-store, private");
        let told = challenges(&refused);
        assert_eq!(told[0], "Basic realm=\"highwater\", charset=\"UTF-8\"", "{path}");
        assert_eq!(told[1..], ["Bearer realm=\"highwater\""], "{path}");
        let again = challenges(&server.get_by(path, &basic("anna", "no")).await);
        assert_eq!(
            again[1..],
            ["Bearer realm=\"highwater\", error=\"invalid_token\""]
        );
    }
    for path in ["/changes", "/entities", "/metrics"] {
        let refused = server.get_by(path, &basic("anna", &operator)).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(challenges(&refused).len(), 1, "{path}");
    }
}

#[tokio::test]
async fn the_right_of_an_operator_brings_no_row() {
    let (rig, server, operator, _) = asking().await;
    rig.enable_scoped("product", "tenant").await;
    let page: Value = server
        .get_by("/changes", &format!("Bearer {operator}"))
        .await
        .json()
        .await
        .unwrap();
    let rows = page["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|change| change["row"].is_object());
    assert_eq!(rows.count(), 0, "{page}");
}

#[tokio::test]
async fn the_page_may_load_what_stands_beside_it_and_nothing_else() {
    let rig = Rig::start(TABLES).await;
    let server = &rig.server;
    let page = server.get("/").await;
    assert_eq!(page.status(), StatusCode::OK);
    let policy = page.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"),
        "{policy}"
    );
    assert!(
        !policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"),
        "{policy}"
    );
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    for (path, kind) in [("/page.js", "text/javascript"), ("/page.css", "text/css")] {
        let file = server.get(path).await;
        assert!(
            file.headers()["content-type"].to_str().unwrap().starts_with(kind),
            "{path}"
        );
        assert_eq!(
            file.headers()["content-security-policy"],
            "default-src 'none'; frame-ancestors 'none'"
        );
        assert!(!file.text().await.unwrap().is_empty());
    }
    assert_eq!(
        server.post("/status", "", None).await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
}

/// GETs a path as a device of the caller with this key.
async fn as_device(server: &Served, path: &str, key: &str, device: &str) -> Value {
    let request = reqwest::Client::new()
        .get(format!("http://{}{path}", server.address))
        .header("highwater-client", device);
    let response = request.bearer_auth(key).send().await.unwrap();
    response.json().await.unwrap()
}

#[tokio::test]
async fn an_operator_asks_why_a_device_lacks_a_row_by_its_name() {
    let rig = Rig::start(TABLES).await;
    rig.enable_scoped("product", "tenant").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let operator = key(&file, true);
    let of_tenant = |name: &str, tenant: &str| {
        let grant = Grant {
            name: name.to_owned(),
            scopes: [("tenant".to_owned(), [tenant.to_owned()].into())].into(),
            ..Grant::default()
        };
        auth::add_key(&file, &NewKey { grant, expires: None }).unwrap()
    };
    let (even, odd) = (of_tenant("even", "0"), of_tenant("odd", "1"));
    let server = Served::start_keys(&rig.pool, &file, ServeOptions::default()).await;
    let page = as_device(&server, "/changes", &even, "\"till\"").await;
    let since = format!("/changes?since={}", page["next"].as_str().unwrap());
    as_device(&server, &since, &even, "\"till\"").await;
    let by = basic("anna", &operator);
    let ask = async |query: &str| -> Value {
        let path = format!("/why?entity=product&{query}");
        server.get_by(&path, &by).await.json().await.unwrap()
    };
    assert_eq!(ask("device=till&key=2").await["outcome"], "seen");
    // What other tenants write is none of its business.
    let told = async || -> Value { server.get_by("/status", &by).await.json().await.unwrap() };
    let stands = async |expected: bool| {
        let holds = |status: &Value| {
            let devices = status["fleet"]["devices"].as_array().unwrap();
            let till = devices.iter().find(|device| device["device"] == "till").unwrap();
            till["upToDate"] == expected
        };
        until_told(told, holds).await;
    };
    stands(true).await;
    rig.run("insert into product values (101, 1)").await;
    // Another device of the other tenant is behind by it, so it has been looked at.
    let page = as_device(&server, "/changes?since=1970-01-01T00:00:00Z", &odd, "\"other\"").await;
    assert!(page.to_string().contains("101"), "{page}");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    stands(true).await;
    rig.run("insert into product values (102, 0)").await;
    stands(false).await;
    let other = ask("device=till&key=3").await;
    assert_eq!(
        (&other["outcome"], &other["scope"]),
        (&json!("other_scope"), &json!("1")),
        "{other}"
    );
    rig.run("update product set tenant = tenant where id = 2; update product set tenant = 1 where id = 4")
        .await;
    assert_eq!(ask("device=till&key=4").await["nextPull"], "deletion");
    // Whoever is no operator is told nothing of devices, not even that there are none.
    for device in ["till", "nobody"] {
        let path = format!("/why?entity=product&key=2&device={device}");
        let refused = server.get_by(&path, &format!("Bearer {odd}")).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    }
    let unknown = ask("device=nobody&key=2").await;
    assert_eq!(unknown["code"], "unknown_device");
    as_device(&server, "/changes", &odd, "\"till\"").await;
    assert_eq!(
        ask("device=till&key=2").await["code"],
        "unknown_device",
        "there are two"
    );
    assert_eq!(ask("device=till&caller=odd&key=3").await["outcome"], "live");
}

#[tokio::test]
async fn entities_are_told_with_their_sizes_and_their_pace() {
    let rig = Rig::start(TABLES).await;
    let server = &rig.server;
    let empty = server
        .until_status(|status| status["source"]["looked"].is_string())
        .await;
    assert_eq!(empty["entities"], json!([]));
    assert_eq!(empty["source"]["hasFailed"], false);
    assert_eq!(empty["source"]["isStandby"], false);
    rig.enable(&["product", "\"Odd \"\"Name\""]).await;
    rig.run("analyze product").await;
    let status = server
        .until_status(|status| status["entities"].as_array().unwrap().len() == 2)
        .await;
    assert_eq!(status["entities"][0]["name"], "Odd \"Name");
    let product = &status["entities"][1];
    assert_eq!(product["table"], "public.product");
    assert_eq!(product["key"], json!(["id"]));
    assert_eq!(product["fault"], json!(null));
    assert_eq!(product["estimatedRows"], 20);
    assert_eq!(status["server"]["version"], env!("CARGO_PKG_VERSION"));
    let writes = async {
        loop {
            rig.run("update product set tenant = tenant + 1").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let told = server.until_status(|status| {
        status["entities"][1]["changesPerSecond"]
            .as_f64()
            .is_some_and(|rate| rate > 1.0)
    });
    tokio::select! {
        () = writes => {}
        _ = told => {}
    }
}

#[tokio::test]
async fn sizes_are_those_of_postgres() {
    let rig = Rig::start(TABLES).await;
    rig.enable(&["product"]).await;
    let status = rig
        .server
        .until_status(|status| status["entities"][0]["tableBytes"].is_u64())
        .await;
    let (table, indexes): (i64, i64) =
        sqlx::query_as("select pg_table_size('product'), pg_indexes_size('product')")
            .fetch_one(&rig.pool)
            .await
            .unwrap();
    assert_eq!(status["entities"][0]["tableBytes"], table);
    assert_eq!(status["entities"][0]["indexBytes"], indexes);
}

#[tokio::test]
async fn the_oldest_writer_is_told_with_its_process() {
    let rig = Rig::start(TABLES).await;
    rig.enable(&["product"]).await;
    let mut writer = rig.database.connect().await.unwrap();
    sqlx::raw_sql("set application_name = 'the till'; begin; insert into product values (100, 1)")
        .execute(&mut writer)
        .await
        .unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut writer)
        .await
        .unwrap();
    // Other tests write in the same cluster, and may have begun before.
    let status = rig
        .server
        .until_status(|status| status["source"]["oldestWriter"]["pid"] == pid)
        .await;
    let told = &status["source"]["oldestWriter"];
    assert_eq!(told["application"], "the till");
    assert_eq!(told["state"], "idle in transaction");
    assert!(told["since"].is_string());
    sqlx::raw_sql("rollback").execute(&mut writer).await.unwrap();
    rig.server
        .until_status(|status| status["source"]["oldestWriter"]["pid"] != pid)
        .await;
}
