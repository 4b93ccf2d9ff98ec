//! Scopes: what a caller sees of the rows that others share a table with, and what it never does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use highwater_server::ServeOptions;
use highwater_server::admin::{self, PurgeOptions};
use highwater_server::auth::{AuthOptions, TokenKeys, TokenOptions};
use highwater_testbed::Copy;
use jsonwebtoken::{EncodingKey, Header, get_current_timestamp};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::rig::{Rig, Served};

const SECRET: &str = "a secret that only this test knows, and it is long enough";

const TABLES: &str = "create table product (id int primary key, tenant int, name text);
    insert into product select g, g % 3 + 1, 'p' || g from generate_series(1, 30) g;
    create table news (id int primary key, title text);
    insert into news values (1, 'for all')";

/// Products of tenants, and news for all of them.
pub(crate) struct Tenants {
    pub(crate) rig: Rig,
    pub(crate) server: Served,
    _folder: tempfile::TempDir,
}

impl Tenants {
    pub(crate) async fn start() -> Self {
        let rig = Rig::start(TABLES).await;
        rig.enable_scoped("product", "tenant").await;
        rig.enable(&["news"]).await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, SECRET).unwrap();
        let options = AuthOptions {
            api_keys: None,
            tokens: Some(TokenOptions {
                keys: TokenKeys::Secrets(file),
                algorithms: Vec::new(),
                audiences: Vec::new(),
                issuers: Vec::new(),
            }),
        };
        let server = Served::start_asking(&rig.pool, options, ServeOptions::default()).await;
        Self {
            rig,
            server,
            _folder: folder,
        }
    }

    pub(crate) async fn get(&self, query: &str, caller: &str) -> reqwest::Response {
        self.server.get_by(&format!("/changes?{query}"), caller).await
    }

    pub(crate) async fn page(&self, query: &str, caller: &str) -> Value {
        let response = self.get(query, caller).await;
        assert_eq!(response.status(), StatusCode::OK, "{query}");
        response.json().await.unwrap()
    }

    /// Pulls to the end, in pages of `limit`; begins anew where the scopes have changed. Tells whether
    /// they had.
    pub(crate) async fn pull(&self, copy: &mut Copy, caller: &str, limit: usize) -> bool {
        let mut changed = false;
        loop {
            let since = copy
                .since
                .clone()
                .map_or(String::new(), |since| format!("since={since}&"));
            let response = self.get(&format!("{since}limit={limit}"), caller).await;
            let status = response.status();
            let page: Value = response.json().await.unwrap();
            if status == StatusCode::GONE {
                assert_eq!(page["reason"], "scope_changed", "{page}");
                copy.since = None;
                changed = true;
                continue;
            }
            assert_eq!(status, StatusCode::OK, "{page}");
            if !copy.apply(&page) {
                return changed;
            }
        }
    }

    /// The live products of these tenants, by key.
    pub(crate) async fn products(&self, tenants: &[i32]) -> BTreeMap<String, Value> {
        let rows: Vec<(i32, i32, Option<String>)> =
            sqlx::query_as("select id, tenant, name from product where not deleted and tenant = any ($1)")
                .bind(tenants)
                .fetch_all(&self.rig.pool)
                .await
                .unwrap();
        rows.into_iter()
            .map(|(id, tenant, name)| {
                let row = json!({"id": id, "tenant": tenant, "name": name});
                (json!({ "id": id }).to_string(), row)
            })
            .collect()
    }
}

/// A caller whose token claims this.
pub(crate) fn caller(claims: &Value) -> String {
    let mut all = json!({"sub": "till", "exp": get_current_timestamp() + 3_600});
    all.as_object_mut()
        .unwrap()
        .extend(claims.as_object().unwrap().clone());
    let token = jsonwebtoken::encode(
        &Header::default(),
        &all,
        &EncodingKey::from_secret(SECRET.as_bytes()),
    );
    format!("Bearer {}", token.unwrap())
}

pub(crate) fn of(tenants: &[i32]) -> String {
    caller(&json!({ "tenant": tenants }))
}

fn changes(page: &Value) -> Vec<Value> {
    page["changes"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_caller_sees_the_rows_of_its_scopes_and_what_has_none() {
    let tenants = Tenants::start().await;
    for (claims, seen) in [
        (json!({"tenant": 1}), &[1][..]),
        (json!({"tenant": "01"}), &[1]),
        (json!({"tenant": ["3", 1, 1]}), &[1, 3]),
        (json!({"tenant": "none of these"}), &[]),
        (json!({"tenant": 99}), &[]),
        (json!({}), &[]),
    ] {
        for limit in [3, 1000] {
            let mut copy = Copy::default();
            tenants.pull(&mut copy, &caller(&claims), limit).await;
            assert_eq!(copy.rows("product"), tenants.products(seen).await, "{claims}");
            assert_eq!(copy.rows("news").len(), 1, "{claims}");
        }
    }
    let list: Value = tenants
        .server
        .get_by("/entities", &of(&[1]))
        .await
        .json()
        .await
        .unwrap();
    for entity in list["entities"].as_array().unwrap() {
        assert!(
            entity["name"] != "product" || entity.get("estimatedRows").is_none_or(Value::is_null),
            "{entity}"
        );
    }
    let none = tenants.page("entity=product", &of(&[])).await;
    assert_eq!(
        (changes(&none).len(), &none["changes"][0]["reason"]),
        (1, &json!("reset")),
        "{none}"
    );
}

#[tokio::test]
async fn keys_that_were_purged_are_told_in_their_scope_and_in_no_other() {
    let tenants = Tenants::start().await;
    let (first, second, both) = (of(&[1]), of(&[2]), of(&[1, 2]));
    let mut copies = [Copy::default(), Copy::default(), Copy::default()];
    for (copy, caller) in copies.iter_mut().zip([&first, &second, &both]) {
        tenants.pull(copy, caller, 1000).await;
    }
    // 3, 6 and 9 are the first tenant's, 1 and 4 the second's.
    tenants
        .rig
        .run(
            "update product set tenant = 2 where id = 3; delete from product where id in (1, 6);
             update product set deleted = true where id in (4, 9)",
        )
        .await;
    let mut connection = tenants.rig.database.connect().await.unwrap();
    let purge = PurgeOptions::older_than(Duration::ZERO);
    admin::purge(&mut connection, &purge).await.unwrap();
    let told = async |copy: &Copy, caller: &str| {
        let query = format!("since={}&purged=keys", copy.since.clone().unwrap());
        let told = changes(&tenants.page(&query, caller).await);
        let one = |change: &Value| format!("{} {}", change["key"]["id"], change["reason"]);
        told.iter().map(one).collect::<BTreeSet<_>>()
    };
    let expected = |told: &[&str]| {
        told.iter()
            .map(|told| (*told).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        told(&copies[0], &first).await,
        expected(&["3 \"out_of_scope\"", "6 \"deleted\"", "9 \"deleted\""])
    );
    assert_eq!(
        told(&copies[1], &second).await,
        expected(&["1 \"deleted\"", "3 null", "4 \"deleted\""])
    );
    // Where it sees the row still, nobody has lost it.
    assert_eq!(
        told(&copies[2], &both).await,
        expected(&[
            "1 \"deleted\"",
            "3 null",
            "4 \"deleted\"",
            "6 \"deleted\"",
            "9 \"deleted\""
        ])
    );
}

#[tokio::test]
async fn a_row_that_changes_its_scope_leaves_one_and_arrives_in_another() {
    let tenants = Tenants::start().await;
    let (first, second) = (of(&[1]), of(&[2]));
    let mut copies = [Copy::default(), Copy::default()];
    for (copy, caller) in copies.iter_mut().zip([&first, &second]) {
        tenants.pull(copy, caller, 1000).await;
    }
    // 3 is the first tenant's, 1 the second's.
    tenants
        .rig
        .run("update product set tenant = 2 where id = 3; update product set name = 'secret' where id = 3")
        .await;
    tenants.rig.run("delete from product where id = 1").await;
    let since = |copy: &Copy| format!("since={}", copy.since.clone().unwrap());
    let left = changes(&tenants.page(&since(&copies[0]), &first).await);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        (&left[0]["reason"], &left[0]["key"]),
        (&json!("out_of_scope"), &json!({"id": 3}))
    );
    assert_eq!(
        (&left[0]["deleted"], &left[0]["row"]),
        (&json!(true), &Value::Null)
    );
    let arrived = changes(&tenants.page(&since(&copies[1]), &second).await);
    assert_eq!(arrived.len(), 2, "{arrived:?}");
    assert_eq!(
        (&arrived[0]["reason"], &arrived[0]["key"]),
        (&json!("deleted"), &json!({"id": 1}))
    );
    assert_eq!(arrived[1]["row"]["name"], "secret");
    // What becomes of it elsewhere the first one never hears.
    tenants.pull(&mut copies[0], &first, 1000).await;
    tenants
        .rig
        .run("update product set deleted = true where id = 3")
        .await;
    assert!(changes(&tenants.page(&since(&copies[0]), &first).await).is_empty());
    // It comes back, and is no tombstone any more.
    tenants
        .rig
        .run("update product set deleted = false, tenant = 1 where id = 3")
        .await;
    tenants.pull(&mut copies[0], &first, 1000).await;
    assert_eq!(copies[0].rows("product"), tenants.products(&[1]).await);
    tenants.pull(&mut copies[1], &second, 1000).await;
    assert_eq!(copies[1].rows("product"), tenants.products(&[2]).await);
}

/// Transactions that end in another order than they began in, beside an older one, leave the bounds of snapshots as they are.
#[tokio::test]
async fn a_caller_of_two_scopes_is_told_of_both_whatever_order_writers_end_in() {
    let tenants = Tenants::start().await;
    let both = of(&[1, 2]);
    let mut copy = Copy::default();
    let (mut oldest, mut slow) = (
        tenants.rig.pool.begin().await.unwrap(),
        tenants.rig.pool.begin().await.unwrap(),
    );
    for (writer, sql) in [
        (&mut oldest, "insert into news values (2, 'of tomorrow')"),
        (&mut slow, "update product set name = 'slow' where id = 3"),
    ] {
        sqlx::raw_sql(sql).execute(&mut **writer).await.unwrap();
    }
    tenants
        .rig
        .run("update product set name = 'quick' where id = 1")
        .await;
    for _ in 0..2 {
        tenants.pull(&mut copy, &both, 1000).await;
    }
    slow.commit().await.unwrap();
    tenants.pull(&mut copy, &both, 1000).await;
    assert_eq!(copy.rows("product"), tenants.products(&[1, 2]).await);
    oldest.commit().await.unwrap();
}

#[tokio::test]
async fn a_caller_is_woken_by_what_it_may_see_and_by_nothing_else() {
    let tenants = Tenants::start().await;
    let (first, second) = (of(&[1]), of(&[2]));
    let mut copies = [Copy::default(), Copy::default()];
    for (copy, caller) in copies.iter_mut().zip([&first, &second]) {
        tenants.pull(copy, caller, 1000).await;
    }
    let began = Instant::now();
    let query = |copy: &Copy| format!("since={}&wait=3", copy.since.clone().unwrap());
    let (queries, writes) = ([query(&copies[0]), query(&copies[1])], async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tenants
            .rig
            .run("update product set name = 'woken' where id = 3")
            .await;
    });
    let ((woken, took), not_woken, ()) = tokio::join!(
        async { (tenants.page(&queries[0], &first).await, began.elapsed()) },
        tenants.page(&queries[1], &second),
        writes
    );
    assert_eq!(changes(&woken).len(), 1);
    assert!(took < Duration::from_millis(2500), "{took:?}");
    assert!(changes(&not_woken).is_empty());
    assert!(began.elapsed() >= Duration::from_secs(3));
    // Nor does its cursor tell that anything happens.
    let next = not_woken["next"].as_str().unwrap();
    tenants
        .rig
        .run("update product set name = 'again' where id = 3")
        .await;
    let again = tenants.page(&format!("since={next}"), &second).await;
    assert_eq!(again["next"], next);
}
