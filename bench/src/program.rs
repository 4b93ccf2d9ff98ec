//! Runs programs to their end: by the clock, or watched for what they cost.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::process::Child;

use crate::watch;

/// How often a program is looked at that is watched.
const LOOK: Duration = Duration::from_millis(2);

/// A program that has ended well.
#[derive(Debug)]
pub(crate) struct Timed {
    /// From before it was started until it had ended.
    pub(crate) seconds: f64,
    /// What it wrote to standard output.
    pub(crate) out: String,
}

/// What a program has cost.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_bytes: u64,
}

/// Runs a command by the clock.
pub(crate) async fn timed(mut command: Command) -> Result<Timed> {
    command.stdout(Stdio::piped());
    let began = Instant::now();
    let child = spawn(command)?;
    let out = end(child).await?;
    Ok(Timed {
        seconds: began.elapsed().as_secs_f64(),
        out,
    })
}

/// Runs a command, whose output goes through a pipe to where it is dropped, and looks at it all the
/// time. That costs time, so it is not told how much it took.
pub(crate) async fn watched(mut command: Command) -> Result<Watched> {
    command.stdout(Stdio::piped());
    let mut child = spawn(command)?;
    let mut out = child.stdout.take().context("no standard output")?;
    let dropped = tokio::spawn(async move { tokio::io::copy(&mut out, &mut tokio::io::sink()).await });
    let pid = child.id().context("it was waited for")?;
    let mut peak_bytes = 0;
    while !watch::has_ended(pid)? {
        // What it holds in its last moments is what it has held before.
        peak_bytes = peak_bytes.max(watch::peak_bytes(pid)?.unwrap_or(0));
        tokio::time::sleep(LOOK).await;
    }
    let cpu_seconds = watch::cpu_seconds(pid)?;
    end(child).await?;
    dropped.await??;
    Ok(Watched {
        cpu_seconds,
        peak_bytes,
    })
}

/// Runs two commands at once, the output of the first into the second, and returns the seconds
/// until both have ended.
pub(crate) async fn piped(mut from: Command, mut into: Command) -> Result<f64> {
    from.stdout(Stdio::piped());
    into.stdout(Stdio::null());
    let began = Instant::now();
    let mut from = spawn(from)?;
    let pipe: Stdio = from.stdout.take().context("no standard output")?.try_into()?;
    into.stdin(pipe);
    let into = spawn(into)?;
    tokio::try_join!(end(from), end(into))?;
    Ok(began.elapsed().as_secs_f64())
}

/// Spawns a program that is killed when it is dropped, since whoever stops us wants it gone.
fn spawn(mut command: Command) -> Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stderr(Stdio::piped());
    tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {program}"))
}

async fn end(child: Child) -> Result<String> {
    let ended = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&ended.stderr);
    if !ended.status.success() {
        bail!("a program failed, {}: {}", ended.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&ended.stdout).trim_end().to_owned())
}
