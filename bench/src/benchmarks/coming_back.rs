//! A fleet that comes back in one moment, after a night or an outage, each device with changes to
//! catch up on.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use hyper::StatusCode;
use tokio::task::JoinSet;

use crate::activity::{self, Connections};
use crate::caller::Caller;
use crate::data::Data;
use crate::figures::count;
use crate::highwater::{self, POOL_CONNECTIONS_MAX, Server};
use crate::measure::{Samples, float, rounds};
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::pages::{self, Reader};
use crate::stage::{Database, Sizes, Stage};

const ROWS: u64 = 10_000;
/// Rows that each device lacks.
const CHANGES: u64 = 100;
const REFUSED_MAX: f64 = 0.0;
/// How long a refused device waits where the server does not say it.
const RETRY: Duration = Duration::from_secs(1);
/// How often a device tries again before it is lost.
const RETRIES_MAX: u64 = 10;
const HEADS: [&str; 2] = ["Highwater", ""];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "coming-back",
    measures: "1,000 devices that connect in one moment, each 100 changed rows behind: the time until they have \
               them, refused requests, and the server's connections to Postgres meanwhile",
    against: "a fixed number of connections, that of `--pool-size`",
    bar: "no request refused, 16 connections",
    run: |stage| Box::pin(run(stage)),
};

/// How many devices come back.
pub(super) fn devices(sizes: Sizes) -> u64 {
    if sizes.quick { 50 } else { 1_000 }
}

/// Where the devices stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cursors {
    /// Each at a cursor that no other has.
    Own,
    /// All at one.
    Same,
}

/// What the return of all devices was like.
#[derive(Debug)]
struct Return {
    /// Until each device had everything.
    seconds: Samples,
    refused: u64,
    /// The most connections of the server's to Postgres.
    connections: u64,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let size = devices(stage.sizes);
    let database = highwater::enabled(stage, Data::Items { rows: ROWS }).await?;
    let server = Server::start(stage, &database).await?;
    let own = cursors(&database, &server, size).await?;
    let same = vec![own.last().cloned().unwrap_or_default(); own.len()];
    let who = [Cursors::Own, Cursors::Same];
    let rounds = rounds(stage.sizes.pairs, &who, async |who, round| {
        // What the server has read in the round before is out of date then.
        change(&database, round as u64).await?;
        let cursors = match who {
            Cursors::Own => &own,
            Cursors::Same => &same,
        };
        let work = come_back(&server, cursors);
        let ((seconds, refused), connections) = activity::most_during(stage, Connections::All, work).await?;
        Ok(Return {
            seconds,
            refused,
            connections,
        })
    })
    .await?;
    let mut lines = Vec::new();
    for (who, name) in [
        (Cursors::Own, "cursors of their own"),
        (Cursors::Same, "one cursor"),
    ] {
        let of = |number: fn(&Return) -> f64| rounds.of(who, number);
        let line = |what: &str, unit, numbers| Line::alone(format!("{what}; {name}"), unit, numbers);
        let refused = of(|back| float(back.refused)).sum().into();
        let connections = of(|back| float(back.connections)).most().into();
        lines.extend([
            line(
                "half of them have everything",
                Unit::Seconds,
                of(|back| back.seconds.median()),
            ),
            line(
                "the slowest has everything",
                Unit::Seconds,
                of(|back| back.seconds.most()),
            ),
            line("refused", Unit::Count("requests"), refused).with_bar(Bar::Value(REFUSED_MAX)),
            line("to Postgres, at most", Unit::Count("connections"), connections)
                .with_bar(Bar::Value(float(POOL_CONNECTIONS_MAX))),
        ]);
    }
    Ok(Outcome {
        heads: HEADS,
        charts: vec![Chart::of(
            BENCHMARK.name,
            "A fleet that comes back at once",
            Unit::Seconds,
            HEADS,
            &lines,
        )],
        lines,
        notes: vec![format!(
            "{} devices in each of {} rounds, on the machine of the server, whose cores they share. Each opens a \
             connection of its own and reads its pages into nothing; where it is refused it waits and asks again, \
             as the client does. Refused requests are those of all rounds.",
            count(size),
            stage.sizes.pairs
        )],
    })
}

/// Cursors from which every device lacks the same rows: between two of them one of the rows
/// changes, in turn, and after the last each once more.
async fn cursors(database: &Database, server: &Server, size: u64) -> Result<Vec<String>> {
    let (_, mut since) = Reader::new(&server.url)?.paths(None, None).await?;
    let mut caller = Caller::connect(&server.url).await?;
    let mut cursors = Vec::new();
    for number in 0..size {
        change(database, number).await?;
        since = caller.page(&pages::path(Some(&since), None)).await?.next;
        ensure!(cursors.last() != Some(&since), "two cursors are the same");
        cursors.push(since.clone());
    }
    for number in 0..CHANGES {
        change(database, number).await?;
    }
    Ok(cursors)
}

/// Commits a change of one of the rows that devices lack.
async fn change(database: &Database, number: u64) -> Result<()> {
    let id = 1 + number % CHANGES;
    let changed = database
        .rows_of(format!("update item set price = price + 1 where id = {id}"))
        .await?;
    ensure!(changed == 1, "there is no row {id}");
    Ok(())
}

/// Has all devices come back at once. Returns when each had everything, and how many requests were
/// refused.
async fn come_back(server: &Server, cursors: &[String]) -> Result<(Samples, u64)> {
    let began = Instant::now();
    let mut devices = JoinSet::new();
    for since in cursors {
        let (server, since) = (server.url.clone(), since.clone());
        devices.spawn(async move {
            let refused = pull(&server, since).await?;
            anyhow::Ok((began.elapsed().as_secs_f64(), refused))
        });
    }
    let (mut seconds, mut refused) = (Vec::new(), 0);
    while let Some(ended) = devices.join_next().await {
        let (took, times) = ended??;
        seconds.push(took);
        refused += times;
    }
    Ok((seconds.into_iter().collect(), refused))
}

/// Pulls all that a device lacks, and returns how often it was refused.
async fn pull(server: &str, mut since: String) -> Result<u64> {
    let mut caller = Caller::connect(server).await?;
    let (mut rows, mut refused) = (0, 0);
    loop {
        let answer = caller.ask(&pages::path(Some(&since), None)).await?;
        match answer.status {
            StatusCode::OK => {
                let trailer = pages::trailer(&answer.body)?;
                rows += trailer.rows;
                if !trailer.more {
                    break;
                }
                since = trailer.next;
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS if refused < RETRIES_MAX => {
                refused += 1;
                tokio::time::sleep(answer.retry_after.unwrap_or(RETRY)).await;
            }
            other => bail!(
                "a device was answered {other}: {}",
                String::from_utf8_lossy(&answer.body)
            ),
        }
    }
    ensure!(rows == CHANGES, "a device got {rows} rows of {CHANGES}");
    Ok(refused)
}
