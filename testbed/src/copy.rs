//! A copy in memory, kept by the JSON form of the protocol, as a client in any language would.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use crate::Result;

/// The rows of an entity, by their key as JSON text.
pub type Rows = BTreeMap<String, Value>;

/// A copy of all entities.
#[derive(Clone, Debug, Default)]
pub struct Copy {
    rows: BTreeMap<String, Rows>,
    /// What has arrived of entities that begin anew; shown when the pull has ended.
    renewed: BTreeMap<String, Rows>,
    /// What to send as `since` next.
    pub since: Option<String>,
    /// The date that the last page gave.
    pub last_sync_date: String,
    /// Rows that have arrived.
    pub upserts: usize,
    /// Keys that have been reported as gone.
    pub deletes: usize,
    /// Entities that have begun anew.
    pub resets: usize,
    /// Pages that have arrived.
    pub pages: usize,
}

impl Copy {
    /// Applies a page, and tells whether more is to come.
    ///
    /// # Panics
    ///
    /// When it is not a page of the protocol.
    pub fn apply(&mut self, page: &Value) -> bool {
        self.pages += 1;
        for change in page["changes"].as_array().expect("changes") {
            let entity = change["entity"].as_str().expect("a name").to_owned();
            let key = change["key"].to_string();
            if change["reason"] == "reset" {
                self.resets += 1;
                self.renewed.insert(entity, Rows::new());
                continue;
            }
            let rows = match self.renewed.get_mut(&entity) {
                Some(rows) => rows,
                None => self.rows.entry(entity).or_default(),
            };
            if change["deleted"] == true {
                self.deletes += 1;
                rows.remove(&key);
            } else {
                self.upserts += 1;
                rows.insert(key, change["row"].clone());
            }
        }
        self.since = Some(page["next"].as_str().expect("a cursor").to_owned());
        page["lastSyncDate"]
            .as_str()
            .expect("a date")
            .clone_into(&mut self.last_sync_date);
        let more = page["more"] == true;
        if !more {
            self.rows.append(&mut self.renewed);
        }
        more
    }

    /// The rows of an entity.
    pub fn rows(&self, entity: &str) -> Rows {
        self.rows.get(entity).cloned().unwrap_or_default()
    }

    /// Forgets what has been counted.
    pub fn recount(&mut self) {
        (self.upserts, self.deletes, self.resets, self.pages) = (0, 0, 0, 0);
    }
}

/// All live rows of a table as a [`struct@Copy`] holds them, without Highwater's own columns; `key` names
/// the key's columns as SQL does.
pub async fn live_rows(pool: &PgPool, table: &str, key: &str) -> Result<Rows> {
    let sql = format!(
        "select (select row_to_json(k.*)::text from (select {key}) k),
             (to_jsonb(t) - array['changed_xid', 'changed_date', 'deleted'])::text
         from {table} t where not deleted"
    );
    let rows: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(pool).await?;
    rows.into_iter()
        .map(|(key, row)| Ok((key, serde_json::from_str(&row)?)))
        .collect()
}
