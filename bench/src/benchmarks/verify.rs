//! A comparison of a store with its source, and its repair, beside a first pull of the same rows.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection;
use serde_json::Value;

use crate::figures::count;
use crate::highwater::{self, Pulled, Server};
use crate::measure::rounds;
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::program;
use crate::stage::Stage;

/// At most this share of a first pull's time, and of its bytes.
const RATIO_MAX: f64 = 0.1;
/// One row of so many differs where some are to be repaired.
const ROWS_FOR_ONE: u64 = 1_000;
const HEADS: [&str; 2] = ["verify", "a first pull"];
const BYTES_A_KIBIBYTE: f64 = 1024.0;

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "verify",
    measures: "the time and the bytes of a comparison of a store with its source, and of a repair where one row in a \
               thousand differs",
    against: "a first pull of the same rows",
    bar: "10 % of its time and of its bytes",
    run: |stage| Box::pin(run(stage)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Equal,
    Deep,
    Repair,
    Resync,
    FirstPull,
}

/// What a run took.
#[derive(Debug, Clone, Copy)]
struct Taken {
    seconds: f64,
    bytes: f64,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let data = stage.sizes.items();
    let table = data.table();
    let database = highwater::enabled(stage, data).await?;
    let server = Server::start(stage, &database).await?;
    let rows = database.count(table).await?;
    let (_, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
    let who = [Who::Equal, Who::Deep, Who::Repair, Who::Resync, Who::FirstPull];
    let rounds = rounds(stage.sizes.pairs, &who, async |who, _| match who {
        Who::Equal => verified(stage, &server.url, &store, &[]).await,
        Who::Deep => verified(stage, &server.url, &store, &["--deep"]).await,
        Who::Repair => {
            spoil(&store, table)?;
            verified(stage, &server.url, &store, &["--repair"]).await
        }
        Who::Resync => {
            spoil(&store, table)?;
            highwater::touch(stage, &database, table).await?;
            let pulled = highwater::pulled(stage, &server.url, &store).await?;
            let came = pulled.rows + pulled.deleted;
            // Few rows come as a whole.
            ensure!(
                stage.sizes.quick || came < rows / 100,
                "{came} rows came of {rows}"
            );
            taken(pulled)
        }
        Who::FirstPull => {
            let (pulled, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
            Stage::remove(&store)?;
            taken(pulled)
        }
    })
    .await?;
    Stage::remove(&store)?;
    let seconds = |who| rounds.of(who, |taken| taken.seconds);
    let bytes = |who| rounds.of(who, |taken| taken.bytes / BYTES_A_KIBIBYTE);
    let rows = count(rows);
    let mut lines = Vec::new();
    for (what, who) in [
        ("all the same".to_owned(), Who::Equal),
        ("all the same, value for value".to_owned(), Who::Deep),
        (
            format!("one row in {} repaired", count(ROWS_FOR_ONE)),
            Who::Repair,
        ),
        (
            format!("one row in {} fetched by a resync", count(ROWS_FOR_ONE)),
            Who::Resync,
        ),
    ] {
        let of = format!("{rows} rows, {what}");
        let time = Line::pair(&of, Unit::Seconds, seconds(who), seconds(Who::FirstPull));
        let size = Line::pair(
            format!("{of}: bytes"),
            Unit::Kibibytes,
            bytes(who),
            bytes(Who::FirstPull),
        );
        lines.extend([time, size].map(|line| line.with_bar(Bar::Ratio(RATIO_MAX))));
    }
    Ok(Outcome {
        heads: HEADS,
        charts: vec![Chart::of(BENCHMARK.name, "Is the copy right?", Unit::Seconds, HEADS, &lines)],
        lines,
        notes: vec![
            "The source and the store scan their tables at one time, but share the machine: Postgres, the server and \
             the client compete for its cores, and nothing is compressed. Where rows differ, each side scans twice, for \
             parts and for the keys in those that differ; rows are fetched, and after a repair looked at again, by \
             their keys. A resync, here after `touch`, compares all values."
                .to_owned(),
        ],
    })
}

fn taken(pulled: Pulled) -> Result<Taken> {
    Ok(Taken {
        seconds: pulled.seconds,
        bytes: f64::from(u32::try_from(pulled.bytes)?),
    })
}

/// Takes rows away, adds some, and dates others back.
fn spoil(store: &Path, table: &str) -> Result<()> {
    let connection = Connection::open(store)?;
    let each = 4 * ROWS_FOR_ONE;
    connection.execute_batch(&format!(
        "delete from {table} where id % {each} = 1;
         update {table} set changed_date = '2020-01-01T00:00:00.000000Z' where id % {each} in (2, 3);
         insert into {table} select -id, sku, name, price, quantity, active, note, updated_at, changed_date
         from {table} where id % {each} = 0"
    ))?;
    Ok(())
}

async fn verified(stage: &Stage, server: &str, store: &Path, more: &[&str]) -> Result<Taken> {
    let mut command = Command::new(&stage.programs.client);
    command
        .args(["verify", "--json", "--server", server, "--store"])
        .arg(store)
        .args(more);
    highwater::plain(&mut command);
    let ended = program::timed(command).await?;
    let told: Value = serde_json::from_str(&ended.out).context("the result is not JSON")?;
    let is_repair = more.contains(&"--repair");
    ensure!(
        told.get("equal") == Some(&Value::Bool(!is_repair)),
        "{}",
        ended.out.chars().take(1_000).collect::<String>()
    );
    let bytes = told
        .get("bytes")
        .and_then(Value::as_u64)
        .context("no bytes are told")?;
    Ok(Taken {
        seconds: ended.seconds,
        bytes: f64::from(u32::try_from(bytes)?),
    })
}
