//! Shows an entity, and draws it anew when the store has changed: what a till's screen would do.
//!
//! ```sh
//! cargo run -p highwater-example-redraw -- http://127.0.0.1:8080 shop.db product
//! ```
//!
//! The library says what was applied, entity by entity, after it was committed; the rows themselves are
//! read from the store, like those of any SQLite file. `HIGHWATER_TOKEN` holds the token, if one is needed.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use highwater_client::{Client, Pace};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, store, entity] = arguments.as_slice() else {
        anyhow::bail!("usage: highwater-example-redraw SERVER STORE ENTITY");
    };
    let mut builder = Client::builder(server);
    if let Ok(token) = std::env::var("HIGHWATER_TOKEN") {
        builder = builder.token(token);
    }
    let client = builder.open(store)?;
    // Before it follows, so that no page is missed.
    let mut applied = client.subscribe();
    let stop = CancellationToken::new();
    let following = tokio::spawn({
        let stop = stop.clone();
        async move { client.follow(Pace::Live, &stop).await }
    });

    // What the store has from the last time is there at once, without a network.
    draw(Path::new(store), entity)?;
    let mut changed = false;
    loop {
        let page = tokio::select! {
            page = applied.recv() => page,
            _ = tokio::signal::ctrl_c() => break,
        };
        let more = match page {
            Ok(page) => {
                changed |= page
                    .entities
                    .iter()
                    .any(|applied| applied.entity.as_str() == entity);
                page.more
            }
            // It was too slow to hear of each page. What they brought is in the store.
            Err(RecvError::Lagged(_)) => {
                changed = true;
                false
            }
            // It follows no longer, and says why.
            Err(RecvError::Closed) => break,
        };
        // In the middle of a pull an order may be there without its lines; so it waits for the end.
        if changed && !more {
            draw(Path::new(store), entity)?;
            changed = false;
        }
    }
    stop.cancel();
    Ok(following.await??)
}

/// Writes all rows of the entity, a line each.
fn draw(store: &Path, entity: &str) -> anyhow::Result<()> {
    let store = Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut out = std::io::stdout().lock();
    let known = "select 1 from sqlite_schema where type = 'table' and name = ?1";
    if !store.prepare(known)?.exists([entity])? {
        writeln!(out, "--- {entity}: not here yet")?;
        return Ok(());
    }
    let mut rows = store.prepare(&format!("select * from \"{}\"", entity.replace('"', "\"\"")))?;
    let columns = rows.column_count();
    let mut lines = Vec::new();
    let mut found = rows.query([])?;
    while let Some(row) = found.next()? {
        let cells: Result<Vec<String>, rusqlite::Error> = (0..columns)
            .map(|column| Ok(shown(row.get_ref(column)?)))
            .collect();
        lines.push(cells.context("a row cannot be read")?.join(" | "));
    }
    writeln!(out, "--- {entity}: {} rows", lines.len())?;
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(value) => value.to_string(),
        ValueRef::Real(value) => value.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => format!("{} bytes", bytes.len()),
    }
}
