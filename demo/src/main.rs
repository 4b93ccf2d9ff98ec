//! Shows Highwater from end to end, with nothing set up before: a Postgres of its own with real
//! tables, the real server and client, changes that are easy to lose, and a check of every value.

mod compare;
mod narration;
mod programs;
mod stage;
mod story;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::narration::Narration;

/// The exit code of a demo that was stopped before its end.
const EXIT_INTERRUPTED: u8 = 130;
/// How long to wait at the end for what cannot be cancelled, such as a Postgres that is just starting.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);

/// Shows Highwater from end to end: Postgres, server, client, SQLite.
///
/// It starts a Postgres of its own, or makes a database of its own on the server that
/// `DATABASE_URL` names. At the end everything is stopped; the SQLite file stays.
#[derive(Debug, Parser)]
#[command(name = "highwater-demo", version)]
struct Options {
    /// Leave Postgres and the server running until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let code = match runtime.block_on(show(&options)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    };
    runtime.shutdown_timeout(STOP_WAIT_MAX);
    code
}

async fn show(options: &Options) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let mut narration = Narration::new();
    // Dropping the story half-way ends all that it has started.
    let told = tokio::select! {
        told = story::tell(&mut narration, options.keep) => told,
        () = stop.requested() => return Ok(ExitCode::from(EXIT_INTERRUPTED)),
    };
    let stage = told.with_context(|| narration.failed())?;
    if options.keep {
        stop.requested().await;
    }
    stage.close()?;
    Ok(ExitCode::SUCCESS)
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
