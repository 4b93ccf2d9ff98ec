//! What a store costs that has seen what a promotion lost, beside a first pull of the same rows.

use anyhow::Result;
use highwater_testbed::{cut_off, promote};

use super::against_first_pull::{self, ROWS_FOR_ONE, TABLE};
use crate::data::Data;
use crate::figures::count;
use crate::highwater::{self, Server, Taken};
use crate::measure::rounds;
use crate::outcome::{Benchmark, Chart, Outcome, Unit};
use crate::stage::{Database, Stage};

const HEADS: [&str; 2] = ["after a promotion", "a first pull"];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "promotion",
    measures: "the time and the bytes of the pull of a store that has seen what a promotion lost, where one row in a \
               thousand differs",
    against: "a first pull of the same rows",
    bar: "10 % of its time and of its bytes",
    run: |stage| Box::pin(run(stage)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    GoesBack,
    FirstPull,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let rows = stage.sizes.rows;
    let primary = highwater::enabled(stage, Data::Items { rows }).await?;
    let server = Server::start(stage, &primary).await?;
    let (_, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
    let (standby, promoted) = stage.standby(&primary).await?;
    cut_off(&primary.pool, &promoted.pool).await;
    change(&primary, 0).await?;
    let lost = highwater::pulled(stage, &server.url, &store).await?;
    drop(server);
    promote(&promoted.pool).await;
    change(&promoted, ROWS_FOR_ONE).await?;
    promoted.settle(TABLE).await?;

    let server = Server::start(stage, &promoted).await?;
    let left = promoted.count(TABLE).await?;
    let who = [Who::GoesBack, Who::FirstPull];
    let rounds = rounds(stage.sizes.pairs, &who, async |who, _| {
        // Pulls that ask the same share pages.
        promoted.advance().await?;
        match who {
            Who::GoesBack => {
                let copy = stage.store();
                std::fs::copy(&store, &copy)?;
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
    Stage::remove(&store)?;
    drop(server);
    promoted.pool.close().await;
    drop(standby);

    let name = format!("{} rows", count(rows));
    let lines = against_first_pull::lines(&name, &rounds, Who::GoesBack, Who::FirstPull);
    let chart = Chart::of(
        BENCHMARK.name,
        "After a promotion that lost something",
        Unit::Seconds,
        HEADS,
        &lines[..1],
    );
    Ok(Outcome {
        heads: HEADS,
        charts: vec![chart],
        lines: lines.to_vec(),
        notes: vec![format!(
            "A standby is cut off, {} rows are written, removed and added at the primary, and the store pulls these. Then \
             the standby is promoted, and as many others change there. Each run begins with a copy of that store, and \
             ends with one that `highwater verify --deep` finds equal, which is not part of the time. The server may read \
             the history of the timelines.",
            count(lost.rows + lost.deleted)
        )],
    })
}

/// Updates, removes and adds as many rows as stand for one in two thousand. Those that are there already have numbers that
/// leave `rest`, so that two calls change different ones.
async fn change(database: &Database, rest: u64) -> Result<()> {
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
