//! A pull of few changes, beside the pipeline, which knows no other way than to load everything.

use anyhow::{Result, ensure};

use crate::data::{Data, PARTS};
use crate::figures::count;
use crate::highwater::{self, Server};
use crate::measure::rounds;
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::pipeline::Pipeline;
use crate::stage::Stage;

/// At most this share of the time of a full load.
const RATIO_MAX: f64 = 0.05;
const ROWS_DELETED: u64 = 100;
const HEADS: [&str; 2] = ["Highwater", "psql and sqlite3"];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "small-change",
    measures: "the time of a pull after 1 % of the rows were changed and 100 deleted",
    against: "a full load by `psql` and `sqlite3`, as in first-pull",
    bar: "5 % of the full load's time",
    run: |stage| Box::pin(run(stage)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Highwater,
    Pipeline,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let mut lines = Vec::new();
    for data in [stage.sizes.flights(), stage.sizes.items()] {
        lines.push(line(stage, data).await?);
    }
    Ok(Outcome {
        heads: HEADS,
        charts: vec![Chart::of(
            BENCHMARK.name,
            "A pull of few changes",
            Unit::Seconds,
            HEADS,
            &lines,
        )],
        lines,
        notes: vec![
            "The changed rows are spread over the whole table, so that of the store's pages many more change \
             than 1 %. What changes them is not measured here, see [write-cost](#write-cost)."
                .to_owned(),
        ],
    })
}

async fn line(stage: &Stage, data: Data) -> Result<Line> {
    let table = data.table();
    let database = highwater::enabled(stage, data).await?;
    let server = Server::start(stage, &database).await?;
    let rows = database.count(table).await?;
    let (_, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
    let pipeline = Pipeline::like(&store, table)?;
    pipeline.run(stage, &database, rows).await?;
    let who = [Who::Highwater, Who::Pipeline];
    let rounds = rounds(stage.sizes.pairs, &who, async |who, round| match who {
        Who::Highwater => {
            let part = round as u64 % (PARTS / 2);
            let changed = database.rows_of(data.change(part)).await?;
            let deleted = data.delete(part + PARTS / 2, ROWS_DELETED);
            let deleted = database.rows_of(deleted).await?;
            let pulled = highwater::pulled(stage, &server.url, &store).await?;
            ensure!(
                (pulled.rows, pulled.deleted) == (changed, deleted),
                "{changed} rows were changed and {deleted} deleted, and the pull brought {pulled:?}"
            );
            Ok(pulled.seconds)
        }
        Who::Pipeline => {
            let rows = database.count(table).await?;
            pipeline.run(stage, &database, rows).await
        }
    })
    .await?;
    let of = |who| rounds.of(who, |seconds| *seconds);
    let what = format!("{table}, 1 % of {} rows", count(rows));
    let line = Line::pair(what, Unit::Seconds, of(Who::Highwater), of(Who::Pipeline));
    Ok(line.with_bar(Bar::Ratio(RATIO_MAX)))
}
