//! One caller among others: how often it may ask and how much of it may wait. Those who are not asked who
//! they are cannot be told apart, and are not held back by these.

use std::num::NonZeroU32;
use std::time::Duration;

use highwater_server::ServeOptions;
use highwater_server::auth::{self, NewKey};
use highwater_server::caller::Grant;
use serde_json::Value;

use crate::rig::{Rig, Served};

const TABLE: &str = "create table product (id int primary key); insert into product values (1)";

/// What takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that asks for keys, and the keys of two callers as headers.
async fn asking(options: ServeOptions) -> (Rig, Served, [String; 2]) {
    let rig = Rig::start(TABLE).await;
    rig.enable(&["product"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let keys = ["till-7", "till-8"].map(|name| {
        let grant = Grant {
            name: name.to_owned(),
            ..Grant::default()
        };
        let key = NewKey { grant, expires: None };
        format!("Bearer {}", auth::add_key(&file, &key).unwrap())
    });
    let server = Served::start_keys(&rig.pool, &file, options).await;
    (rig, server, keys)
}

fn paced(requests: u32) -> ServeOptions {
    ServeOptions {
        caller_requests_per_second: NonZeroU32::new(requests),
        ..ServeOptions::default()
    }
}

#[tokio::test]
async fn a_caller_that_asks_too_often_is_told_when_to_come_back() {
    let (_rig, server, [till, other]) = asking(paced(2)).await;
    let refused = async {
        loop {
            let answer = server.get_by("/entities", &till).await;
            if answer.status() != 200 {
                return answer;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("a refusal");
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["cache-control"], "no-store, private");
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "too_many_requests", "{problem}");
    // Others have an allowance of their own.
    assert_eq!(server.get_by("/changes", &other).await.status(), 200);
    let admitted = async {
        while server.get_by("/changes", &till).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, admitted)
        .await
        .expect("it is let in again");
}

#[tokio::test]
async fn who_is_not_asked_who_it_is_has_no_pace_of_its_own() {
    let rig = Rig::start(TABLE).await;
    rig.enable(&["product"]).await;
    let options = ServeOptions {
        caller_waiting_max: Some(0),
        ..paced(1)
    };
    let server = Served::start_with(&rig.pool, options).await;
    for _ in 0..5 {
        assert_eq!(server.get("/entities").await.status(), 200);
    }
    let since = server.page("").await["next"].as_str().unwrap().to_owned();
    let page = server.page(&format!("since={since}&wait=1")).await;
    assert_eq!(page["more"], false);
}

#[tokio::test]
async fn a_caller_that_waits_too_often_leaves_places_to_others() {
    let options = ServeOptions {
        caller_waiting_max: Some(1),
        ..ServeOptions::default()
    };
    let (rig, server, [till, other]) = asking(options).await;
    let page: Value = server.get_by("/changes", &till).await.json().await.unwrap();
    let since = page["next"].as_str().unwrap();
    let path = format!("/changes?since={since}&wait=60");
    let (first, second) = (server.get_by(&path, &till), server.get_by(&path, &till));
    let (first, second) = (Box::pin(first), Box::pin(second));
    let either = futures_util::future::select(first, second);
    let either = tokio::time::timeout(PATIENCE, either)
        .await
        .expect("one is refused");
    let (refused, held) = either.factor_first();
    assert_eq!(refused.status(), 503);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "unavailable", "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("too many of your requests"),
        "{problem}"
    );
    // Without a wait it is answered, and another may wait.
    let at_once = server.get_by(&format!("/changes?since={since}"), &till).await;
    assert_eq!(at_once.status(), 200);
    let mut waiting = Box::pin(server.get_by(&path, &other));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "it waits");
    rig.run("insert into product values (2)").await;
    for answer in [held.await, waiting.await] {
        assert_eq!(answer.status(), 200);
        let page: Value = answer.json().await.unwrap();
        assert_eq!(page["changes"][0]["key"]["id"], 2, "{page}");
    }
}
