//! `highwater pull`: once, with a progress bar on a terminal.

use highwater_client::{Client, Event, PullReport, Seeding};
use serde_json::json;

use super::{about_seed, open, print, pulling};
use crate::cli::PullOptions;
use crate::interrupt;
use crate::progress::Bar;

pub(crate) async fn run(options: PullOptions) -> anyhow::Result<()> {
    let quiet = options.server.quiet;
    let stop = interrupt::token()?;
    let bar = Bar::new(!options.json, quiet);
    let shown = bar.clone();
    let builder =
        pulling(&options.server, &options.pages).observer(move |event: Event<'_>| shown.event(&event));
    let opened = open(builder, &options.store.store, &options.pages, &stop).await;
    let (client, seeding) = opened.inspect_err(|_| bar.end())?;
    if let Some(line) = about_seed(&seeding) {
        bar.without_seed();
        bar.say(&line);
    }
    if bar.is_shown() && client.store().is_new()? {
        // Only for the bar; what is wrong with the server, the pull will say.
        if let Ok(rows) = expected_rows(&client, &options).await {
            bar.expect(rows);
        }
    }
    let outcome = match &seeding {
        Seeding::Began { pull, .. } => Ok(pull.clone()),
        _ => client.pull_until(&stop).await,
    };
    bar.end();
    let report = outcome?;
    if options.json {
        print(&as_json(&report, &client, &seeding)?)
    } else if quiet {
        Ok(())
    } else {
        print(&as_text(&report, client.store().sync_helpers()?.is_empty()))
    }
}

/// How many rows a first pull brings, by the server's estimates.
async fn expected_rows(client: &Client, options: &PullOptions) -> Result<u64, highwater_client::Error> {
    let wanted = &options.server.entities;
    let list = client.entities().await?;
    Ok(list
        .entities
        .iter()
        .filter(|entity| wanted.is_empty() || wanted.contains(&entity.name))
        .filter_map(|entity| entity.estimated_rows)
        .sum())
}

fn as_text(report: &PullReport, is_without_entities: bool) -> String {
    let seconds = report.elapsed.as_secs_f64();
    if is_without_entities {
        return format!(
            "the server offers nothing ({seconds:.2} s): no table was enabled there, or this caller may read none"
        );
    }
    if report.rows + report.deleted == 0 {
        return format!("nothing new ({seconds:.2} s)");
    }
    format!(
        "{} {}, {} deleted in {seconds:.2} s ({} {}, {})",
        report.rows,
        if report.rows == 1 { "row" } else { "rows" },
        report.deleted,
        report.pages,
        if report.pages == 1 { "page" } else { "pages" },
        indicatif::HumanBytes(report.bytes)
    )
}

fn as_json(report: &PullReport, client: &Client, seeding: &Seeding) -> anyhow::Result<String> {
    let helpers = client.store().sync_helpers()?;
    let entities: Vec<serde_json::Value> = helpers
        .iter()
        .map(|helper| {
            let applied = report
                .entities
                .iter()
                .find(|applied| applied.entity == helper.entity);
            json!({
                "entity": helper.entity,
                "upserts": applied.map_or(0, |applied| applied.upserts),
                "deletes": applied.map_or(0, |applied| applied.deletes),
                "lastSyncDate": helper.last_sync_date,
                "state": helper.state,
                "dropped": applied.map_or(&[][..], |applied| applied.dropped.as_slice()),
                "broken": applied.map_or(&[][..], |applied| applied.broken.as_slice()),
            })
        })
        .collect();
    let seed = match seeding {
        Seeding::Began { seed, .. } => json!({"rows": seed.rows(), "pulledAt": seed.pulled_at}),
        Seeding::Refused(error) => json!({"refused": error.to_string()}),
        _ => serde_json::Value::Null,
    };
    let report = json!({
        "seed": seed,
        "rows": report.rows,
        "deleted": report.deleted,
        "pages": report.pages,
        "bytes": report.bytes,
        "retries": report.retries,
        "seconds": report.elapsed.as_secs_f64(),
        "entities": entities,
        "withdrawn": report.withdrawn,
    });
    Ok(report.to_string())
}
