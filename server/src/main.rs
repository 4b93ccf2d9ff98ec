//! The program `highwater-server`: reads the command line and calls the library.

mod callers;
mod cli;
mod commands;
mod limits;
mod package;
mod serving;
mod transport;

use std::process::ExitCode;

use clap::Parser as _;
use highwater_server::Coalescing;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    serving::log(cli.log_format);
    let coalescing = Coalescing::default();
    let threads = coalescing.clone();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_park(move || threads.pause())
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(commands::run(cli, coalescing)));
    match result {
        Ok(code) => code,
        Err(error) => {
            commands::say_error(&error);
            ExitCode::FAILURE
        }
    }
}
