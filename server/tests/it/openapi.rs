//! `/openapi.json` against what the server does: real answers, held against the schemas.

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_server::ServeOptions;
use highwater_server::auth::{self, NewKey};
use highwater_server::caller::Grant;
use highwater_shared::EntityName;
use serde_json::Value;

use crate::rig::{Rig, Served};

/// Headers that not every answer of a kind has.
const SELDOM: [&str; 1] = ["etag"];

/// The document, and what of it has been met.
struct Document {
    document: Value,
    met: BTreeSet<(String, String)>,
}

impl Document {
    async fn of(server: &Served) -> Self {
        let response = server.get("/openapi.json").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        Self {
            document: response.json().await.unwrap(),
            met: BTreeSet::new(),
        }
    }

    /// Holds an answer to a path against what the document says of it: status, form, headers, schema.
    async fn holds(&mut self, path: &str, response: reqwest::Response) {
        let status = response.status().as_str().to_owned();
        let method = if path == "/digests" { "post" } else { "get" };
        let pointer = format!("/paths/{}/{method}/responses/{status}", path.replace('/', "~1"));
        let answer = self.document.pointer(&pointer);
        let answer = answer.unwrap_or_else(|| panic!("{pointer} is not there")).clone();
        self.met.insert((path.to_owned(), status.clone()));
        let headers = response.headers().clone();
        for header in answer["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
        {
            let is_there = headers.contains_key(header) || SELDOM.contains(&header.as_str());
            assert!(is_there, "{path} {status} lacks {header}");
        }
        let body = response.bytes().await.unwrap();
        let Some(forms) = answer["content"].as_object() else {
            assert!(body.is_empty(), "{path} {status} has a body");
            return;
        };
        let media_type = headers["content-type"].to_str().unwrap();
        let media_type = media_type.split(';').next().unwrap();
        let form = &forms
            .get(media_type)
            .unwrap_or_else(|| panic!("{path} {status} as {media_type}"))["schema"];
        let value = if media_type.ends_with("json") {
            serde_json::from_slice(&body).unwrap()
        } else {
            Value::from(std::str::from_utf8(&body).unwrap())
        };
        self.fits(form, &value);
    }

    fn fits(&self, schema: &Value, value: &Value) {
        // Schemas refer to the document's components, so these come along.
        let schema = serde_json::json!({"allOf": [schema], "components": self.document["components"]});
        let validator = jsonschema::draft202012::options()
            .should_validate_formats(true)
            .build(&schema)
            .expect("a schema");
        let faults: Vec<String> = validator
            .iter_errors(value)
            .map(|fault| fault.to_string())
            .collect();
        assert!(faults.is_empty(), "{faults:?}: {value}");
    }

    /// What the document promises and no test has met.
    fn unmet(&self) -> Vec<String> {
        let mut unmet = Vec::new();
        for (path, item) in self.document["paths"].as_object().unwrap() {
            let operation = item.as_object().unwrap().values().next().unwrap();
            for status in operation["responses"].as_object().unwrap().keys() {
                if !self.met.contains(&(path.clone(), status.clone())) {
                    unmet.push(format!("{path} {status}"));
                }
            }
        }
        unmet
    }
}

async fn rig() -> Rig {
    let rig = Rig::start(
        "create table product (id int primary key, name text, tags text[], price numeric(8, 2), made timestamptz, extra jsonb);
        insert into product select g, 'p' || g, '{a,b}', g, now(), '{\"a\": [1, null]}' from generate_series(1, 20) g;
        create table pair (a text, b uuid default gen_random_uuid(), primary key (a, b)); insert into pair values ('x')",
    )
    .await;
    rig.enable(&["product", "pair"]).await;
    rig
}

/// A device that meets an error, so that there is one to tell of.
async fn get_as_device(server: &Served) {
    for path in ["/changes", "/changes?entity=nosuch"] {
        let request = reqwest::Client::new().get(format!("http://{}{path}", server.address));
        let device = "\"till-7\"; version=\"1\"";
        request.header("highwater-client", device).send().await.unwrap();
    }
}

#[tokio::test]
async fn every_answer_is_as_the_document_says() {
    let rig = rig().await;
    let server = &rig.server;
    let mut document = Document::of(server).await;
    for path in [
        "/entities",
        "/metrics",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/",
        "/page.js",
        "/page.css",
    ] {
        document.holds(path, server.get(path).await).await;
    }
    get_as_device(server).await;
    for path in [
        "/why?device=till-7&entity=product&key=1",
        "/why?device=nobody&entity=product&key=1",
    ] {
        document.holds("/why", server.get(path).await).await;
    }
    for path in ["/status", "/status?search=till&limit=1", "/status?limit=many"] {
        document.holds("/status", server.get(path).await).await;
    }
    let first = server.page("limit=7").await;
    rig.run("update product set name = 'q' where id = 1; delete from product where id = 2")
        .await;
    let whole = server.page("").await;
    rig.run("update product set name = 'r' where id = 3; delete from product where id = 4")
        .await;
    for query in [
        String::new(),
        "limit=1".to_owned(),
        format!("since={}", first["next"].as_str().unwrap()),
        format!("since={}&wait=0", whole["next"].as_str().unwrap()),
        "since=2026-01-01T00:00:00Z&entity=product".to_owned(),
        "since=nonsense".to_owned(),
        "limit=0".to_owned(),
        "wait=61".to_owned(),
        "entity=".to_owned(),
        "entity=nosuch".to_owned(),
    ] {
        for accept in ["application/json", "application/vnd.highwater.copy"] {
            let response = server.get_as(&format!("/changes?{query}"), accept).await;
            document.holds("/changes", response).await;
        }
    }
    document
        .holds("/changes", server.get_as("/changes", "text/html").await)
        .await;

    let settled = whole["next"].as_str().unwrap();
    for query in [
        "entity=product&key=1".to_owned(),
        format!("entity=product&key=%7B%22id%22:4%7D&since={settled}"),
        format!("entity=product&key=99&since={settled}"),
        "entity=product&key=one".to_owned(),
        "entity=nosuch&key=1".to_owned(),
    ] {
        document
            .holds("/why", server.get(&format!("/why?{query}")).await)
            .await;
    }

    // The lines of a page in COPY blocks that are JSON are in the document too.
    let blocks = server
        .get_as("/changes", "application/vnd.highwater.copy")
        .await
        .text()
        .await
        .unwrap();
    let (header, trailer) = (blocks.lines().next().unwrap(), blocks.lines().last().unwrap());
    for (name, line) in [("BlockHeader", header), ("Trailer", trailer)] {
        let schema = document.document["components"]["schemas"][name].clone();
        document.fits(&schema, &serde_json::from_str(line).unwrap());
    }

    let asks = |since: &str, entity: &str| {
        format!(r#"{{"since": {since:?}, "entities": [{{"entity": {entity:?}, "bits": 2}}]}}"#)
    };
    for body in [
        asks(settled, "product"),
        asks("nonsense", "product"),
        asks(settled, "nosuch"),
        "nonsense".to_owned(),
    ] {
        document
            .holds("/digests", server.post("/digests", body, None).await)
            .await;
    }

    let now = rig.server.page("").await;
    let path = format!("/changes?since={}", now["next"].as_str().unwrap());
    let tag = server.get(&path).await.headers()["etag"].clone();
    let again = reqwest::Client::new().get(format!("http://{}{path}", server.address));
    let again = again.header("if-none-match", tag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    document.holds("/changes", again).await;

    let other = self::rig().await;
    let elsewhere = other
        .server
        .post("/digests", asks(settled, "product"), None)
        .await;
    document.holds("/digests", elsewhere).await;
    let resync = other.server.get(&path).await;
    assert_eq!(resync.status(), 410);
    document.holds("/changes", resync).await;

    // Refused at once: no request is answered at a time.
    let busy = ServeOptions {
        requests_max: 0,
        ..ServeOptions::default()
    };
    let busy = Served::start_with(&rig.pool, busy).await;
    for path in ["/changes", "/entities"] {
        document.holds(path, busy.get(path).await).await;
    }
    document
        .holds("/why", busy.get("/why?entity=product&key=1").await)
        .await;
    document
        .holds("/digests", busy.post("/digests", "", None).await)
        .await;

    // A fault of the server's own, and one of Postgres: what is asked is not there any more.
    rig.run("alter table highwater.source rename to elsewhere").await;
    document.holds("/readyz", server.get("/readyz").await).await;
    rig.run(
        "alter table highwater.elsewhere rename to source; alter table highwater.entity rename to elsewhere",
    )
    .await;
    document.holds("/entities", server.get("/entities").await).await;

    let unmet = document.unmet();
    // Those are met below, or by the tests of TLS and of limits.
    let elsewhere = ["401", "403", "413", "414", "426", "429", "431"];
    let is_met = |unmet: &&String| !elsewhere.iter().any(|status| unmet.ends_with(status));
    let unmet: Vec<&String> = unmet.iter().filter(is_met).collect();
    // What is left needs a panic, or a moment in which nothing can be had of Postgres.
    assert_eq!(
        unmet,
        [
            "/ 500",
            "/ 503",
            "/changes 500",
            "/digests 406",
            "/digests 500",
            "/healthz 500",
            "/metrics 500",
            "/openapi.json 500",
            "/page.css 500",
            "/page.css 503",
            "/page.js 500",
            "/page.js 503",
            "/readyz 503",
            "/status 500",
            "/status 503",
            "/why 500"
        ]
    );
}

#[tokio::test]
async fn every_refusal_of_a_caller_is_as_the_document_says() {
    let rig = rig().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let key = auth::add_key(
        &file,
        &NewKey {
            grant: Grant {
                name: "till".to_owned(),
                entities: Some(Arc::new([EntityName::new("pair")].into())),
                ..Grant::default()
            },
            expires: None,
        },
    )
    .unwrap();
    let server = Served::start_keys(&rig.pool, &file, ServeOptions::default()).await;
    let mut document = Document::of(&server).await;
    let bearer = format!("Bearer {key}");
    for path in [
        "/changes",
        "/entities",
        "/metrics",
        "/status",
        "/",
        "/page.js",
        "/page.css",
    ] {
        document.holds(path, server.get(path).await).await;
        document
            .holds(path, server.get_by(path, "Bearer nobody").await)
            .await;
        document.holds(path, server.get_by(path, &bearer).await).await;
    }
    document
        .holds(
            "/changes",
            server.get_by("/changes?entity=product", &bearer).await,
        )
        .await;
    let path = "/why?entity=product&key=1";
    document.holds("/why", server.get(path).await).await;
    document.holds("/why", server.get_by(path, &bearer).await).await;
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        document.holds(path, server.get(path).await).await;
    }
    for met in [
        "/changes 401",
        "/changes 403",
        "/entities 401",
        "/metrics 403",
        "/status 403",
        "/ 401",
    ] {
        assert!(!document.unmet().contains(&met.to_owned()), "{met}");
    }
}
