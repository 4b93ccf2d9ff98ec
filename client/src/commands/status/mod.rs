//! `highwater status`: how each entity stands, read beside a running daemon.

mod table;
mod watch;

use std::path::Path;
use std::time::Duration;

use highwater_client::{StoreStatus, SyncHelper, Timestamp, status};
use serde_json::json;

use super::print;
use crate::cli::StatusOptions;

pub(crate) async fn run(options: &StatusOptions) -> anyhow::Result<()> {
    let (store, as_text) = (options.store.store.as_path(), !options.json);
    match options.watch {
        Some(interval) => watch::watch(store, as_text, interval).await,
        None => print(&look(store, as_text)?),
    }
}

/// What is to be shown of the store as it stands now.
fn look(store: &Path, as_text: bool) -> Result<String, highwater_client::Error> {
    let store = status(store)?;
    let now = Timestamp::from_micros(chrono::Utc::now().timestamp_micros());
    Ok(if as_text {
        table::table(&store, now)
    } else {
        as_json(&store, now)
    })
}

fn as_json(store: &StoreStatus, now: Timestamp) -> String {
    let entities: Vec<serde_json::Value> = store
        .entities
        .iter()
        .map(|entity| {
            let helper = &entity.sync_helper;
            json!({
                "entity": helper.entity,
                "state": helper.state,
                "rows": entity.rows,
                "lastSyncDate": helper.last_sync_date,
                "pulledAt": helper.pulled_at,
                "ageSeconds": age(helper, now).map(|age| age.as_secs()),
            })
        })
        .collect();
    json!({ "source": store.source, "entities": entities }).to_string()
}

/// How long ago the entity last stood at one cut of the source.
fn age(helper: &SyncHelper, now: Timestamp) -> Option<Duration> {
    Some(between(helper.pulled_at?, now))
}

fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    let micros = later.micros().saturating_sub(earlier.micros()).max(0);
    Duration::from_micros(micros.unsigned_abs())
}
