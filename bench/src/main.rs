//! Measures Highwater beside what one would make by hand, with nothing set up before, and writes
//! down what came of it.

mod activity;
mod benchmarks;
mod caller;
mod chart;
mod data;
mod figures;
mod highwater;
mod machine;
mod measure;
mod open_files;
mod outcome;
mod pages;
mod pipeline;
mod program;
mod report;
mod stage;
mod statements;
mod watch;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use clap::builder::RangedU64ValueParser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::outcome::Benchmark;
use crate::report::Measured;
use crate::stage::{Sizes, Stage};

/// The exit code of benchmarks that were stopped before their end.
const EXIT_INTERRUPTED: u8 = 130;
/// How long to wait at the end for what cannot be cancelled, such as a Postgres that is just starting.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);
/// Fewer rows than these cannot change in all the ways that benchmarks want.
const ROWS_MIN: u64 = 20_000;
/// The sizes of a run that only shows that everything works.
const QUICK: Sizes = Sizes {
    rows: ROWS_MIN,
    pairs: 2,
    hold: Duration::from_secs(3),
    quick: true,
};

/// Measures Highwater beside what one would make by hand.
///
/// It starts a Postgres of its own and builds the programs. It needs the programs psql, sqlite3 and curl.
#[derive(Debug, Parser)]
#[command(name = "highwater-bench", version)]
struct Options {
    /// Run these only, with commas between them.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// List the benchmarks.
    #[arg(long)]
    list: bool,
    /// Rows of the generated tables.
    #[arg(long, default_value_t = 1_000_000, value_name = "NUMBER", value_parser = RangedU64ValueParser::<u64>::new().range(ROWS_MIN..))]
    rows: u64,
    /// How often each pair is measured.
    #[arg(long, default_value_t = 5, value_name = "NUMBER", value_parser = RangedU64ValueParser::<u64>::new().range(1..=1000))]
    pairs: u64,
    /// How long callers wait while nothing changes.
    #[arg(long, default_value = "300s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    hold: Duration,
    /// The folder for the report [default: the documents of this workspace, and none with --only or --quick].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Small tables and two pairs, only to see that everything works.
    #[arg(long, conflicts_with_all = ["rows", "pairs", "hold"])]
    quick: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let code = match runtime.block_on(run(&options)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    };
    runtime.shutdown_timeout(STOP_WAIT_MAX);
    code
}

async fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if options.list {
        for benchmark in &benchmarks::ALL {
            say(&format!("{:17} {}", benchmark.name, benchmark.measures))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = chosen(&options.only)?;
    ensure!(
        options.quick || !cfg!(debug_assertions),
        "this is a debug build, whose numbers would mean nothing; run it with cargo run --release"
    );
    let mut stop = Stop::listen()?;
    // Dropping the run half-way ends all that it has started.
    tokio::select! {
        done = measure(options, &chosen) => done.map(|()| ExitCode::SUCCESS),
        () = stop.requested() => Ok(ExitCode::from(EXIT_INTERRUPTED)),
    }
}

/// Runs the benchmarks and writes the report. A bar that is missed is a result, and no error.
async fn measure(options: &Options, chosen: &[&Benchmark]) -> anyhow::Result<()> {
    let sizes = if options.quick {
        QUICK
    } else {
        let (rows, pairs) = (options.rows, usize::try_from(options.pairs)?);
        Sizes {
            rows,
            pairs,
            hold: options.hold,
            quick: false,
        }
    };
    benchmarks::check(chosen, sizes)?;
    say("building the programs, starting Postgres")?;
    let stage = Stage::set(sizes).await?;
    let load = machine::load();
    let mut measured = Vec::new();
    for benchmark in chosen.iter().copied() {
        let began = Instant::now();
        say(&format!("\n{}: {}", benchmark.name, benchmark.measures))?;
        let outcome = (benchmark.run)(&stage).await;
        let outcome = outcome.with_context(|| format!("the benchmark {} failed", benchmark.name))?;
        stage.clear().await?;
        say(&report::table(&outcome))?;
        say(&format!("({:.0} s)", began.elapsed().as_secs_f64()))?;
        measured.push(Measured { benchmark, outcome });
    }
    match out(options)? {
        Some(out) => {
            let mut facts = machine::facts(&stage, &load).await?;
            facts.push(("date", chrono::Utc::now().format("%Y-%m-%d").to_string()));
            facts.push(("command", format!("`{}`", command(options))));
            facts.push(("pairs", sizes.pairs.to_string()));
            report::write(&out, &facts, &measured)?;
            say(&format!("\nwritten to {}", out.display()))
        }
        None => say("\nnothing written; --out names a folder for the report"),
    }
}

/// The benchmarks of these names, in our order; all where there are none.
fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Benchmark>> {
    for name in names {
        if !benchmarks::ALL.iter().any(|benchmark| benchmark.name == name) {
            let known: Vec<&str> = benchmarks::ALL.iter().map(|benchmark| benchmark.name).collect();
            bail!("there is no benchmark {name}; there are {}", known.join(", "));
        }
    }
    let wanted = |benchmark: &&Benchmark| names.is_empty() || names.iter().any(|name| name == benchmark.name);
    Ok(benchmarks::ALL.iter().filter(wanted).collect())
}

/// Where the report goes. Part of a run, or a quick one, does not take the place of a full report.
fn out(options: &Options) -> anyhow::Result<Option<PathBuf>> {
    if options.out.is_some() || options.quick || !options.only.is_empty() {
        return Ok(options.out.clone());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(Some(workspace.context("the workspace is gone")?.join("docs")))
}

/// The command that gives the same report again, without the places of this machine.
fn command(options: &Options) -> String {
    let only = if options.only.is_empty() {
        String::new()
    } else {
        format!(" --only {}", options.only.join(","))
    };
    let sizes = if options.quick {
        " --quick".to_owned()
    } else {
        let hold = humantime::format_duration(options.hold).to_string();
        let hold = hold.replace(' ', "");
        format!(" --rows {} --pairs {} --hold {hold}", options.rows, options.pairs)
    };
    format!("cargo run --release --locked -p highwater-bench --{only}{sizes}")
}

/// Says something at once. Whoever closed standard output early has seen enough; the report is
/// still written.
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => bail!(error),
        _ => Ok(()),
    }
}

/// Says what went wrong, with its causes.
fn fail(error: &anyhow::Error) -> ExitCode {
    // With nobody left to read it, there is nothing else to do about an error.
    let _ = writeln!(io::stderr(), "\n{error:#}");
    ExitCode::FAILURE
}

/// Ctrl-C and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
