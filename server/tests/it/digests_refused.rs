//! Digests that nobody gets: what is asked wrongly, by others, or would take too long.

use std::sync::Arc;
use std::time::Duration;

use highwater_server::ServeOptions;
use highwater_server::auth::{self, NewKey};
use highwater_server::caller::Grant;
use highwater_shared::digests::DIGESTS_BODY_BYTES_MAX;
use highwater_shared::{Code, EntityName, Problem};
use serde_json::{Value, json};

use crate::digests::PRODUCTS;
use crate::rig::{Rig, Served};

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_with_a_reason() {
    let rig = Rig::start(PRODUCTS).await;
    rig.enable(&["product"]).await;
    let midway = rig.server.page("limit=10").await["next"]
        .as_str()
        .unwrap()
        .to_owned();
    let one = json!({"entity": "product"});
    let within = |bits: u32, parts: Value| json!({"entity": "product", "bits": bits, "within": {"bits": 2, "parts": parts}});
    let keys = |keys: Value| json!({"entity": "product", "want": "rows", "keys": keys});
    let cases = [
        ("no body", String::new(), Code::InvalidBody),
        ("not JSON", "product".to_owned(), Code::InvalidBody),
        (
            "no entities",
            json!({"entities": []}).to_string(),
            Code::InvalidBody,
        ),
        (
            "twice",
            json!({"entities": [one, one]}).to_string(),
            Code::InvalidBody,
        ),
        (
            "too many parts",
            json!({"entities": [{"entity": "product", "bits": 17}]}).to_string(),
            Code::InvalidBody,
        ),
        (
            "too many within",
            json!({"entities": [within(18, json!([1, 2]))]}).to_string(),
            Code::InvalidBody,
        ),
        (
            "no such part",
            json!({"entities": [within(4, json!([4]))]}).to_string(),
            Code::InvalidBody,
        ),
        (
            "a key of two values",
            json!({"entities": [keys(json!(["1\t2"]))]}).to_string(),
            Code::InvalidBody,
        ),
        (
            "a key of another type",
            json!({"entities": [keys(json!(["1", "seven"]))]}).to_string(),
            Code::InvalidBody,
        ),
        (
            "a key that is null",
            json!({"entities": [keys(json!(["\\N"]))]}).to_string(),
            Code::InvalidBody,
        ),
        (
            "a key out of range",
            json!({"entities": [keys(json!(["99999999999"]))]}).to_string(),
            Code::InvalidBody,
        ),
        (
            "a key with a NUL",
            json!({"entities": [keys(json!(["7\0"]))]}).to_string(),
            Code::InvalidBody,
        ),
        (
            "keys that are numbers",
            json!({"entities": [keys(json!([7]))]}).to_string(),
            Code::InvalidBody,
        ),
        (
            "too long",
            " ".repeat(DIGESTS_BODY_BYTES_MAX + 1),
            Code::BodyTooLarge,
        ),
        (
            "unknown",
            json!({"entities": [{"entity": "none"}]}).to_string(),
            Code::UnknownEntity,
        ),
        (
            "a date",
            json!({"since": "2026-11-22T10:00:00Z", "entities": [one]}).to_string(),
            Code::InvalidSince,
        ),
        (
            "midway",
            json!({"since": midway, "entities": [one]}).to_string(),
            Code::InvalidSince,
        ),
        (
            "nonsense",
            json!({"since": "nonsense", "entities": [one]}).to_string(),
            Code::InvalidSince,
        ),
    ];
    for (what, body, expected) in cases {
        let response = rig.server.post("/digests", body, None).await;
        let status = response.status().as_u16();
        let problem: Problem = response.json().await.unwrap();
        assert_eq!(
            (problem.code, status),
            (Some(expected), expected.status()),
            "{what}: {}",
            problem.detail
        );
    }
    let by_get: Problem = rig.server.get("/digests").await.json().await.unwrap();
    assert!(
        by_get.code == Some(Code::MethodNotAllowed) && by_get.detail.contains("takes POST"),
        "{}",
        by_get.detail
    );
}

#[tokio::test]
async fn a_deleted_key_that_its_type_no_longer_knows_asks_for_a_touch_here_too() {
    let rig = Rig::start(
        "create type size as enum ('s', 'm'); create table shirt (size size primary key); insert into shirt values ('s'), ('m')",
    )
    .await;
    rig.enable(&["shirt"]).await;
    let since = rig.server.page("").await["next"].as_str().unwrap().to_owned();
    rig.run("delete from shirt where size = 's'; alter type size rename value 's' to 'small'")
        .await;
    let body = json!({"since": since, "entities": [{"entity": "shirt"}]}).to_string();
    // When it is found the answer has begun, and breaks off.
    let response = rig.server.post("/digests", body.clone(), None).await;
    assert!(response.status() == 503 || response.bytes().await.is_err());
    let problem: Problem = rig
        .server
        .post("/digests", body, None)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(problem.code, Some(Code::Unavailable));
    assert!(
        problem.detail.contains("highwater-server touch"),
        "{}",
        problem.detail
    );
}

#[tokio::test]
async fn who_may_not_read_an_entity_may_not_compare_it() {
    let rig = Rig::start(PRODUCTS).await;
    rig.enable(&["product"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let grant = Grant {
        name: "till".to_owned(),
        entities: Some(Arc::new([EntityName::new("news")].into())),
        scopes: [].into(),
        is_operator: false,
    };
    let key = auth::add_key(&file, &NewKey { grant, expires: None }).unwrap();
    let server = Served::start_keys(&rig.pool, &file, ServeOptions::default()).await;
    let body = json!({"entities": [{"entity": "product"}]}).to_string();
    let key = format!("Bearer {key}");
    for (authorization, expected) in [
        (None, Code::Unauthenticated),
        (Some(key.as_str()), Code::ForbiddenEntity),
    ] {
        let response = server.post("/digests", body.clone(), authorization).await;
        assert_eq!(response.headers()["cache-control"], "no-store, private");
        let problem: Problem = response.json().await.unwrap();
        assert_eq!(problem.code, Some(expected));
    }
}

#[tokio::test]
async fn digests_are_bounded_in_time_and_number() {
    let rig = Rig::start(PRODUCTS).await;
    rig.enable(&["product"]).await;
    let options = ServeOptions {
        digests_time_max: Duration::from_millis(1),
        ..ServeOptions::default()
    };
    let hurried = Served::start_with(&rig.pool, options).await;
    rig.run("insert into product select g, 'p' from generate_series(1001, 200000) g")
        .await;
    let body = json!({"entities": [{"entity": "product"}]}).to_string();
    let response = hurried.post("/digests", body.clone(), None).await;
    let problem: Problem = response.json().await.unwrap();
    assert_eq!(problem.code, Some(Code::Unavailable), "{}", problem.detail);

    let mut altering = rig.pool.begin().await.unwrap();
    sqlx::raw_sql("lock table product in access exclusive mode")
        .execute(&mut *altering)
        .await
        .unwrap();
    let server = Arc::new(Served::start(&rig.pool).await);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let (server, body) = (Arc::clone(&server), body.clone());
            tokio::spawn(async move { server.post("/digests", body, None).await.status() })
        })
        .collect();
    let blocked = "select count(*) from pg_locks where relation = 'product'::regclass and not granted";
    while sqlx::query_scalar::<_, i64>(blocked)
        .fetch_one(&rig.pool)
        .await
        .unwrap()
        < 4
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = server.post("/digests", body, None).await;
    assert!(refused.headers().contains_key("retry-after"));
    let refused: Problem = refused.json().await.unwrap();
    assert_eq!(refused.code, Some(Code::Unavailable));
    // To look for a tombstone is a scan as well.
    let why = server.get("/why?entity=product&key=7").await;
    let why: Problem = why.json().await.unwrap();
    assert_eq!(why.code, Some(Code::Unavailable));
    altering.rollback().await.unwrap();
    for answered in waiting {
        assert_eq!(answered.await.unwrap(), 200);
    }
}
