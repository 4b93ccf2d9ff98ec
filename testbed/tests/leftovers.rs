//! However a process ends, its Postgres ends too, and the folder goes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use highwater_testbed::process::Signal;
use highwater_testbed::{Process, Result};

const PATIENCE: Duration = Duration::from_secs(30);

struct Helper {
    process: Process,
    folder: PathBuf,
    port: u16,
}

/// Starts the program that holds a cluster, and waits until that is there.
fn helper(argument: &str) -> Result<Helper> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater-testbed"));
    command.arg(argument).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = Process::spawn(command)?;
    // Borrowed, so that the pipe stays open: a helper that cannot write fails.
    let stdout = process.stdout.as_mut().context("no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut line = |prefix: &str| -> Result<String> {
        let line = lines.next().context("the helper has ended")??;
        line.strip_prefix(prefix)
            .map(str::to_owned)
            .with_context(|| format!("not {prefix}: {line}"))
    };
    let address = line("postgres://postgres@127.0.0.1:")?;
    let port = address.split('/').next().unwrap_or_default().parse()?;
    let data = PathBuf::from(line("data ")?);
    let folder = data.parent().context("a data directory has a parent")?.to_owned();
    Ok(Helper {
        process,
        folder,
        port,
    })
}

fn assert_gone(helper: &Helper) {
    let deadline = Instant::now() + PATIENCE;
    let listens = || std::net::TcpStream::connect(("127.0.0.1", helper.port)).is_ok();
    while helper.folder.exists() || listens() {
        assert!(
            Instant::now() < deadline,
            "{} or its Postgres is still there",
            helper.folder.display()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

fn ended_by(signal: Signal) -> Result<()> {
    let mut helper = helper("wait")?;
    assert!(helper.folder.exists());
    helper.process.signal(signal)?;
    assert!(helper.process.wait_up_to(PATIENCE)?.is_some());
    assert_gone(&helper);
    Ok(())
}

#[test]
fn killed_process_leaves_nothing() -> Result<()> {
    ended_by(Signal::Kill)
}

#[test]
fn interrupted_process_leaves_nothing() -> Result<()> {
    ended_by(Signal::Interrupt)
}

#[test]
fn panicking_process_leaves_nothing() -> Result<()> {
    let mut helper = helper("panic")?;
    assert!(!helper.process.wait_up_to(PATIENCE)?.unwrap().success());
    assert_gone(&helper);
    Ok(())
}

#[test]
fn returning_process_leaves_nothing() -> Result<()> {
    let mut helper = helper("exit")?;
    assert!(helper.process.wait_up_to(PATIENCE)?.unwrap().success());
    // Dropped in order, so there is nothing to wait for.
    assert!(!helper.folder.exists());
    Ok(())
}
