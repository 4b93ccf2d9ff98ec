//! How long a change takes from its commit in Postgres until a reader of the store sees it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use highwater_testbed::Process;
use rusqlite::Connection;

use crate::figures::count;
use crate::highwater::{self, Server};
use crate::measure::Samples;
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::pipeline;
use crate::stage::{Database, Stage};

const MEDIAN_MILLISECONDS_MAX: f64 = 75.0;
const MILLISECONDS_PER_SECOND: f64 = 1000.0;
const COMMITS: usize = 500;
const QUICK_COMMITS: usize = 20;
/// How often the store is read. The reader costs a core little, and its own delay does not show.
const LOOK: Duration = Duration::from_micros(300);
/// The longest pause between two commits: several times that between two looks at the source, so
/// that commits do not fall in step with them.
const PAUSE_MILLISECONDS_MAX: u64 = 250;
/// How long a change may take at most, the first one with the start of the client.
const VISIBLE_WAIT_MAX: Duration = Duration::from_secs(30);
const HEADS: [&str; 2] = ["Highwater", ""];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "commit-to-visible",
    measures: "the time from a commit in Postgres until a reader of the store, which `highwater run` keeps \
               current, sees the row, while nothing else happens",
    against: "a fixed time",
    bar: "75 ms for the median; the aim for 99 of 100 is 200 ms",
    run: |stage| Box::pin(run(stage)),
};

async fn run(stage: &Stage) -> Result<Outcome> {
    let data = stage.sizes.items();
    let database = highwater::enabled(stage, data).await?;
    let rows = database.count(data.table()).await?;
    let server = Server::start(stage, &database).await?;
    let (_, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
    let mut pair = Live {
        client: highwater::follow(stage, &server.url, &store)?,
        reader: open(&store)?,
    };
    // Unmeasured, since the client is only starting.
    pair.commit(&database, 1, -1).await?;
    let commits = if stage.sizes.quick { QUICK_COMMITS } else { COMMITS };
    let mut seconds = Vec::with_capacity(commits);
    for number in 0..commits {
        let pause = rand::random_range(0..=PAUSE_MILLISECONDS_MAX);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        // Another row and another value each time.
        let (id, value) = (2 + number as u64 % (rows - 1), i64::try_from(number)?);
        seconds.push(pair.commit(&database, id, -2 - value).await?);
    }
    let times: Samples = seconds
        .iter()
        .map(|seconds| seconds * MILLISECONDS_PER_SECOND)
        .collect();
    let line = |what: &str, time: f64| Line::alone(what, Unit::Milliseconds, time.into());
    let lines = vec![
        line("half of the commits, at most", times.median()).with_bar(Bar::Value(MEDIAN_MILLISECONDS_MAX)),
        line("99 of 100 commits, at most", times.quantile(0.99)),
        line("all commits, at most", times.most()),
    ];
    Ok(Outcome {
        heads: HEADS,
        charts: vec![Chart::of(
            BENCHMARK.name,
            "From commit to visible",
            Unit::Milliseconds,
            HEADS,
            &lines,
        )],
        lines,
        notes: vec![format!(
            "{} commits of one row each, at random moments, in a table of {} rows. The time begins when Postgres \
             has acknowledged the commit, and ends when a `select` on the store, repeated every {} ms, returns the \
             new value.",
            count(commits as u64),
            count(rows),
            LOOK.as_secs_f64() * MILLISECONDS_PER_SECOND
        )],
    })
}

/// A client that follows its source, and somebody who reads its store.
struct Live {
    client: Process,
    reader: Connection,
}

impl Live {
    /// Commits a value to a row, and returns the seconds until it is in the store.
    async fn commit(&mut self, database: &Database, id: u64, value: i64) -> Result<f64> {
        let update = format!("update item set quantity = {value} where id = {id}");
        let updated = database.rows_of(update).await?;
        let began = Instant::now();
        ensure!(updated == 1, "there is no row {id}");
        let mut query = self.reader.prepare("select quantity from item where id = ?1")?;
        let id = i64::try_from(id)?;
        while query.query_row([id], |row| row.get::<_, i64>(0))? != value {
            ensure!(
                began.elapsed() < VISIBLE_WAIT_MAX,
                "the row {id} has not arrived in {} s",
                VISIBLE_WAIT_MAX.as_secs()
            );
            if let Some(status) = self.client.try_wait()? {
                anyhow::bail!("the client has ended, {status}");
            }
            // The runtime's own timers count in milliseconds. Ctrl-C is heard in between.
            std::thread::sleep(LOOK);
            tokio::task::yield_now().await;
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

/// Opens the store as any other program would, beside the client.
fn open(store: &Path) -> Result<Connection> {
    let reader = pipeline::open(store)?;
    reader.busy_timeout(VISIBLE_WAIT_MAX)?;
    Ok(reader)
}
