//! `GET /why`: each answer where it is the right one.

use std::time::Duration;

use highwater_server::admin::{self, PurgeOptions};
use highwater_testbed::until;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use url::form_urlencoded::Serializer;

use crate::rig::{Rig, Served};

const PRODUCT: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 20) g;
    create table news (id int primary key, title text); insert into news values (1, 'for all')";

/// The path of a question.
pub(crate) fn path(since: Option<&str>, entity: &str, key: &str) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("entity", entity).append_pair("key", key);
    if let Some(since) = since {
        query.append_pair("since", since);
    }
    format!("/why?{}", query.finish())
}

/// Asks about a product, and is answered.
async fn ask(server: &Served, since: Option<&str>, id: i32) -> Value {
    ask_of(server, since, "product", id).await
}

/// Asks about a row of an entity, and is answered.
pub(crate) async fn ask_of(server: &Served, since: Option<&str>, entity: &str, id: i32) -> Value {
    let response = server
        .get(&path(since, entity, &json!({ "id": id }).to_string()))
        .await;
    let status = response.status();
    let body = response.text().await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The cursor of a device that has pulled to the end just now.
async fn cursor(server: &Served, query: &str) -> String {
    let page = server.page(query).await;
    assert_eq!(page["more"], false);
    page["next"].as_str().unwrap().to_owned()
}

pub(crate) fn is(answer: &Value, outcome: &str, next: &str) {
    assert_eq!(
        (&answer["outcome"], &answer["nextPull"]),
        (&json!(outcome), &json!(next)),
        "{answer}"
    );
    assert!(!answer["remedy"].as_str().unwrap().is_empty(), "{answer}");
}

async fn enabled() -> Rig {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product", "news"]).await;
    rig
}

async fn purge(rig: &Rig, keys_max: u32) {
    let mut connection = rig.database.connect().await.unwrap();
    let options = PurgeOptions {
        keys_max,
        ..PurgeOptions::older_than(Duration::ZERO)
    };
    admin::purge(&mut connection, &options).await.unwrap();
}

#[tokio::test]
async fn a_row_that_changed_since_comes_with_the_next_pull_and_one_that_did_not_is_seen() {
    let rig = enabled().await;
    let since = cursor(&rig.server, "").await;
    rig.run("update product set name = 'new' where id = 7").await;
    let changed = ask(&rig.server, Some(&since), 7).await;
    is(&changed, "changed_since", "row");
    let date = rig.date("select changed_date from product where id = 7").await;
    assert_eq!(changed["changedDate"], json!(date));
    assert_eq!(changed["key"], json!({"id": 7}));
    assert!(changed["what"].as_str().unwrap().contains(&date), "{changed}");
    let seen = ask(&rig.server, Some(&since), 8).await;
    is(&seen, "seen", "nothing");
    assert!(
        seen["remedy"].as_str().unwrap().contains("verify --repair"),
        "{seen}"
    );
    is(
        &ask(
            &rig.server,
            Some(&cursor(&rig.server, &format!("since={since}")).await),
            7,
        )
        .await,
        "seen",
        "nothing",
    );
    // About the row itself.
    let row = ask(&rig.server, None, 7).await;
    assert_eq!(
        (&row["outcome"], &row["changedDate"]),
        (&json!("live"), &json!(date))
    );
    assert!(row.get("nextPull").is_none(), "{row}");
}

/// However old its date is: the cursor's snapshot decides.
#[tokio::test]
async fn a_late_commit_is_unseen_and_before_it_its_writer_is_told() {
    let rig = enabled().await;
    let mut writer = PgConnection::connect(&rig.database.url()).await.unwrap();
    let run = async |writer: &mut PgConnection, sql: &'static str| {
        sqlx::raw_sql(sql).execute(writer).await.unwrap();
    };
    run(&mut writer, "begin; insert into product values (100, 'late')").await;
    let began = rig.date("select xact_start from pg_stat_activity where state like 'idle in tr%' and datname = current_database()").await;
    let since = cursor(&rig.server, "").await;
    let missing = ask(&rig.server, Some(&since), 100).await;
    is(&missing, "no_such_row", "nothing");
    assert_eq!(missing["writing"], json!({ "since": began }), "{missing}");
    assert!(missing["what"].as_str().unwrap().contains(&began), "{missing}");
    run(&mut writer, "prepare transaction 'late'").await;
    let prepared = ask(&rig.server, Some(&since), 100).await;
    assert!(prepared["writing"]["since"].is_string(), "{prepared}");
    run(&mut writer, "commit prepared 'late'").await;
    is(&ask(&rig.server, Some(&since), 100).await, "changed_since", "row");
    let never = ask(&rig.server, Some(&since), 101).await;
    is(&never, "no_such_row", "nothing");
    assert!(never.get("writing").is_none(), "{never}");
}

#[tokio::test]
async fn a_deletion_is_told_with_its_kind_and_whether_it_was_seen() {
    let rig = enabled().await;
    let before = cursor(&rig.server, "").await;
    rig.run("update product set deleted = true where id = 1; delete from product where id = 2; update product set id = 33 where id = 3")
        .await;
    let after = cursor(&rig.server, &format!("since={before}")).await;
    for (id, by) in [(1, "flag"), (2, "tombstone"), (3, "tombstone")] {
        let unseen = ask(&rig.server, Some(&before), id).await;
        is(&unseen, "deleted", "deletion");
        assert_eq!(unseen["deletedBy"], by);
        let seen = ask(&rig.server, Some(&after), id).await;
        is(&seen, "deleted", "nothing");
        assert_eq!(seen["changedDate"], unseen["changedDate"]);
        assert_ne!(seen["what"], unseen["what"]);
        let itself = ask(&rig.server, None, id).await;
        assert_eq!(
            (&itself["outcome"], itself.get("nextPull")),
            (&json!("deleted"), None)
        );
    }
    is(&ask(&rig.server, Some(&before), 33).await, "changed_since", "row");
    // Back again, it is a row like others.
    rig.run("insert into product values (2, 'again')").await;
    is(&ask(&rig.server, Some(&after), 2).await, "changed_since", "row");
    // What a purge removed is told of as long as its key is kept.
    purge(&rig, PurgeOptions::KEYS_MAX).await;
    is(&ask(&rig.server, Some(&before), 3).await, "deleted", "deletion");
    is(&ask(&rig.server, Some(&after), 3).await, "deleted", "nothing");
    rig.run("delete from product where id = 2").await;
    purge(&rig, 0).await;
    // Writers of other tests are in flight too, and who has not seen one from before a purge begins anew.
    let is_seen = "select pg_snapshot_xmin(highwater.current_snapshot()) > purged_xid from highwater.entity where name = 'product'";
    until(&rig.pool, is_seen).await;
    let now = cursor(&rig.server, "").await;
    let purged = ask(&rig.server, Some(&now), 3).await;
    is(&purged, "no_such_row", "nothing");
    assert!(
        purged["what"].as_str().unwrap().contains("(those up to 20"),
        "{purged}"
    );
}

#[tokio::test]
async fn an_entity_that_begins_anew_is_told_with_its_reason() {
    let rig = enabled().await;
    let news = cursor(&rig.server, "entity=news").await;
    is(&ask(&rig.server, Some(&news), 7).await, "not_covered", "row");
    is(
        &ask(&rig.server, Some("1970-01-01T00:00:00Z"), 7).await,
        "not_covered",
        "row",
    );
    is(
        &ask(&rig.server, Some("1970-01-01T00:00:00Z"), 77).await,
        "not_covered",
        "nothing",
    );
    for (sql, reason, next) in [
        ("select highwater.touch('product')", "renewed", "row"),
        ("alter table product add column size int", "renewed", "row"),
        ("truncate product", "truncated", "nothing"),
    ] {
        let since = cursor(&rig.server, "").await;
        rig.run(sql).await;
        let answer = ask(&rig.server, Some(&since), 7).await;
        is(&answer, "begins_anew", next);
        assert_eq!(answer["reason"], reason, "{sql}");
    }
    rig.run("insert into product select g, 'p' from generate_series(1, 20) g")
        .await;
    let since = cursor(&rig.server, "").await;
    rig.run("delete from product where id = 1").await;
    purge(&rig, 0).await;
    for (id, next) in [(7, "row"), (1, "nothing")] {
        let answer = ask(&rig.server, Some(&since), id).await;
        is(&answer, "begins_anew", next);
        assert_eq!(answer["reason"], "purged");
    }
    // A date from before the purge begins anew too.
    let date = ask(&rig.server, Some("2020-01-01T00:00:00Z"), 7).await;
    is(&date, "begins_anew", "row");
}

#[tokio::test]
async fn a_date_is_compared_with_the_rows_own() {
    let rig = enabled().await;
    let date = rig.date("select clock_timestamp()").await;
    rig.run("update product set name = 'new' where id = 7; delete from product where id = 8")
        .await;
    is(&ask(&rig.server, Some(&date), 7).await, "changed_since", "row");
    is(&ask(&rig.server, Some(&date), 8).await, "deleted", "deletion");
    let own = rig.date("select changed_date from product where id = 7").await;
    let seen = ask(&rig.server, Some(&own), 7).await;
    is(&seen, "seen", "nothing");
    assert!(seen["what"].as_str().unwrap().contains("not after"), "{seen}");
}

#[tokio::test]
async fn in_the_middle_of_a_pull_the_page_of_a_row_is_yet_to_come() {
    let rig = enabled().await;
    let first = rig.server.page("limit=5").await;
    let since = first["next"].as_str().unwrap();
    is(&ask(&rig.server, Some(since), 3).await, "seen", "nothing");
    is(&ask(&rig.server, Some(since), 6).await, "page_to_come", "row");
    rig.run("update product set name = 'new' where id in (3, 6)")
        .await;
    for id in [3, 6] {
        is(&ask(&rig.server, Some(since), id).await, "changed_since", "row");
    }
    // A delta goes by transactions: what changed first comes first.
    let whole = cursor(&rig.server, "").await;
    for id in [9, 2, 5, 7] {
        rig.run(&format!("update product set name = 'again' where id = {id}"))
            .await;
    }
    let page = rig.server.page(&format!("limit=2&since={whole}")).await;
    let since = page["next"].as_str().unwrap();
    for (id, outcome, next) in [
        (9, "seen", "nothing"),
        (2, "seen", "nothing"),
        (5, "page_to_come", "row"),
        (7, "page_to_come", "row"),
        (8, "seen", "nothing"),
    ] {
        is(&ask(&rig.server, Some(since), id).await, outcome, next);
    }
}

#[tokio::test]
async fn a_cursor_of_another_source_is_told_as_such() {
    let (rig, other) = (enabled().await, enabled().await);
    let since = cursor(&other.server, "").await;
    is(&ask(&rig.server, Some(&since), 7).await, "source_changed", "row");
    is(
        &ask(&rig.server, Some(&since), 77).await,
        "source_changed",
        "nothing",
    );
}

#[tokio::test]
async fn what_cannot_be_a_question_is_refused() {
    let rig = Rig::start(
        "create table product (id int primary key);
         create table pair (a text, b uuid, primary key (a, b)); insert into pair values ('x', '3f333df6-90a4-4fda-8dd3-9485d27cee36');
         create table word (word text primary key); insert into word values ('1e5'), ('{');
         create table list (list int[] primary key); insert into list values ('{1,2}')",
    )
    .await;
    rig.enable(&["product", "pair", "word", "list"]).await;
    for (query, status, code) in [
        ("", 400, "invalid_entity"),
        ("entity=product", 400, "invalid_key"),
        ("entity=&key=7", 400, "invalid_entity"),
        ("entity=nosuch&key=7", 404, "unknown_entity"),
        ("entity=product&key=7&since=soon", 400, "invalid_since"),
        ("entity=product&key=seven", 400, "invalid_key"),
        ("entity=product&key=99999999999", 400, "invalid_key"),
        ("entity=product&key=", 400, "invalid_key"),
        ("entity=product&key=%00", 400, "invalid_key"),
        ("entity=product&key=%7B%22id%22", 400, "invalid_key"),
        ("entity=product&key=%7B%22id%22:null%7D", 400, "invalid_key"),
        (
            "entity=product&key=%7B%22id%22:%22%5Cu0000%22%7D",
            400,
            "invalid_key",
        ),
        ("entity=product&key=%7B%22di%22:7%7D", 400, "invalid_key"),
        (
            "entity=product&key=%7B%22id%22:7,%22x%22:1%7D",
            400,
            "invalid_key",
        ),
        ("entity=pair&key=x", 400, "invalid_key"),
        ("entity=pair&key=%7B%22a%22:%22x%22%7D", 400, "invalid_key"),
    ] {
        let response = rig.server.get(&format!("/why?{query}")).await;
        let (told, problem): (_, Value) = (response.status(), response.json().await.unwrap());
        assert_eq!(
            (told.as_u16(), &problem["code"]),
            (status, &json!(code)),
            "{query}: {problem}"
        );
    }
    let deep = format!("{{\"id\":{}}}", "[".repeat(20_000));
    assert_eq!(rig.server.get(&path(None, "product", &deep)).await.status(), 400);
    // Written otherwise it is the same key, and is told as changes have it.
    for (entity, key, canonical) in [
        ("product", " {\"id\": \"07\"}", json!({"id": 7})),
        ("product", "+7", json!({"id": 7})),
        ("word", "1e5", json!({"word": "1e5"})),
        ("word", "{\"word\": \"{\"}", json!({"word": "{"})),
        ("list", "{\"list\": [1, 2]}", json!({"list": [1, 2]})),
        (
            "pair",
            "{\"b\": \"3F333DF6-90a4-4fda-8dd3-9485d27cee36\", \"a\": \"x\"}",
            json!({"a": "x", "b": "3f333df6-90a4-4fda-8dd3-9485d27cee36"}),
        ),
    ] {
        let response = rig.server.get(&path(None, entity, key)).await;
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["key"], canonical, "{answer}");
        let is_there = if entity == "product" {
            "no_such_row"
        } else {
            "live"
        };
        assert_eq!(answer["outcome"], is_there, "{answer}");
    }
}
