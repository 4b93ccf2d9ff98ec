//! A pull that finds nothing new, which is what most pulls are.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::highwater::{self, Server};
use crate::measure::{float, rounds};
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::pages::{self, Form, Reader};
use crate::stage::Stage;
use crate::{pipeline, program};

const MILLISECONDS_MAX: f64 = 30.0;
const REQUESTS_MAX: f64 = 1.0;
const MILLISECONDS_PER_SECOND: f64 = 1000.0;
const HEADS: [&str; 2] = ["Highwater", "curl"];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "nothing-new",
    measures: "the client from its start to its end, when nothing has changed since its last pull",
    against: "`curl` asking for the same page, which only reads it",
    bar: "30 ms, and a single request",
    run: |stage| Box::pin(run(stage)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Highwater,
    Curl,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let data = stage.sizes.flights();
    let database = highwater::enabled(stage, data).await?;
    let server = Server::start(stage, &database).await?;
    let rows = database.count(data.table()).await?;
    let (_, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
    let requests = requests(stage, &server, &store).await?;
    let url = format!("{}{}", server.url, pages::path(Some(&cursor(&store)?), None));
    let who = [Who::Highwater, Who::Curl];
    let rounds = rounds(stage.sizes.many(), &who, async |who, _| match who {
        Who::Highwater => Ok(nothing(stage, &server, &store).await?),
        Who::Curl => Ok(program::timed(curl(&url, Form::Copy)).await?.seconds),
    })
    .await?;
    let of = |who| rounds.of(who, |seconds| seconds * MILLISECONDS_PER_SECOND);
    let time = Line::pair(
        "a pull with nothing new",
        Unit::Milliseconds,
        of(Who::Highwater),
        of(Who::Curl),
    );
    let lines = vec![
        time.with_bar(Bar::Value(MILLISECONDS_MAX)),
        Line::alone(
            "requests of such a pull",
            Unit::Count("requests"),
            [float(requests as u64)].into_iter().collect(),
        )
        .with_bar(Bar::Value(REQUESTS_MAX)),
    ];
    Ok(Outcome {
        heads: HEADS,
        charts: vec![Chart::of(
            BENCHMARK.name,
            "A pull with nothing new",
            Unit::Milliseconds,
            HEADS,
            &lines,
        )],
        lines,
        notes: vec!["Requests are counted in the server's log.".to_owned()],
    })
}

/// `curl` reading a page into nothing.
pub(super) fn curl(url: &str, form: Form) -> Command {
    let mut command = Command::new("curl");
    command
        .args([
            "--disable",
            "--fail",
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
        ])
        .args(["--output", "/dev/null", "--header"])
        .arg(format!("Accept: {}", form.media_type()))
        .arg(url)
        .stdin(Stdio::null());
    command
}

/// The cursor that a store with one entity stands at.
pub(super) fn cursor(store: &Path) -> Result<String> {
    let cursor = pipeline::open(store)?.query_row("select cursor from sync_helper", [], |row| row.get(0));
    cursor.context("the store has no cursor")
}

async fn nothing(stage: &Stage, server: &Server, store: &Path) -> Result<f64> {
    let pulled = highwater::pulled(stage, &server.url, store).await?;
    ensure!(pulled.rows + pulled.deleted == 0, "something was new: {pulled:?}");
    Ok(pulled.seconds)
}

/// How many requests a pull with nothing new makes: those between two of our own.
async fn requests(stage: &Stage, server: &Server, store: &Path) -> Result<usize> {
    let reader = Reader::new(&server.url)?;
    reader.mark("before").await?;
    nothing(stage, server, store).await?;
    reader.mark("after").await?;
    let after = server.answered_before("after").await?;
    Ok(after - server.answered_before("before").await? - 1)
}
