//! The document against the router and the codes.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use sqlx::postgres::PgPoolOptions;
use tokio_util::sync::CancellationToken;

use super::openapi;
use crate::http::{ServeOptions, Shared, router};
use crate::node::Node;

fn read(asks_callers: bool, has_metrics: bool) -> Value {
    serde_json::to_value(openapi(asks_callers, 1_000, has_metrics)).unwrap()
}

fn paths(document: &Value) -> BTreeSet<String> {
    document["paths"].as_object().unwrap().keys().cloned().collect()
}

/// Every path that the router knows. It has no list of them; what it shows of itself has one.
fn routed(has_metrics: bool) -> BTreeSet<String> {
    let pool = PgPoolOptions::new().connect_lazy("postgres://nowhere").unwrap();
    let node = Arc::new(Node::new(pool));
    let shared = Shared::new(
        node,
        ServeOptions::default(),
        has_metrics,
        CancellationToken::new(),
    );
    let shown = format!("{:?}", router(Arc::new(shared), has_metrics));
    let (_, list) = shown.split_once("paths: {").unwrap();
    let (list, _) = list.split_once('}').unwrap();
    let quoted = list.split('"').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_document_has_every_route_and_no_other() {
    for has_metrics in [true, false] {
        let routed = routed(has_metrics);
        assert!(routed.contains("/changes"), "{routed:?}");
        assert_eq!(paths(&read(false, has_metrics)), routed);
    }
}

/// Codes without a route are those of every other path and method.
#[test]
fn every_code_belongs_to_a_route() {
    let document = read(false, true);
    let mut told = BTreeSet::from(["not_found", "method_not_allowed"]);
    for path in document["paths"].as_object().unwrap().values() {
        let operations = path.as_object().unwrap().values();
        for answer in operations.flat_map(|operation| operation["responses"].as_object().unwrap().values()) {
            let codes =
                &answer["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"];
            told.extend(
                codes["enum"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str),
            );
        }
    }
    let codes = document["components"]["schemas"]["Code"].to_string();
    let known = codes.split('"').filter(|word| told.contains(word)).count();
    assert_eq!(known, told.len(), "every code that a route has is one: {codes}");
    let all = document["components"]["schemas"]["Code"].clone();
    let all = all["enum"].as_array().unwrap_or_else(|| panic!("{all}"));
    assert_eq!(
        all.iter().filter_map(Value::as_str).collect::<BTreeSet<_>>(),
        told
    );
}

#[test]
fn whoever_is_asked_who_it_is_finds_that_in_the_document() {
    let bearer = serde_json::json!([{"bearer": []}]);
    let (open, closed) = (read(false, true), read(true, true));
    for (path, method) in [
        ("/changes", "get"),
        ("/digests", "post"),
        ("/entities", "get"),
        ("/metrics", "get"),
    ] {
        assert_eq!(closed["paths"][path][method]["security"], bearer);
        assert_eq!(open["paths"][path][method]["security"][0], serde_json::json!({}));
    }
    for path in ["/", "/page.js", "/page.css", "/status", "/why"] {
        let either = serde_json::json!([{"basic": []}, {"bearer": []}]);
        assert_eq!(closed["paths"][path]["get"]["security"], either);
        assert_eq!(open["paths"][path]["get"]["security"][0], serde_json::json!({}));
    }
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(closed["paths"][path]["get"]["security"], serde_json::json!([]));
    }
}

/// What is referred to is there, and every component is referred to or named in a text.
#[test]
fn nothing_is_referred_to_that_is_missing() {
    let document = read(true, true);
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let (pointer, _) = reference.split_once('"').unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}
