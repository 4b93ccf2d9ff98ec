//! `highwater status`: how each entity stands, read beside a running daemon.

use std::time::Duration;

use highwater_client::{StoreStatus, SyncHelper, Timestamp, status};
use serde_json::json;

use super::print;
use crate::cli::StatusOptions;

pub(crate) fn run(options: &StatusOptions) -> anyhow::Result<()> {
    let store = status(&options.store.store)?;
    let now = Timestamp::from_micros(chrono::Utc::now().timestamp_micros());
    print(&if options.json {
        as_json(&store, now)
    } else {
        as_text(&store, now)
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

fn as_text(store: &StoreStatus, now: Timestamp) -> String {
    if store.entities.is_empty() {
        return "nothing was pulled yet; `highwater pull` brings the first rows".to_owned();
    }
    let mut table = vec![["entity", "state", "rows", "last sync date", "age"].map(str::to_owned)];
    table.extend(store.entities.iter().map(|entity| {
        let helper = &entity.sync_helper;
        [
            helper.entity.to_string(),
            helper.state.to_string(),
            entity.rows.to_string(),
            helper.last_sync_date.to_string(),
            age(helper, now).map_or("never pulled to the end".to_owned(), words),
        ]
    }));
    let width = |column: usize| {
        table
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let lines: Vec<String> = table.iter().map(|row| line(row, &widths)).collect();
    lines.join("\n")
}

/// One line of aligned cells; numbers of rows stand to the right.
fn line(row: &[String; 5], widths: &[usize]) -> String {
    let cells: Vec<String> = row
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(column, (cell, &width))| match column {
            2 => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        })
        .collect();
    cells.join("  ").trim_end().to_owned()
}

fn age(helper: &SyncHelper, now: Timestamp) -> Option<Duration> {
    let pulled_at = helper.pulled_at?;
    let micros = now.micros().saturating_sub(pulled_at.micros()).max(0);
    Some(Duration::from_micros(micros.unsigned_abs()))
}

/// An age as one reads it at a glance: `4s`, `12m`, `3h`, `5d`.
fn words(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let shown: Vec<String> = [0, 119, 120, 7_200, 172_800]
            .into_iter()
            .map(|seconds| words(Duration::from_secs(seconds)))
            .collect();
        assert_eq!(shown, ["0s", "119s", "2m", "2h", "2d"]);
    }
}
