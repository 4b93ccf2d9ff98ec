//! What a store costs whose caller may see other rows than before, beside a first pull of the same rows.

use std::path::Path;

use anyhow::{Result, ensure};

use super::against_first_pull::{self, ROWS_FOR_ONE, TABLE};
use crate::data::Data;
use crate::figures::count;
use crate::highwater::{self, Server, Taken};
use crate::measure::rounds;
use crate::outcome::{Benchmark, Chart, Outcome, Unit};
use crate::stage::Stage;

const HEADS: [&str; 2] = ["after a change of scope", "a first pull"];
/// The column that is the scope.
const SCOPE: &str = "tenant";

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "scope-change",
    measures: "the time and the bytes of the pull of a store whose caller was given one row in a thousand more, or had \
               as many taken away",
    against: "a first pull of the same rows",
    bar: "10 % of its time and of its bytes",
    run: |stage| Box::pin(run(stage)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Given,
    TakenAway,
    FirstPull,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let rows = stage.sizes.rows;
    let database = stage.database(Data::Items { rows }).await?;
    database
        .run(format!(
            "alter table {TABLE} add column {SCOPE} int generated always as ((id % {ROWS_FOR_ONE} = 0)::int) stored"
        ))
        .await?;
    highwater::enable_scoped(stage, &database, TABLE, SCOPE).await?;
    database.settle(TABLE).await?;
    let keys = stage.store();
    let most = highwater::new_key(stage, &keys, &[format!("{SCOPE}=0")]).await?;
    let all = highwater::new_key(stage, &keys, &[format!("{SCOPE}=0"), format!("{SCOPE}=1")]).await?;
    let server = Server::start_asking(stage, &database, &keys).await?;
    let pulled = async |store: &Path, key: &str| highwater::pulled_as(stage, &server.url, store, key).await;
    let (of_most, of_all) = (stage.store(), stage.store());
    let some = rows / ROWS_FOR_ONE;
    for (store, key, expected) in [(&of_most, &most, rows - some), (&of_all, &all, rows)] {
        let came = pulled(store, key).await?.rows;
        ensure!(came == expected, "{came} rows came of {expected}");
    }

    let who = [Who::Given, Who::TakenAway, Who::FirstPull];
    let rounds = rounds(stage.sizes.pairs, &who, async |who, _| {
        // Pulls that ask the same share pages.
        database.advance().await?;
        let store = stage.store();
        let (from, key, expected) = match who {
            Who::Given => (Some(&of_most), &all, (some, 0)),
            Who::TakenAway => (Some(&of_all), &most, (0, some)),
            Who::FirstPull => (None, &all, (rows, 0)),
        };
        if let Some(from) = from {
            std::fs::copy(from, &store)?;
        }
        let pulled = pulled(&store, key).await?;
        let came = (pulled.rows, pulled.deleted);
        ensure!(came == expected, "{came:?} came of {expected:?}");
        Stage::remove(&store)?;
        Ok(Taken::from(pulled))
    })
    .await?;
    for store in [&of_most, &of_all, &keys] {
        Stage::remove(store)?;
    }

    let name = |what: &str| format!("{} rows, one in {} {what}", count(rows), count(ROWS_FOR_ONE));
    let given = against_first_pull::lines(&name("given"), &rounds, Who::Given, Who::FirstPull);
    let taken = against_first_pull::lines(&name("taken away"), &rounds, Who::TakenAway, Who::FirstPull);
    let lines = [given, taken].concat();
    let times: Vec<_> = lines.iter().step_by(2).cloned().collect();
    let chart = Chart::of(
        BENCHMARK.name,
        "After a change of what may be seen",
        Unit::Seconds,
        HEADS,
        &times,
    );
    Ok(Outcome {
        heads: HEADS,
        charts: vec![chart],
        lines,
        notes: vec![
            "Two API keys, one of which has a scope more. Each run begins with a copy of a store that was pulled with the \
             other key. What was taken away leaves the store by a scan of its table, and nothing of it travels."
                .to_owned(),
        ],
    })
}
