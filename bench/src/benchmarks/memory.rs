//! The most memory that both programs hold during a first pull, whatever the size of the pages.

use anyhow::{Result, ensure};

use super::nothing_new::curl;
use crate::figures::count;
use crate::highwater::{self, Server};
use crate::measure::{Samples, float};
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::pages::{Form, Reader};
use crate::pipeline;
use crate::stage::{Database, Stage};
use crate::{program, watch};

const MEBIBYTES_MAX: f64 = 64.0;
const BYTES_PER_MEBIBYTE: f64 = 1024.0 * 1024.0;
/// Rows in a page: less than the default, the default, and the most.
const LIMITS: [u64; 3] = [10_000, 50_000, 100_000];
/// Memory hardly differs from run to run.
const RUNS_MAX: usize = 3;
const HEADS: [&str; 2] = ["Highwater", ""];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "memory",
    measures: "the most memory that each program holds during a first pull of the generated table",
    against: "a fixed size, whatever the size of table and page",
    bar: "64 MiB for each program",
    run: |stage| Box::pin(run(stage)),
};

async fn run(stage: &Stage) -> Result<Outcome> {
    let data = stage.sizes.items();
    let database = highwater::enabled(stage, data).await?;
    let rows = database.count(data.table()).await?;
    let runs = stage.sizes.pairs.min(RUNS_MAX);
    let mut lines = Vec::new();
    for limit in LIMITS {
        let (mut servers, mut clients, mut json) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..runs {
            let (server, client) = by_client(stage, &database, limit, rows, data.table()).await?;
            servers.push(server);
            clients.push(client);
            json.push(by_curl(stage, &database, limit).await?);
        }
        let line = |who: &str, peaks: Vec<u64>| {
            let what = format!("{who}, pages of {} rows", count(limit));
            let peaks: Samples = peaks
                .into_iter()
                .map(|peak| float(peak) / BYTES_PER_MEBIBYTE)
                .collect();
            Line::alone(what, Unit::Mebibytes, peaks).with_bar(Bar::Value(MEBIBYTES_MAX))
        };
        lines.push(line("client", clients));
        lines.push(line("server, COPY blocks", servers));
        lines.push(line("server, JSON", json));
    }
    Ok(Outcome {
        heads: HEADS,
        charts: vec![Chart::of(
            BENCHMARK.name,
            "The most memory held",
            Unit::Mebibytes,
            HEADS,
            &lines,
        )],
        lines,
        notes: vec![format!(
            "{} rows. A server is started for each first pull. COPY blocks are pulled by the client, JSON by \
             `curl` page by page into nothing.",
            count(rows)
        )],
    })
}

/// The peaks of server and client in a first pull.
async fn by_client(
    stage: &Stage,
    database: &Database,
    limit: u64,
    rows: u64,
    table: &str,
) -> Result<(u64, u64)> {
    let server = Server::start(stage, database).await?;
    let store = stage.store();
    let client = program::watched(highwater::pull(stage, &server.url, &store, Some(limit))).await?;
    let kept = pipeline::count(&store, table)?;
    ensure!(kept == rows, "the store has {kept} rows of {rows}");
    Stage::remove(&store)?;
    Ok((peak(&server)?, client.peak_bytes))
}

/// The server's peak while `curl` reads all pages as JSON.
async fn by_curl(stage: &Stage, database: &Database, limit: u64) -> Result<u64> {
    let finder = Server::start(stage, database).await?;
    let (paths, _) = Reader::new(&finder.url)?.paths(None, Some(limit)).await?;
    let server = Server::start(stage, database).await?;
    for path in paths {
        program::timed(curl(&format!("{}{path}", server.url), Form::Json)).await?;
    }
    peak(&server)
}

fn peak(server: &Server) -> Result<u64> {
    Ok(watch::peak_bytes(server.pid())?.unwrap_or(0))
}
