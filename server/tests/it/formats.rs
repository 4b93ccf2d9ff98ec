//! Both forms of a page mean the same.

use std::convert::Infallible;
use std::time::Duration;

use highwater_shared::{
    BlockHeader, BlockKind, COPY_MEDIA_TYPE, ColumnRole, PageParser, PageSink, Trailer, copy_text,
};
use highwater_testbed::flights::{self, Months};
use serde_json::{Value, json};

use crate::rig::{Rig, Served};

/// A page in blocks, as a list of changes like those of the JSON form; the values are text.
#[derive(Default)]
struct Blocks {
    header: Option<BlockHeader>,
    changes: Vec<Value>,
}

impl PageSink for Blocks {
    type Error = Infallible;

    fn block(&mut self, header: BlockHeader) -> Result<(), Infallible> {
        if header.kind == BlockKind::Reset {
            self.changes
                .push(json!({"entity": header.entity, "reason": "reset"}));
        }
        self.header = Some(header);
        Ok(())
    }

    fn row(&mut self, line: &[u8]) -> Result<(), Infallible> {
        let header = self.header.as_ref().expect("a header before rows");
        let mut change = json!({"entity": header.entity, "deleted": header.kind == BlockKind::Delete, "key": {}, "row": {}});
        let fields = copy_text::fields(line);
        for (column, field) in header.columns.iter().zip(fields) {
            let text =
                field.map(|field| String::from_utf8(copy_text::unescape(field).into_owned()).expect("text"));
            match column.role {
                Some(ColumnRole::ChangedDate) => change["date"] = json!(text),
                Some(ColumnRole::Reason) => change["reason"] = json!(text),
                role => {
                    if role == Some(ColumnRole::Key) {
                        change["key"][&column.name] = json!(text);
                    }
                    change["row"][&column.name] = json!(text);
                }
            }
        }
        self.changes.push(change);
        Ok(())
    }
}

async fn blocks(server: &Served, query: &str) -> (Vec<Value>, Trailer) {
    let response = server.get_as(&format!("/changes?{query}"), COPY_MEDIA_TYPE).await;
    assert_eq!(response.headers()["content-type"], COPY_MEDIA_TYPE);
    let body = response.bytes().await.expect("a body");
    let (mut parser, mut blocks) = (PageParser::new(), Blocks::default());
    parser.push(&body, &mut blocks).expect("blocks");
    (blocks.changes, parser.finish::<Infallible>().expect("a trailer"))
}

/// A JSON value as Postgres prints it, for types whose two forms differ in writing only.
fn text(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::String(text) => json!(
            text.strip_suffix("+00:00")
                .map_or(text.clone(), |date| format!("{}+00", date.replace('T', " ")))
        ),
        Value::Bool(true) => json!("t"),
        Value::Bool(false) => json!("f"),
        other => json!(other.to_string()),
    }
}

fn same(json: &Value, block: &Value) {
    assert_eq!(json["entity"], block["entity"]);
    if json["reason"] == "reset" {
        assert_eq!(block["reason"], "reset");
        return;
    }
    assert_eq!(json["deleted"], block["deleted"]);
    let date = block["date"]
        .as_str()
        .and_then(highwater_shared::Timestamp::from_postgres)
        .expect("a date");
    assert_eq!(json["changedDate"], date.to_string());
    for part in if json["deleted"] == true {
        &["key"][..]
    } else {
        &["key", "row"]
    } {
        let (json, block) = (
            json[part].as_object().expect("an object"),
            block[part].as_object().expect("an object"),
        );
        assert_eq!(json.len(), block.len());
        for (name, value) in json {
            assert_eq!(&text(value), &block[name], "{name}");
        }
    }
}

async fn compare(server: &Served, since: Option<&str>, limit: usize) -> (usize, String) {
    let mut since = since.map(str::to_owned);
    let mut changes = 0;
    loop {
        let query = since.as_ref().map_or(format!("limit={limit}"), |since| {
            format!("limit={limit}&since={since}")
        });
        let json = server.page(&query).await;
        let (blocks, trailer) = blocks(server, &query).await;
        let listed = json["changes"].as_array().expect("changes");
        assert_eq!(listed.len(), blocks.len());
        listed
            .iter()
            .zip(&blocks)
            .for_each(|(json, block)| same(json, block));
        changes += listed.len();
        assert_eq!(json["more"], trailer.more);
        assert_eq!(json["entities"], json!(trailer.entities));
        let next = json["next"].as_str().expect("a cursor").to_owned();
        if !trailer.more {
            return (changes, next);
        }
        since = Some(next);
    }
}

/// It is never later than what has come, so what comes has to tell its own, whatever it is.
#[tokio::test]
async fn the_date_moves_on_with_each_kind_of_change_in_either_form() {
    let rig = Rig::start(
        "create table product (id int primary key, name text); insert into product select g from generate_series(1, 9) g",
    )
    .await;
    rig.enable(&["product"]).await;
    let next = rig.server.page("").await["next"]
        .as_str()
        .expect("a cursor")
        .to_owned();
    let (mut by_json, mut by_blocks) = (next.clone(), next);
    for change in [
        "update product set name = 'new' where id = 1",
        "update product set deleted = true where id = 2",
        "delete from product where id = 3",
    ] {
        rig.run(change).await;
        let newest = "select max(changed_date) from (select changed_date from product union all select changed_date from highwater.tombstone) c";
        let newest = rig.date(newest).await;
        let moved_on = async {
            let mut dates = (String::new(), String::new());
            while dates != (newest.clone(), newest.clone()) {
                let page = rig.server.page(&format!("since={by_json}")).await;
                let (_, trailer) = blocks(&rig.server, &format!("since={by_blocks}")).await;
                dates = (
                    page["lastSyncDate"].as_str().expect("a date").to_owned(),
                    trailer.last_sync_date.to_string(),
                );
                by_json = page["next"].as_str().expect("a cursor").to_owned();
                by_blocks = trailer.next;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), moved_on)
            .await
            .expect(change);
    }
}

#[tokio::test]
async fn the_columns_of_a_key_tell_their_place_in_it() {
    let rig = Rig::start("create table pair (a text, note text, b int, primary key (b, a))").await;
    rig.enable(&["pair"]).await;
    let list: Value = rig.server.get("/entities").await.json().await.expect("entities");
    let pair = &list["entities"][0];
    assert_eq!(pair["key"], json!(["b", "a"]));
    let columns = pair["columns"].as_array().expect("columns").iter();
    let places: Vec<_> = columns
        .map(|column| json!([column["name"], column["role"], column["place"]]))
        .collect();
    assert_eq!(
        json!(places),
        json!([["a", "key", 2], ["note", null, null], ["b", "key", 1]])
    );
}

#[tokio::test]
async fn both_forms_carry_the_same_on_real_data() {
    let rig = Rig::start("").await;
    let counts = flights::load(&rig.pool, Months::January).await.expect("flights");
    let tables: Vec<&str> = flights::TABLES.iter().map(|(table, _)| *table).collect();
    rig.enable(&tables).await;
    let (changes, next) = compare(&rig.server, None, 9_973).await;
    assert_eq!(changes as u64, counts.total() + tables.len() as u64);

    rig.run("update flights set dep_delay = coalesce(dep_delay, 0) + 1 where day = 7; delete from flights where day = 8").await;
    rig.run("update weather set deleted = true where extract(hour from time_hour) = 3")
        .await;
    rig.run("update airlines set carrier = 'XX' where carrier = 'AA'")
        .await;
    let (changes, _) = compare(&rig.server, Some(&next), 997).await;
    assert!(changes > 1_500, "{changes}");
}

#[tokio::test]
async fn odd_names_and_values_survive_both_forms() {
    let rig = Rig::start(
        r#"create schema "Größe; drop"; create table "Größe; drop"."it's ""odd""" ("select" text primary key, "tab	and 'quote'" text, "ß" boolean);
           insert into "Größe; drop"."it's ""odd""" values (E'a\tb\\c\nd', '\.', true), ('', null, false), ('\N', '😀', null), ('o''clock', '%s {} $1', true)"#,
    )
    .await;
    rig.enable(&[r#""Größe; drop"."it's ""odd""""#]).await;
    for limit in [1, 2, 100] {
        let (changes, _) = compare(&rig.server, None, limit).await;
        assert_eq!(changes, 5, "limit {limit}");
    }
}

#[tokio::test]
async fn compressed_bodies_hold_the_same() {
    use reqwest::header::ACCEPT_ENCODING;
    let rig = Rig::start("create table product (id int primary key, name text); insert into product select g, repeat('x', 100) from generate_series(1, 500) g").await;
    rig.enable(&["product"]).await;
    let plain = rig.server.page("").await;
    for encoding in ["gzip", "zstd"] {
        let url = format!("http://{}/changes", rig.server.address);
        let as_it_travels = reqwest::Client::builder().no_zstd().build().unwrap();
        let response = as_it_travels
            .get(&url)
            .header(ACCEPT_ENCODING, encoding)
            .send()
            .await
            .unwrap();
        assert_eq!(response.headers()["content-encoding"], encoding);
        let body = response.bytes().await.unwrap();
        assert!(body.len() < 20_000, "{encoding}: {} bytes", body.len());
        let text = if encoding == "gzip" {
            std::io::read_to_string(flate2::read::GzDecoder::new(&body[..])).unwrap()
        } else {
            let decoding = reqwest::get(&url).await.unwrap();
            decoding.text().await.unwrap()
        };
        let page: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(page["changes"], plain["changes"], "{encoding}");
    }
}
