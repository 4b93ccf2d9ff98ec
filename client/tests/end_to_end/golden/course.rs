//! What golden files are made of: a small database, and what server and client make of it.

use std::fs;
use std::path::{Path, PathBuf};

use highwater_server::auth::{self, NewKey};
use highwater_server::caller::Grant;
use highwater_shared::COPY_MEDIA_TYPE;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{highwater, rows};
use crate::rig::{Rig, run};

/// The entities, which are called as their tables are.
pub(super) const ENTITIES: &[&str] = &["product", "price"];

/// Each kind of value that a store distinguishes, and a key of several columns.
const SOURCE: &str = "create table product (id integer primary key, name text, weight double precision, listed boolean,
    sold_at timestamptz, local_at timestamp, day date, amount numeric, picture bytea, more jsonb, tags text[], code uuid);
insert into product values
    (1, 'Chair', 4.5, true, '2026-01-02 03:04:05.678901+00', '2026-01-02 03:04:05', '2026-01-02', 12.50, '\\x00ff', '{\"a\": [1, null]}', '{a,\"b c\"}', '5f3c9f1e-0b6a-4f0e-9f0d-3f4f5d1c2b3a'),
    (2, E'tab\\t, line\\n, \\\\ and ü', 'NaN', false, 'infinity', '0044-03-15 BC', null, 1e-20, '', 'null', '{}', null),
    (3, null, null, null, null, null, null, null, null, null, null, null),
    (4, '', '-Infinity', true, null, null, null, -0.10, null, null, null, null),
    (5, 'Lamp', 0, true, null, null, null, null, null, null, null, null),
    (6, 'Desk', 0, true, null, null, null, null, null, null, null, null);
create table price (product integer, area text, amount numeric(8,2) not null, primary key (area, product));
insert into price values (1, 'de', 10), (1, 'fr', 11), (2, 'de', 12);
";

/// Each kind of change: a row that is new, one that is changed, deletions by flag and by `delete`, a changed key.
const CHANGES: &str = "update product set name = 'Armchair', amount = 13 where id = 1;
update product set deleted = true where id = 4;
delete from product where id = 5;
insert into product (id, name) values (7, 'Stool');
update price set product = 3 where product = 2;
";

/// What is asked, and answered.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    pub(super) path: String,
    pub(super) accept: String,
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) body: String,
}

impl Answer {
    async fn ask(url: &str, path: String, accept: &str) -> Self {
        let request = reqwest::Client::new()
            .get(format!("{url}{path}"))
            .header("accept", accept);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        Self {
            path,
            accept: accept.to_owned(),
            status,
            content_type,
            body: response.text().await.unwrap(),
        }
    }

    pub(super) fn is_copy(&self) -> bool {
        self.content_type == COPY_MEDIA_TYPE
    }

    /// The cursor of a page, and `null` in what is none.
    fn last(&self, member: &str) -> Value {
        let text = if self.is_copy() {
            self.body.lines().last().unwrap()
        } else {
            &self.body
        };
        serde_json::from_str::<Value>(text).unwrap()[member].take()
    }

    /// The cursor of a page.
    pub(super) fn next(&self) -> Option<String> {
        self.last("next").as_str().map(str::to_owned)
    }

    /// What was asked, without the cursor.
    pub(super) fn what(&self) -> String {
        let (path, query) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let names: Vec<&str> = query
            .split('&')
            .filter_map(|pair| pair.split('=').next())
            .collect();
        format!("{path}?{} as {}", names.join("&"), self.accept)
    }

    /// The answer without what differs from one database to the next.
    pub(super) fn form(&self) -> Value {
        let body = if self.is_copy() {
            blocks(&self.body)
        } else {
            serde_json::from_str(&self.body).unwrap()
        };
        json!({"asked": self.what(), "status": self.status, "contentType": self.content_type, "body": masked(&body)})
    }
}

/// Blocks of COPY text as JSON, with the date of the last change left out of each row.
fn blocks(body: &str) -> Value {
    let mut blocks = Vec::new();
    let mut lines = body.lines();
    while let Some(line) = lines.next() {
        let header: Value = serde_json::from_str(line).unwrap();
        let columns = header["columns"].as_array().cloned().unwrap_or_default();
        let dated = columns.iter().position(|column| column["role"] == "changed_date");
        let mut rows = Vec::new();
        // The trailer has no columns, and is the last line.
        if header.get("kind").is_some() {
            for row in lines.by_ref().take_while(|line| *line != "\\.") {
                let mut fields: Vec<&str> = row.split('\t').collect();
                if let Some(dated) = dated {
                    fields[dated] = "date";
                }
                rows.push(json!(fields));
            }
        }
        blocks.push(json!({"header": header, "rows": rows}));
    }
    Value::Array(blocks)
}

/// A value without what differs from one database to the next: cursors, dates of changes, estimates.
pub(super) fn masked(value: &Value) -> Value {
    const DIFFERS: &[&str] = &[
        "next",
        "lastSyncDate",
        "changedDate",
        "changed_date",
        "fingerprint",
        "estimatedRows",
    ];
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| {
                let value = if DIFFERS.contains(&name.as_str()) && !value.is_null() {
                    json!("*")
                } else {
                    masked(value)
                };
                (name.clone(), value)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(values) => values.iter().map(masked).collect(),
        other => other.clone(),
    }
}

/// Whether all of `part` is in `whole`: objects may have more members, since readers pass over those that they do not
/// know.
pub(super) fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(name, value)| whole.get(name).is_some_and(|held| contains(held, value))),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        (whole, part) => whole == part,
    }
}

/// What this version makes of the database.
pub(super) struct Course {
    pub(super) answers: Vec<Answer>,
    /// The store after the first pull, and its rows.
    first: (PathBuf, Value),
    /// The store after the changes.
    pub(super) store: PathBuf,
    seed: PathBuf,
    own_id: String,
    rig: Rig,
}

impl Course {
    pub(super) async fn run() -> Self {
        let rig = Rig::start(SOURCE, ENTITIES).await;
        let url = rig.url();
        let mut answers = vec![Answer::ask(&url, "/entities".to_owned(), "*/*").await];
        let forms = [COPY_MEDIA_TYPE, "application/json"];
        let mut cursors = Vec::new();
        for form in forms {
            cursors.push(pull(&url, form, None, &mut answers).await);
        }
        let (first, store, seed) = (
            rig.store("first.db"),
            rig.store("store.db"),
            rig.store("store.seed"),
        );
        highwater("pull", &store, &["--server", &url]).await;
        highwater("seed", &store, &["--out", seed.to_str().unwrap()]).await;
        fs::copy(&store, &first).unwrap();
        run(&rig.pool, CHANGES).await;
        // The client's own, for stores and seeds to go on from.
        cursors.push(cursor(&store));
        for (form, cursor) in [forms[0], forms[1], forms[0]].into_iter().zip(cursors) {
            let cursor = pull(&url, form, Some(cursor), &mut answers).await;
            // With nothing new.
            pull(&url, form, Some(cursor), &mut answers).await;
        }
        for wrong in [
            "since=nonsense",
            "limit=0",
            "wait=61",
            "entity=%00",
            "entity=unknown",
        ] {
            answers.push(Answer::ask(&url, format!("/changes?{wrong}"), "*/*").await);
        }
        highwater("pull", &store, &["--server", &url]).await;
        let own_id = sqlx::query_scalar("select own_id::text from highwater.source");
        Self {
            answers,
            first: (first.clone(), rows(&first)),
            store,
            seed,
            own_id: own_id.fetch_one(&rig.pool).await.unwrap(),
            rig,
        }
    }

    /// Writes the golden files of this version.
    pub(super) fn write(&self, folder: &Path) {
        fs::create_dir(folder)
            .expect("the golden files of a version are written once; remove those of one not released");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        let json = |value: &Value| format!("{value:#}\n");
        write("source.sql", SOURCE);
        write("changes.sql", CHANGES);
        write("own-id", &format!("{}\n", self.own_id));
        write("answers.json", &json(&json!(self.answers)));
        write("rows-first.json", &json(&self.first.1));
        write("rows.json", &json(&rows(&self.store)));
        fs::copy(&self.first.0, folder.join("store.sqlite")).unwrap();
        fs::copy(&self.seed, folder.join("store.seed")).unwrap();
        let keys = self.rig.store("keys");
        let grant = Grant {
            name: "golden".to_owned(),
            ..Grant::default()
        };
        let key = auth::add_key(&keys, &NewKey { grant, expires: None }).unwrap();
        fs::copy(&keys, folder.join("keys")).unwrap();
        write("key", &format!("{key}\n"));
    }
}

/// The cursor that a store's entities stand at.
fn cursor(store: &Path) -> String {
    let connection = Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let cursor = connection.query_row("select distinct cursor from sync_helper", [], |row| row.get(0));
    cursor.unwrap()
}

/// Asks for the pages of a pull, and returns the cursor at its end.
async fn pull(url: &str, form: &str, since: Option<String>, answers: &mut Vec<Answer>) -> String {
    let mut since = since;
    loop {
        let path = match &since {
            Some(cursor) => format!("/changes?limit=4&since={cursor}"),
            None => "/changes?limit=4".to_owned(),
        };
        let answer = Answer::ask(url, path, form).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let (next, more) = (answer.next().unwrap(), answer.last("more"));
        answers.push(answer);
        if more == false {
            return next;
        }
        since = Some(next);
    }
}
