//! `highwater why`: why a row is in the store, or is not.

use highwater_client::WhyReport;
use serde_json::json;

use super::{connected, print};
use crate::cli::WhyOptions;

pub(crate) async fn run(options: WhyOptions) -> anyhow::Result<()> {
    let (entity, key) = (options.entity, options.key);
    let builder = connected(&options.connection);
    let report = builder.why(&options.store.store, entity, &key).await?;
    print(&if options.json {
        as_json(&report)
    } else {
        format!(
            "{} {key}\n{}\n-> {}",
            report.entity,
            report.what.join("\n"),
            report.remedy
        )
    })?;
    // What the store alone can say was said; but the question was not answered.
    report.server.map(drop)?;
    Ok(())
}

fn as_json(report: &WhyReport) -> String {
    let (server, error) = match &report.server {
        Ok(server) => (json!(server), None),
        Err(error) => (serde_json::Value::Null, Some(error.to_string())),
    };
    let row = report
        .row
        .map(|row| json!({"changedDate": row.changed_date, "deleted": row.deleted}));
    json!({
        "entity": report.entity,
        "verdict": report.verdict,
        "store": {"state": report.state, "pulledAt": report.pulled_at, "row": row},
        "server": server,
        "error": error,
        "what": report.what,
        "remedy": report.remedy,
    })
    .to_string()
}
