//! What a store costs that has seen what its source has lost, beside a first pull of the same rows: it goes back to a
//! cursor of its past, and what was written since travels. Shared by those benchmarks in which a source loses something.

use std::path::Path;

use anyhow::Result;

use super::against_first_pull::{self, ROWS_FOR_ONE, TABLE};
use crate::figures::count;
use crate::highwater::{self, Server, Taken};
use crate::measure::rounds;
use crate::outcome::{Benchmark, Chart, Outcome, Unit};
use crate::stage::{Database, Stage};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    GoesBack,
    FirstPull,
}

/// Changes the rows of a source that has lost what the store has seen, and has copies of that store pull from there.
pub(super) async fn measured(
    stage: &Stage,
    benchmark: &Benchmark,
    [title, head]: [&'static str; 2],
    source: &Database,
    store: &Path,
    note: String,
) -> Result<Outcome> {
    let rows = stage.sizes.rows;
    change(source, ROWS_FOR_ONE).await?;
    source.settle(TABLE).await?;
    let server = Server::start(stage, source).await?;
    let left = source.count(TABLE).await?;
    let who = [Who::GoesBack, Who::FirstPull];
    let rounds = rounds(stage.sizes.pairs, &who, async |who, _| {
        // Pulls that ask the same share pages.
        source.advance().await?;
        match who {
            Who::GoesBack => {
                let copy = stage.store();
                std::fs::copy(store, &copy)?;
                let pulled = highwater::pulled(stage, &server.url, &copy).await?;
                highwater::verified(stage, &server.url, &copy, &["--deep"]).await?;
                Stage::remove(&copy)?;
                Ok(Taken::from(pulled))
            }
            Who::FirstPull => {
                let (pulled, store) = highwater::pulled_anew(stage, &server.url, left).await?;
                Stage::remove(&store)?;
                Ok(pulled.into())
            }
        }
    })
    .await?;
    Stage::remove(store)?;

    let heads = [head, "a first pull"];
    let name = format!("{} rows", count(rows));
    let lines = against_first_pull::lines(&name, &rounds, Who::GoesBack, Who::FirstPull);
    let chart = Chart::of(benchmark.name, title, Unit::Seconds, heads, &lines[..1]);
    Ok(Outcome {
        heads,
        charts: vec![chart],
        lines: lines.to_vec(),
        notes: vec![note],
    })
}

/// Updates, removes and adds as many rows as stand for one in two thousand. Those that are there already have numbers that
/// leave `rest`, so that two calls change different ones.
pub(super) async fn change(database: &Database, rest: u64) -> Result<()> {
    // A third of them each: of two such rows one is updated, and a new one is made like it; the other is removed.
    let each = 3 * ROWS_FOR_ONE;
    database
        .run(format!(
            "delete from {TABLE} where id % {each} = {rest} and id % {twice} <> {rest};
             update {TABLE} set name = name || '.' where id % {each} = {rest};
             insert into {TABLE} select -id, sku || '.', name, price, quantity, active, note, updated_at
             from {TABLE} where id % {twice} = {rest} and id > 0",
            twice = 2 * each,
        ))
        .await
}
