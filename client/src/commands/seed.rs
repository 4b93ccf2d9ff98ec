//! `highwater seed`: a store as a file that new stores begin with.

use highwater_client::{SeedReport, write_seed};
use serde_json::json;

use super::print;
use crate::cli::SeedOptions;

pub(crate) fn run(options: &SeedOptions) -> anyhow::Result<()> {
    let report = write_seed(&options.store.store, &options.out)?;
    if options.json {
        return print(&as_json(&report));
    }
    if options.quiet {
        return Ok(());
    }
    print(&format!(
        "{}: {} rows of {} entities, {} (the store it becomes has {})",
        options.out.display(),
        report.rows(),
        report.entities.len(),
        indicatif::HumanBytes(report.bytes),
        indicatif::HumanBytes(report.store_bytes),
    ))
}

fn as_json(report: &SeedReport) -> String {
    let entities: Vec<serde_json::Value> = report
        .entities
        .iter()
        .map(|(entity, rows)| json!({"entity": entity, "rows": rows}))
        .collect();
    json!({
        "source": report.source,
        "pulledAt": report.pulled_at,
        "entities": entities,
        "bytes": report.bytes,
        "storeBytes": report.store_bytes,
    })
    .to_string()
}
