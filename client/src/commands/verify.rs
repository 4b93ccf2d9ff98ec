//! `highwater verify`: whether the store is right, and if not, which rows are wrong.

use std::fmt::Write as _;

use highwater_client::{Depth, EntityVerified, Event, RowKey, VerifyReport};
use serde_json::json;

use super::{client, print};
use crate::cli::VerifyOptions;
use crate::interrupt;
use crate::progress::Bar;

/// Keys of each kind that are shown where people read; JSON has them all.
const KEYS_SHOWN_MAX: usize = 10;

/// Tells whether the store is right, or is right again.
pub(crate) async fn run(options: VerifyOptions) -> anyhow::Result<bool> {
    let stop = interrupt::token()?;
    let bar = Bar::new(!options.json, options.server.quiet);
    let shown = bar.clone();
    let builder = client(&options.server).observer(move |event: Event<'_>| shown.event(&event));
    let depth = if options.deep { Depth::Values } else { Depth::Dates };
    let store = &options.store.store;
    let outcome = if options.repair {
        // A store that is missing is not made, but refused.
        match highwater_client::status(store).and_then(|_| builder.open(store)) {
            Ok(client) => client.repair(depth, &stop).await,
            Err(error) => Err(error),
        }
    } else {
        builder.verify(store, depth, &stop).await
    };
    bar.end();
    let report = outcome?;
    if options.json {
        print(&as_json(&report))?;
    } else if !options.server.quiet {
        print(&as_text(&report, options.deep))?;
    }
    Ok(report.repaired.unwrap_or_else(|| report.is_equal()))
}

fn as_text(report: &VerifyReport, deep: bool) -> String {
    let mut lines = Vec::new();
    for found in &report.entities {
        lines.push(about(found));
        for (what, keys) in kinds(found) {
            lines.extend(
                keys.iter()
                    .take(KEYS_SHOWN_MAX)
                    .map(|key| format!("  {what}: {key}")),
            );
            if let Some(more @ 1..) = keys.len().checked_sub(KEYS_SHOWN_MAX) {
                lines.push(format!("  {what}: and {more} more, which --json lists"));
            }
        }
    }
    let end = match (report.is_equal(), report.repaired) {
        (true, _) if deep => "equal, value for value",
        (true, _) => "equal",
        (false, Some(true)) => "the differences were repaired",
        (false, Some(false)) => "differences remain after the repair; is there a trigger in the store?",
        (false, None) => "the store differs from its source; --repair replaces these rows",
    };
    lines.push(format!(
        "{end} ({:.2} s, {})",
        report.elapsed.as_secs_f64(),
        indicatif::HumanBytes(report.bytes)
    ));
    lines.join("\n")
}

fn about(found: &EntityVerified) -> String {
    let mut line = format!("{}: {} rows", found.entity, found.rows);
    if found.is_equal() {
        line.push_str(", all the same");
    } else {
        for (what, keys) in kinds(found) {
            if !keys.is_empty() {
                let _ = write!(line, ", {} {what}", keys.len());
            }
        }
    }
    if found.left_out > 0 {
        // Writing into a string does not fail.
        let _ = write!(line, "; {} changed since the last pull", found.left_out);
    }
    line
}

fn kinds(found: &EntityVerified) -> [(&'static str, &[RowKey]); 3] {
    [
        ("missing", &found.missing),
        ("extra", &found.extra),
        ("stale", &found.stale),
    ]
}

fn as_json(report: &VerifyReport) -> String {
    let entities: Vec<serde_json::Value> = report
        .entities
        .iter()
        .map(|found| {
            json!({
                "entity": found.entity,
                "rows": found.rows,
                "parts": found.parts,
                "leftOut": found.left_out,
                "missing": found.missing,
                "extra": found.extra,
                "stale": found.stale,
            })
        })
        .collect();
    let mut told = json!({
        "equal": report.is_equal(),
        "entities": entities,
        "bytes": report.bytes,
        "seconds": report.elapsed.as_secs_f64(),
    });
    if let (Some(repaired), Some(told)) = (report.repaired, told.as_object_mut()) {
        told.insert("repaired".to_owned(), repaired.into());
    }
    told.to_string()
}
