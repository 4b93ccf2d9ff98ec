//! Polls with nothing new, which is what a fleet that asks now and then sends all day.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hyper::StatusCode;
use tokio::task::JoinSet;

use crate::activity::{self, Connections};
use crate::caller::Caller;
use crate::data::Data;
use crate::highwater::{self, Server};
use crate::measure::{Rounds, Samples, float, rounds};
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::pages::{self, Reader};
use crate::stage::{Database, Stage};

const RATIO_LEAST: f64 = 0.5;
/// Looks at the source in Postgres at once.
const LOOKS_MAX: f64 = 1.0;
const ROWS: u64 = 10_000;
/// Connections.
const FEW: usize = 32;
const MANY: usize = 256;
const TIME: Duration = Duration::from_secs(3);
const QUICK_TIME: Duration = Duration::from_millis(300);
/// Longer than a session of Postgres' keeps its numbers to itself, and than an idle server pauses
/// between two looks.
const STATISTICS_DELAY: Duration = Duration::from_millis(1500);
/// What is refused as soon as it is read: the same route beneath the same layers, and a constant text that is as
/// long as the answer to a poll.
const REFUSED: &str = "/changes?since=2026-13-45T10:00:00.123456789012345678Z";
const HEADS: [&str; 2] = ["polls", "refused"];
/// What differs at most between the lengths of both answers.
const LENGTHS_RATIO_MAX: f64 = 1.2;

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "polls",
    measures: "polls with an up-to-date cursor that are not held, over 32 and 256 connections that are kept: how many \
               are answered, and what of it Postgres sees",
    against: "requests with a `since` that is no date, to the same server and route over as many connections: \
              they are refused as soon as they are read, with a constant text that is as long",
    bar: "half of the rate; one look at the source at a time",
    run: |stage| Box::pin(run(stage)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Poll,
    Refused,
}

/// What one round brought.
#[derive(Debug, Clone, Copy)]
struct Answered {
    requests: u64,
    seconds: f64,
    /// The most connections of the server's that were at work in Postgres at once.
    at_work: u64,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let database = highwater::enabled(stage, Data::Items { rows: ROWS }).await?;
    let server = Server::start(stage, &database).await?;
    let before = transactions(stage, &database).await?;
    let (_, since) = Reader::new(&server.url)?.paths(None, None).await?;
    let path = pages::path(Some(&since), None);
    let mut caller = Caller::connect(&server.url).await?;
    let poll_bytes = caller.ask(&path).await?.body.len();
    let refused_bytes = caller.ask(REFUSED).await?.body.len();
    let lengths = [poll_bytes, refused_bytes].map(|bytes| float(u64::try_from(bytes).unwrap_or(u64::MAX)));
    let ratio = lengths[0] / lengths[1];
    ensure!(
        (1.0 / LENGTHS_RATIO_MAX..LENGTHS_RATIO_MAX).contains(&ratio),
        "the answers differ in length too much to be compared: {poll_bytes} and {refused_bytes} bytes"
    );
    // Once unmeasured, as elsewhere.
    drive(&server, REFUSED, FEW, QUICK_TIME).await?;
    let time = if stage.sizes.quick { QUICK_TIME } else { TIME };
    let who = [FEW, MANY].map(|connections| [(Who::Poll, connections), (Who::Refused, connections)]);
    let rounds = rounds(
        stage.sizes.pairs,
        who.as_flattened(),
        async |(who, connections), _| {
            let path = match who {
                Who::Poll => path.as_str(),
                Who::Refused => REFUSED,
            };
            let work = drive(&server, path, connections, time);
            let ((requests, seconds), at_work) =
                activity::most_during(stage, Connections::AtWork, work).await?;
            Ok(Answered {
                requests,
                seconds,
                at_work,
            })
        },
    )
    .await?;
    let transactions = transactions(stage, &database).await? - before;
    let lines = lines(&rounds, transactions);
    Ok(Outcome {
        heads: HEADS,
        charts: vec![Chart::of(
            BENCHMARK.name,
            "Polls with nothing new",
            Unit::RequestsPerSecond,
            HEADS,
            &lines,
        )],
        lines,
        notes: vec![format!(
            "A poll is answered with {poll_bytes} bytes, `{REFUSED}` with {refused_bytes}; callers and server share \
             the machine's cores. A poll waits for a look that begins after it; with few connections all of them \
             wait most of the time. Looks are the server's connections that `pg_stat_activity` shows in a \
             transaction, transactions those of the whole database in `pg_stat_database`."
        )],
    })
}

fn lines(rounds: &Rounds<(Who, usize), Answered>, transactions: u64) -> Vec<Line> {
    let rate = |connections| {
        let per_second = |answered: &Answered| float(answered.requests) / answered.seconds;
        let of = |who| rounds.of((who, connections), per_second);
        let what = format!("{connections} connections");
        Line::pair(what, Unit::RequestsPerSecond, of(Who::Poll), of(Who::Refused))
            .with_bar(Bar::RatioLeast(RATIO_LEAST))
    };
    let both = |number: fn(&Answered) -> u64| {
        [FEW, MANY].map(|connections| rounds.of((Who::Poll, connections), |answered| float(number(answered))))
    };
    let polls: f64 = both(|answered| answered.requests).iter().map(Samples::sum).sum();
    let looks = both(|answered| answered.at_work)
        .iter()
        .map(Samples::most)
        .fold(0.0, f64::max);
    vec![
        rate(FEW),
        rate(MANY),
        Line::alone("looks at once, at most", Unit::Count("looks"), looks.into())
            .with_bar(Bar::Value(LOOKS_MAX)),
        Line::alone(
            "Postgres for each poll",
            Unit::Count("transactions"),
            (float(transactions) / polls).into(),
        ),
    ]
}

/// Asks over all connections for a time, and returns how often and in how many seconds.
async fn drive(server: &Server, path: &str, connections: usize, time: Duration) -> Result<(u64, f64)> {
    let expected = match path {
        REFUSED => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    };
    let mut callers = Vec::new();
    for _ in 0..connections {
        callers.push(Caller::connect(&server.url).await?);
    }
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for mut caller in callers {
        let path = path.to_owned();
        asking.spawn(async move {
            let mut requests = 0;
            while began.elapsed() < time {
                let answer = caller.ask(&path).await?;
                ensure!(answer.status == expected, "the server answered {}", answer.status);
                requests += 1;
            }
            Ok(requests)
        });
    }
    let mut requests = 0;
    while let Some(ended) = asking.join_next().await {
        requests += ended??;
    }
    Ok((requests, began.elapsed().as_secs_f64()))
}

/// How many transactions there were in a database until now.
async fn transactions(stage: &Stage, database: &Database) -> Result<u64> {
    // A session that has only looked keeps its numbers until it has read a table too, as it does
    // after a change.
    tokio::time::sleep(STATISTICS_DELAY).await;
    database
        .run("update item set price = price + 1 where id = 1")
        .await?;
    tokio::time::sleep(STATISTICS_DELAY).await;
    let name: String = sqlx::query_scalar("select current_database()::text")
        .fetch_one(&database.pool)
        .await?;
    // From outside, where asking is no transaction of the database.
    let count = "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
    let count = sqlx::query_scalar(count).bind(name);
    let count: i64 = count.fetch_one(&mut stage.admin().await?).await?;
    Ok(u64::try_from(count)?)
}
