//! `highwater run`: the daemon.

use highwater_client::{Event, Pace, PageApplied, Seeding};

use super::{about_seed, aside, log, open, pulling};
use crate::cli::RunOptions;
use crate::interrupt;
use crate::systemd;

pub(crate) async fn run(options: RunOptions) -> anyhow::Result<()> {
    log(if options.server.quiet {
        tracing::Level::ERROR
    } else {
        tracing::Level::INFO
    });
    let stop = interrupt::token()?;
    let builder = pulling(&options.server, &options.pages)
        .resync_spread(options.resync_spread)
        .observer(|event: Event<'_>| note(&event));
    let (client, seeding) = match open(builder, &options.store.store, &options.pages, &stop).await {
        Err(error) if error.is_stopped() => return Ok(()),
        opened => opened?,
    };
    match (about_seed(&seeding), &seeding) {
        (Some(line), Seeding::Refused(_)) => tracing::warn!("{line}"),
        (Some(line), _) => tracing::info!("{line}"),
        (None, _) => {}
    }
    tracing::info!(
        store = %client.store().path().display(),
        pace = options.interval.map_or("live".to_owned(), |interval| format!("every {}", humantime::format_duration(interval))),
        "following {}", options.server.connection.server
    );
    let _notifying = systemd::notify(&client);
    client
        .follow(options.interval.map_or(Pace::Live, Pace::Every), &stop)
        .await?;
    systemd::stopping();
    tracing::info!("stopped");
    Ok(())
}

/// One line for each change that came, and for what went wrong.
fn note(event: &Event<'_>) {
    match event {
        Event::Applied(page) => {
            if page.rows + page.deleted > 0 {
                tracing::info!(
                    rows = page.rows,
                    deleted = page.deleted,
                    more = page.more,
                    entities = names(page),
                    "applied"
                );
            }
            for line in aside(page) {
                tracing::warn!("{line}");
            }
        }
        Event::Retrying { error, delay, .. } => {
            tracing::warn!("{error} (trying again in {:.1} s)", delay.as_secs_f64());
        }
        Event::Resync { reason, delay, .. } => {
            let seconds = delay.as_secs_f64();
            tracing::warn!(
                ?reason,
                "what differs is fetched, or every entity begins anew in {seconds:.1} s"
            );
        }
        Event::SchemaChanged(entity) => {
            tracing::warn!("the columns of {entity} have changed; it begins anew");
        }
        _ => {}
    }
}

fn names(page: &PageApplied) -> String {
    let names: Vec<&str> = page
        .entities
        .iter()
        .map(|entity| entity.entity.as_str())
        .collect();
    names.join(",")
}
