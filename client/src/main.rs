//! `highwater`: keeps an offline SQLite copy of Postgres tables current.

mod cli;
mod commands;
mod interrupt;
mod progress;
mod systemd;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

/// The exit code of a command that could not do what it was asked to.
const EXIT_FAILED: u8 = 1;
/// The exit code of a command that was called wrongly; clap's too.
const EXIT_USAGE: u8 = 2;
/// The exit code of a comparison that found differences.
const EXIT_DIFFERENT: u8 = 3;
/// The exit code of a command that a signal ended.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Pull(options) => commands::pull::run(options).await,
            Command::Run(options) => commands::run::run(options).await,
            Command::Seed(options) => commands::seed::run(&options),
            Command::Status(options) => commands::status::run(&options).await,
            Command::Reset(options) => commands::reset::run(&options),
            Command::Verify(options) => match commands::verify::run(options).await {
                Ok(true) => Ok(()),
                Ok(false) => return Ok(ExitCode::from(EXIT_DIFFERENT)),
                Err(error) => Err(error),
            },
            Command::Why(options) => commands::why::run(options).await,
            Command::Completions { shell } => commands::package::completions(shell),
            Command::Man { folder } => commands::package::man(&folder),
        }
        .map(|()| ExitCode::SUCCESS)
    });
    match outcome {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Says what went wrong, and turns it into an exit code.
fn fail(error: &anyhow::Error) -> ExitCode {
    // With nobody left to read it, there is nothing else to do about an error.
    let _ = writeln!(std::io::stderr(), "highwater: {error}");
    let code = match error.downcast_ref::<highwater_client::Error>() {
        Some(
            highwater_client::Error::ServerAddress { .. }
            | highwater_client::Error::TokenOverHttp { .. }
            | highwater_client::Error::Key { .. },
        ) => EXIT_USAGE,
        Some(error) if error.is_stopped() => EXIT_INTERRUPTED,
        _ => EXIT_FAILED,
    };
    ExitCode::from(code)
}
