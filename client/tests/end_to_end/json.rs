//! A copy that is kept by the JSON form, as with `curl`: values stay the text that they came as, so
//! that no number is rounded on the way into the comparison.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::exact::{Rows, json_keyed};
use crate::rig::Rig;

/// What a pull goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The cursor of the last page.
    Cursor,
    /// The `lastSyncDate` of the last pull.
    Date,
}

/// A copy of all entities.
#[derive(Debug)]
pub(crate) struct JsonCopy {
    by: By,
    since: Option<String>,
    /// What has arrived of entities that begin anew; shown when the pull has ended.
    renewed: BTreeMap<String, Rows<String>>,
    /// The rows of each entity.
    pub(crate) rows: BTreeMap<String, Rows<String>>,
    /// Entities that have begun anew.
    pub(crate) resets: usize,
    /// Pages that have arrived.
    pub(crate) pages: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    changes: Vec<Change>,
    next: String,
    more: bool,
    last_sync_date: String,
}

type Texts = BTreeMap<String, Box<RawValue>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    entity: String,
    key: Option<Texts>,
    changed_date: Option<Box<RawValue>>,
    deleted: bool,
    row: Option<Texts>,
    reason: Option<String>,
}

impl JsonCopy {
    /// An empty copy.
    pub(crate) fn new(by: By) -> Self {
        Self {
            by,
            since: None,
            renewed: BTreeMap::new(),
            rows: BTreeMap::new(),
            resets: 0,
            pages: 0,
        }
    }

    /// Pulls to the end, in pages of `limit` rows.
    pub(crate) async fn pull(&mut self, rig: &Rig, limit: usize) {
        let http = reqwest::Client::new();
        loop {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(self.since.clone().map(|since| ("since", since)));
            let url = format!("http://{}/changes", rig.address);
            let response = http.get(url).query(&query).send().await.unwrap();
            let status = response.status();
            let body = response.text().await.unwrap();
            assert_eq!(status, 200, "{query:?}: {body}");
            let page: Page = serde_json::from_str(&body).unwrap();
            let (more, date) = (page.more, page.last_sync_date.clone());
            self.apply(page);
            if !more {
                if self.by == By::Date {
                    self.since = Some(date);
                }
                return;
            }
        }
    }

    fn apply(&mut self, page: Page) {
        self.pages += 1;
        for change in page.changes {
            if change.reason.as_deref() == Some("reset") {
                self.resets += 1;
                self.renewed.insert(change.entity, Rows::new());
                continue;
            }
            let rows = match self.renewed.get_mut(&change.entity) {
                Some(rows) => rows,
                None => self.rows.entry(change.entity).or_default(),
            };
            let key = json_keyed(&texts(change.key.unwrap()));
            if change.deleted {
                rows.remove(&key);
            } else {
                let mut row = texts(change.row.unwrap());
                let date = change.changed_date.unwrap().get().to_owned();
                row.insert("changed_date".to_owned(), date);
                rows.insert(key, row);
            }
        }
        self.since = Some(page.next);
        if !page.more {
            self.rows.append(&mut self.renewed);
        }
    }
}

fn texts(values: Texts) -> BTreeMap<String, String> {
    let text = |(name, value): (String, Box<RawValue>)| (name, value.get().to_owned());
    values.into_iter().map(text).collect()
}
