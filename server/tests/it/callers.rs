//! Who may call: API keys, what a caller may read, and what those are told who may not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use highwater_server::ServeOptions;
use highwater_server::auth::{self, NewKey};
use highwater_server::caller::Grant;
use highwater_shared::{EntityName, Timestamp};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Rig, Served};

const TABLES: &str = "create table product (id int primary key); insert into product values (1);
    create table customer (id int primary key); insert into customer values (1)";

/// A database with two entities, a file of keys, and a server that asks for them.
struct Asking {
    rig: Rig,
    server: Served,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Asking {
    async fn start() -> Self {
        let rig = Rig::start(TABLES).await;
        rig.enable(&["product", "customer"]).await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, "").unwrap();
        let server = Served::start_keys(&rig.pool, &file, ServeOptions::default());
        Self {
            server: server.await,
            rig,
            file,
            _folder: folder,
        }
    }

    /// Adds a key, and waits until the server knows it. Gives the header to send.
    async fn key(&self, entities: Option<&[&str]>) -> String {
        let key = format!("Bearer {}", add(&self.file, entities, None));
        self.answers(&key, StatusCode::OK).await;
        key
    }

    /// Waits until a caller is answered so.
    async fn answers(&self, key: &str, status: StatusCode) {
        let wait = async {
            while self.server.get_by("/changes", key).await.status() != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        waited.unwrap_or_else(|_| panic!("no {status} comes"));
    }
}

fn add(file: &Path, entities: Option<&[&str]>, expires: Option<Timestamp>) -> String {
    let names = |names: &[&str]| -> Arc<BTreeSet<EntityName>> {
        Arc::new(names.iter().copied().map(EntityName::new).collect())
    };
    let grant = Grant {
        name: "till-7".to_owned(),
        entities: entities.map(names),
        ..Grant::default()
    };
    auth::add_key(file, &NewKey { grant, expires }).unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

/// They tell of all entities and all scopes, and a key is for some.
#[tokio::test]
async fn metrics_are_for_nobody_who_is_asked_who_it_is() {
    let asking = Asking::start().await;
    let key = asking.key(None).await;
    assert_eq!(
        asking.server.get("/metrics").await.status(),
        StatusCode::UNAUTHORIZED
    );
    let refused = asking.server.get_by("/metrics", &key).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "forbidden");
    assert!(
        problem["detail"].as_str().unwrap().contains("--metrics-listen"),
        "{problem}"
    );
}

#[tokio::test]
async fn who_does_not_say_who_it_is_gets_nothing() {
    let asking = Asking::start().await;
    let server = &asking.server;
    let key = asking.key(None).await;
    let mut told = Vec::new();
    for path in [
        "/changes",
        "/changes?since=nonsense",
        "/changes?entity=nosuch",
        "/entities",
    ] {
        let unasked = server.get(path).await;
        assert_eq!(unasked.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(header(&unasked, "www-authenticate"), "Bearer realm=\"highwater\"");
        assert_eq!(header(&unasked, "cache-control"), "no-store, private");
        assert_eq!(header(&unasked, "content-type"), "application/problem+json");
        let (forged, _) = key.split_at(key.len() - 2);
        let refused = server.get_by(path, forged).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path}");
        let challenge = "Bearer realm=\"highwater\", error=\"invalid_token\"";
        assert_eq!(header(&refused, "www-authenticate"), challenge);
        told.push([unasked, refused].map(Response::json::<Value>));
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(path).await.status(), StatusCode::OK, "{path}");
    }
    let [unasked, refused] = told.remove(0);
    insta::assert_json_snapshot!([unasked.await.unwrap(), refused.await.unwrap()]);
}

#[tokio::test]
async fn what_is_no_key_is_refused_and_nothing_worse() {
    let asking = Asking::start().await;
    let key = asking.key(None).await;
    assert_eq!(
        asking
            .server
            .get_by("/entities", &key.replace("Bearer", "bEARER"))
            .await
            .status(),
        200
    );
    let long = format!("Bearer {}", "x".repeat(60_000));
    for text in [
        "",
        "Bearer",
        "Bearer ",
        "Basic dTpw",
        "Bearer hw_",
        "Bearer hw__",
        "Bearer hw_0_0",
        "Bearer a.b.c",
        &long,
        &key.replace("Bearer ", ""),
        &format!("{key}x"),
        &key.replace('_', "-"),
    ] {
        let refused = asking.server.get_by("/changes", text).await;
        assert_eq!(
            refused.status(),
            StatusCode::UNAUTHORIZED,
            "{:?}",
            text.get(..40).unwrap_or(text)
        );
    }
    // What no library sends: bytes that are not text, and two headers, of which the first is right.
    let key = key.as_bytes();
    for lines in [
        vec![&b"Bearer \xff\xfe\x80"[..]],
        vec![key, key],
        vec![key, b"Bearer hw_0_0"],
    ] {
        let mut caller = TcpStream::connect(asking.server.address).await.unwrap();
        let mut request = b"GET /changes HTTP/1.1\r\nhost: x\r\nconnection: close\r\n".to_vec();
        for line in &lines {
            request.extend_from_slice(&[b"authorization: ", *line, b"\r\n"].concat());
        }
        request.extend_from_slice(b"\r\n");
        caller.write_all(&request).await.unwrap();
        let mut response = String::new();
        caller.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 401 "), "{response}");
    }
}

/// Whether there is an entity that a caller may not read, it is not told.
#[tokio::test]
async fn entities_that_may_not_be_read_do_not_show() {
    let asking = Asking::start().await;
    let server = &asking.server;
    let key = asking.key(Some(&["product", "later"])).await;
    let problem = async |path: &str| {
        let response = server.get_by(path, &key).await;
        let status = response.status().as_u16();
        assert_eq!(header(&response, "cache-control"), "no-store, private", "{path}");
        (status, response.json::<Value>().await.unwrap())
    };
    let (status, hidden) = problem("/changes?entity=customer").await;
    assert_eq!((status, &hidden["code"]), (403, &json!("forbidden_entity")));
    let (_, unknown) = problem("/changes?entity=nosuch").await;
    let renamed = hidden.to_string().replace("customer", "nosuch");
    assert_eq!(unknown.to_string(), renamed);
    assert_eq!(problem("/changes?entity=product,customer").await.0, 403);
    assert_eq!(problem("/changes?entity=later").await.0, 404);

    let (status, page) = problem("/changes").await;
    assert_eq!((status, &page["entities"]), (200, &json!(["product"])));
    assert!(!page.to_string().contains("customer"));
    let (_, list) = problem("/entities").await;
    assert_eq!(list["entities"].as_array().unwrap().len(), 1);
    assert_eq!(list["entities"][0]["name"], "product");

    // What changes in the other entity is no news, and what it may read comes when it is there.
    asking.rig.run("insert into customer values (2)").await;
    let since = format!("/changes?wait=1&since={}", page["next"].as_str().unwrap());
    let (_, nothing) = problem(&since).await;
    assert_eq!(
        (&nothing["changes"], &nothing["entities"]),
        (&json!([]), &json!(["product"]))
    );
    asking.rig.run("create table later (id int primary key)").await;
    asking.rig.enable(&["later"]).await;
    let (_, more) = problem(&since).await;
    assert_eq!(more["entities"], json!(["product", "later"]));
    assert_eq!(more["changes"][0]["entity"], "later");
}

/// The same pages are shared by callers who may read the same, and by no others.
#[tokio::test]
async fn who_may_read_all_and_who_may_not_share_no_page() {
    let asking = Asking::start().await;
    let (all, some) = (asking.key(None).await, asking.key(Some(&["customer"])).await);
    let none = asking.key(Some(&[])).await;
    for _ in 0..3 {
        for (key, expected) in [
            (&all, json!(["product", "customer"])),
            (&some, json!(["customer"])),
            (&none, json!([])),
        ] {
            let page: Value = asking.server.get_by("/changes", key).await.json().await.unwrap();
            assert_eq!(page["entities"], expected);
            let since = format!("/changes?since={}", page["next"].as_str().unwrap());
            let page: Value = asking.server.get_by(&since, key).await.json().await.unwrap();
            assert_eq!(page["entities"], expected);
        }
    }
    let unknown = asking.server.get_by("/changes?entity=nosuch", &all).await;
    assert_eq!(
        unknown.status(),
        StatusCode::NOT_FOUND,
        "who may read all may know what there is"
    );
    let cached = asking.server.get_by("/changes", &all).await;
    assert_eq!(header(&cached, "cache-control"), "no-store, private");
}

#[tokio::test]
async fn the_file_counts_as_it_is_now() {
    let asking = Asking::start().await;
    let (first, second) = (asking.key(None).await, asking.key(None).await);
    // A file that is wrong changes nothing, whoever is in it.
    let text = std::fs::read_to_string(&asking.file).unwrap();
    let without_first = {
        let id = first.split('_').nth(1).unwrap();
        let kept = text.lines().filter(|line| !line.contains(id));
        kept.collect::<Vec<_>>().join("\n")
    };
    std::fs::write(&asking.file, format!("{without_first}\n{{}}\n")).unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    asking.answers(&first, StatusCode::OK).await;
    // In place, and right again: the key that was taken out is.
    std::fs::write(&asking.file, without_first).unwrap();
    asking.answers(&first, StatusCode::UNAUTHORIZED).await;
    assert_eq!(
        asking.server.get_by("/changes", &second).await.status(),
        StatusCode::OK
    );
    std::fs::remove_file(&asking.file).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(
        asking.server.get_by("/changes", &second).await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_key_expires_while_the_server_runs() {
    let asking = Asking::start().await;
    let soon = chrono::Utc::now() + Duration::from_secs(4);
    let soon = Timestamp::from_micros(soon.timestamp_micros());
    let key = format!("Bearer {}", add(&asking.file, None, Some(soon)));
    asking.answers(&key, StatusCode::OK).await;
    asking.answers(&key, StatusCode::UNAUTHORIZED).await;
    let problem: Value = asking.server.get_by("/changes", &key).await.json().await.unwrap();
    assert_eq!(problem["detail"], "the key or token has expired");
}
