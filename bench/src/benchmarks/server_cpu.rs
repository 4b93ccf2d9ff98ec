//! What the server costs for each row that passes through it, beside `psql`, which hands on the
//! same rows and does nothing else.

use std::collections::HashMap;

use anyhow::{Context as _, Result};

use crate::figures::count;
use crate::highwater::{self, Server};
use crate::measure::{float, rounds};
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::pages::{Encoding, Form, Reader};
use crate::stage::{Database, Stage};
use crate::{program, watch};

const RATIO_MAX: f64 = 1.0;
/// How often the rows are passed on for one reading: the system counts in hundredths of a second, and
/// of a program that has ended it forgets the last parts of one.
const PASSES: u64 = 5;
const MICROSECONDS_PER_SECOND: f64 = 1_000_000.0;
const HEADS: [&str; 2] = ["Highwater", "psql"];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "server-cpu",
    measures: "CPU time for each row of a first pull of the generated table, in the server and in Postgres",
    against: "`psql` writing the same columns of the same rows with `copy` into a pipe, as in first-pull",
    bar: "the server takes no more than `psql`",
    run: |stage| Box::pin(run(stage)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// A first pull by the client.
    Client,
    /// The same pages as JSON, read into nothing.
    Json,
    Psql,
}

/// CPU seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    /// Of the server, or of `psql`.
    program: f64,
    /// Of the Postgres backends that worked for it.
    postgres: f64,
    /// Of the client, where there was one.
    client: f64,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let data = stage.sizes.items();
    let database = highwater::enabled(stage, data).await?;
    let rows = database.count(data.table()).await?;
    let server = Server::start(stage, &database).await?;
    // Finds the pages, so that what it spends is not the server's.
    let finder = Server::start(stage, &database).await?;
    let (reader, pages) = (Reader::new(&server.url)?, Reader::new(&finder.url)?);
    let who = [Who::Client, Who::Json, Who::Psql];
    let rounds = rounds(stage.sizes.pairs, &who, async |who, _| match who {
        Who::Client => {
            let pull = async || {
                let store = stage.store();
                let ran = program::watched(highwater::pull(stage, &server.url, &store, None)).await?;
                Stage::remove(&store)?;
                Ok(ran.cpu_seconds)
            };
            let pass = async || served(&server, &database, pull).await;
            passes(&database, pass).await
        }
        Who::Json => {
            let pass = async || {
                let (paths, _) = pages.paths(None, None).await?;
                let read = async || {
                    for path in &paths {
                        reader.read(path, Form::Json, Encoding::Identity).await?;
                    }
                    Ok(0.0)
                };
                served(&server, &database, read).await
            };
            passes(&database, pass).await
        }
        Who::Psql => psql(stage, &database, data.table()).await,
    })
    .await?;
    let of = |who, part: fn(&Cost) -> f64| {
        rounds.of(who, |cost| {
            part(cost) * MICROSECONDS_PER_SECOND / float(rows * PASSES)
        })
    };
    let line = |what: &str, who, part: fn(&Cost) -> f64| {
        Line::pair(what, Unit::MicrosecondsPerRow, of(who, part), of(Who::Psql, part))
    };
    let client = of(Who::Client, |cost| cost.client);
    let lines = vec![
        line("server, COPY blocks", Who::Client, |cost| cost.program).with_bar(Bar::Ratio(RATIO_MAX)),
        line("Postgres, COPY blocks", Who::Client, |cost| cost.postgres),
        line("both together, COPY blocks", Who::Client, |cost| {
            cost.program + cost.postgres
        }),
        line("server, JSON", Who::Json, |cost| cost.program),
        line("Postgres, JSON", Who::Json, |cost| cost.postgres),
        Line::alone("client", Unit::MicrosecondsPerRow, client),
    ];
    Ok(Outcome {
        heads: HEADS,
        charts: vec![Chart::of(
            BENCHMARK.name,
            "CPU time for each row of a first pull",
            Unit::MicrosecondsPerRow,
            HEADS,
            &lines,
        )],
        lines,
        notes: vec![format!(
            "{} rows, {PASSES} times for each reading, since the system counts user and system time in \
             hundredths of a second, each time after a commit, since who asks the same as another is given pages \
             that the server has kept. COPY blocks are pulled by the client, JSON is read into nothing. Both pass \
             each row on, `psql` through a pipe, the server over a socket. `psql` is woken for each piece of 8 KiB that \
             Postgres sends; the server lets some of them gather while many rows pass.",
            count(rows)
        )],
    })
}

/// What all passes of a reading cost, of which none shares pages with the one before.
async fn passes(database: &Database, pass: impl AsyncFn() -> Result<Cost>) -> Result<Cost> {
    let mut all = Cost::default();
    for _ in 0..PASSES {
        database.advance().await?;
        let Cost {
            program,
            postgres,
            client,
        } = pass().await?;
        all.program += program;
        all.postgres += postgres;
        all.client += client;
    }
    Ok(all)
}

/// What the server and its backends spend while `work` is done, which returns what it spent itself.
async fn served(
    server: &Server,
    database: &Database,
    work: impl AsyncFnOnce() -> Result<f64>,
) -> Result<Cost> {
    let (program, before) = (watch::cpu_seconds(server.pid())?, backends(database).await?);
    let client = work().await?;
    let mut postgres = 0.0;
    for (pid, seconds) in backends(database).await? {
        // A connection that was opened meanwhile began with nothing.
        postgres += seconds - before.get(&pid).copied().unwrap_or(0.0);
    }
    Ok(Cost {
        program: watch::cpu_seconds(server.pid())? - program,
        postgres,
        client,
    })
}

/// The CPU seconds of the backends that work for the server. It keeps its connections.
async fn backends(database: &Database) -> Result<HashMap<u32, f64>> {
    let pids = "select pid from pg_stat_activity
        where datname = current_database() and application_name = 'highwater-server'";
    let pids: Vec<i32> = sqlx::query_scalar(pids).fetch_all(&database.pool).await?;
    pids.into_iter()
        .map(|pid| {
            let pid = u32::try_from(pid)?;
            Ok((pid, watch::cpu_seconds(pid)?))
        })
        .collect()
}

async fn psql(stage: &Stage, database: &Database, table: &str) -> Result<Cost> {
    let columns = "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
        where attrelid = $1::text::regclass and attnum > 0 and attname not in ('changed_xid', 'deleted')";
    let columns: String = sqlx::query_scalar(columns)
        .bind(table)
        .fetch_one(&database.pool)
        .await?;
    let mut command = stage.psql(database);
    let copy = format!("copy (select {columns} from {table} where not deleted) to stdout");
    for _ in 0..PASSES {
        command.args(["-c", &copy]);
    }
    command.args([
        // With the session the backend ends, and only it knows what it has spent until then.
        "-c",
        "create table spent as select pg_read_file('/proc/self/stat', 0, 4096) as stat",
    ]);
    let ran = program::watched(command).await?;
    let stat: String = sqlx::query_scalar("select stat from spent")
        .fetch_one(&database.pool)
        .await?;
    database.run("drop table spent").await?;
    Ok(Cost {
        program: ran.cpu_seconds,
        postgres: watch::stat_cpu_seconds(&stat).context("a backend tells no CPU time")?,
        client: 0.0,
    })
}
