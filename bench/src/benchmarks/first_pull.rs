//! A first pull, beside the pipeline of `psql` and `sqlite3` that one would make instead.

use anyhow::Result;

use crate::data::Data;
use crate::figures::count;
use crate::highwater::{self, Server};
use crate::measure::rounds;
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::pipeline::Pipeline;
use crate::stage::Stage;

/// At most this share of the pipeline's time.
const RATIO_MAX: f64 = 0.7;
const HEADS: [&str; 2] = ["Highwater", "psql and sqlite3"];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "first-pull",
    measures: "the time of a first pull into a store that is ready for use, by client and server",
    against: "`psql` writing the same columns as CSV into `sqlite3`, which imports them into the same table",
    bar: "70 % of the pipeline's time; the aim is 55 %",
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
            "A first pull",
            Unit::Seconds,
            HEADS,
            &lines,
        )],
        lines,
        notes: vec![
            "The server runs already, as Postgres does; the client is measured from its start to its end. Between \
             two pulls a transaction is committed, since who asks the same as another is given pages that the \
             server has kept. The table that `sqlite3` fills is the one that Highwater has made, with the same \
             key and, where that has none, without a rowid; only `strict` is left out, since `.import` has \
             nothing but text. The journal is a write-ahead log on both sides, `synchronous` is normal."
                .to_owned(),
        ],
    })
}

async fn line(stage: &Stage, data: Data) -> Result<Line> {
    let table = data.table();
    let database = highwater::enabled(stage, data).await?;
    let server = Server::start(stage, &database).await?;
    let rows = database.count(table).await?;
    // Once unmeasured, so that both find the same in the caches; it also makes the table that the
    // pipeline is to fill.
    let (_, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
    let pipeline = Pipeline::like(&store, table)?;
    Stage::remove(&store)?;
    pipeline.run(stage, &database, rows).await?;
    let who = [Who::Highwater, Who::Pipeline];
    let rounds = rounds(stage.sizes.pairs, &who, async |who, _| match who {
        Who::Highwater => {
            database.advance().await?;
            let (pulled, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
            Stage::remove(&store)?;
            Ok(pulled.seconds)
        }
        Who::Pipeline => pipeline.run(stage, &database, rows).await,
    })
    .await?;
    let of = |who| rounds.of(who, |seconds| *seconds);
    let what = format!("{table}, {} rows", count(rows));
    let line = Line::pair(what, Unit::Seconds, of(Who::Highwater), of(Who::Pipeline));
    Ok(line.with_bar(Bar::Ratio(RATIO_MAX)))
}
