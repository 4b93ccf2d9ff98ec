//! A store that begins with a seed, beside the same pipeline as a first pull.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::figures::count;
use crate::highwater::{self, Server};
use crate::measure::rounds;
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::pipeline::{self, Pipeline};
use crate::program;
use crate::stage::Stage;

/// At most this share of the pipeline's time.
const RATIO_MAX: f64 = 0.25;
const HEADS: [&str; 2] = ["Highwater", "psql and sqlite3"];
/// The longest request that is read.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "seed",
    measures: "the time of a first pull that begins with a seed from a web server, until the store is up to date",
    against: "`psql` writing the table as CSV into `sqlite3`, as in first-pull",
    bar: "25 % of the pipeline's time",
    run: |stage| Box::pin(run(stage)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Highwater,
    Pipeline,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let data = stage.sizes.flights();
    let table = data.table();
    let database = highwater::enabled(stage, data).await?;
    let server = Server::start(stage, &database).await?;
    let rows = database.count(table).await?;
    let (_, origin) = highwater::pulled_anew(stage, &server.url, rows).await?;
    let pipeline = Pipeline::like(&origin, table)?;
    let seed = origin.with_extension("seed");
    let mut command = Command::new(&stage.programs.client);
    command
        .args(["seed", "--quiet", "--store"])
        .arg(&origin)
        .arg("--out")
        .arg(&seed)
        .stdin(Stdio::null());
    let made = program::timed(command).await?;
    let store_bytes = std::fs::metadata(&origin)?.len();
    let web = FileServer::start(std::fs::read(&seed)?).await?;
    let who = [Who::Highwater, Who::Pipeline];
    let rounds = rounds(stage.sizes.pairs, &who, async |who, _| match who {
        Who::Highwater => {
            let store = stage.store();
            let mut pull = highwater::pull(stage, &server.url, &store, None);
            pull.args(["--seed", &web.url]);
            let ended = program::timed(pull).await?;
            let held = pipeline::count(&store, table)?;
            ensure!(held == rows, "the store has {held} rows of {rows}");
            ensure!(
                ended.out.contains("\"pulledAt\""),
                "it began without the seed: {}",
                ended.out
            );
            Stage::remove(&store)?;
            Ok(ended.seconds)
        }
        Who::Pipeline => pipeline.run(stage, &database, rows).await,
    })
    .await?;
    let of = |who| rounds.of(who, |seconds| *seconds);
    let what = format!("{table}, {} rows", count(rows));
    let line = Line::pair(what, Unit::Seconds, of(Who::Highwater), of(Who::Pipeline));
    let lines = vec![line.with_bar(Bar::Ratio(RATIO_MAX))];
    let note = format!(
        "The seed has {} bytes, the store {}; it was made in {:.2} s, once, beside nothing else. The pull that \
         follows is part of the time.",
        count(std::fs::metadata(&seed)?.len()),
        count(store_bytes),
        made.seconds
    );
    remove(&seed, &origin)?;
    Ok(Outcome {
        heads: HEADS,
        charts: vec![Chart::of(
            BENCHMARK.name,
            "A first pull with a seed",
            Unit::Seconds,
            HEADS,
            &lines,
        )],
        lines,
        notes: vec![note],
    })
}

fn remove(seed: &Path, origin: &Path) -> Result<()> {
    std::fs::remove_file(seed).with_context(|| format!("cannot remove {}", seed.display()))?;
    Stage::remove(origin)
}

/// Hands out one file to whoever asks for anything; it ends when this is dropped.
struct FileServer {
    url: String,
    serving: JoinHandle<()>,
}

impl FileServer {
    async fn start(file: Vec<u8>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/flights.seed", listener.local_addr()?);
        let file = Arc::new(file);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let file = Arc::clone(&file);
                // Whoever goes away in between is not served.
                tokio::spawn(async move { answer(stream, &file).await.ok() });
            }
        });
        Ok(Self { url, serving })
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(mut stream: TcpStream, file: &[u8]) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        file.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(file).await?;
    stream.shutdown().await
}
