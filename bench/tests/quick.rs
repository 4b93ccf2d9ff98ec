//! A quick run of all benchmarks brings numbers and drawings for each, and one that is stopped
//! leaves nothing behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use highwater_testbed::Process;
use highwater_testbed::process::Signal;

/// Enough for a build of both programs; a run itself takes two minutes at most.
const PATIENCE: Duration = Duration::from_mins(10);
const EXIT_INTERRUPTED: i32 = 130;
/// What the program is called with so that each run is small.
const QUICK: &str = "--quick";

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater-bench"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Result<Output> {
    Ok(program(arguments).output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether what Highwater is compared with is here; a test that is left out says so.
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn has_peers() -> bool {
    let missing = [("sqlite3", "-version"), ("curl", "--version")]
        .into_iter()
        .find(|(peer, version)| Command::new(peer).arg(version).output().is_err());
    if let Some((peer, _)) = missing {
        eprintln!("left out: it compares with {peer}, which is not installed");
    }
    missing.is_none()
}

/// An empty folder of this name.
fn folder(name: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The names that the program lists.
fn names() -> Result<Vec<String>> {
    let listed = text(&run(&["--list"])?.stdout);
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    Ok(listed.lines().filter_map(first).collect())
}

#[test]
fn a_quick_run_brings_numbers_and_drawings_for_every_benchmark() -> Result<()> {
    if !has_peers() {
        return Ok(());
    }
    let out = folder("report")?;
    let ran = run(&[QUICK, "--out", out.to_str().context("text")?])?;
    ensure!(
        ran.status.success(),
        "{}\n{}",
        text(&ran.stdout),
        text(&ran.stderr)
    );
    let page = fs::read_to_string(out.join("benchmarks.md"))?;
    let names = names()?;
    assert_eq!(names.len(), 17);
    for name in names {
        let (_, section) = page
            .split_once(&format!("\n## {name}\n"))
            .with_context(|| format!("{name} is not in\n{page}"))?;
        let section = section.split("\n## ").next().unwrap_or_default();
        let numbered = |line: &&str| line.starts_with("| ") && line.contains(|c: char| c.is_ascii_digit());
        ensure!(
            section.lines().any(|line| numbered(&line)),
            "{name} has no numbers:\n{section}"
        );
        let images = section.split("\n![").skip(1);
        let drawings: Vec<&str> = images
            .filter_map(|image| image.split("](").nth(1)?.split(')').next())
            .collect();
        ensure!(!drawings.is_empty(), "{name} has no drawing:\n{section}");
        for drawing in drawings {
            let svg = fs::read_to_string(out.join(drawing)).with_context(|| drawing.to_owned())?;
            ensure!(
                svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
                "{svg}"
            );
        }
    }
    Ok(())
}

#[test]
fn an_interrupted_run_ends_and_leaves_no_store() -> Result<()> {
    if !has_peers() {
        return Ok(());
    }
    let folder = folder("interrupted")?;
    let said = folder.with_extension("out");
    let mut command = program(&[QUICK, "--only", "first-pull,small-change,memory"]);
    command
        .env("TMPDIR", &folder)
        .stdout(File::create(&said)?)
        .stderr(Stdio::null());
    let mut process = Process::spawn(command)?;
    let deadline = Instant::now() + PATIENCE;
    while !fs::read_to_string(&said)?.contains("small-change") {
        ensure!(process.try_wait()?.is_none(), "it ended before it was stopped");
        ensure!(Instant::now() < deadline, "it never came to the second benchmark");
        thread::sleep(Duration::from_millis(10));
    }
    process.signal(Signal::Interrupt)?;
    let status = process.wait_up_to(PATIENCE)?.context("it did not end")?;
    assert_eq!(status.code(), Some(EXIT_INTERRUPTED));
    assert_eq!(fs::read_dir(&folder)?.count(), 0);
    Ok(())
}

#[test]
fn an_unknown_name_is_refused_with_the_known_ones() -> Result<()> {
    let ran = run(&[QUICK, "--only", "first-pull,seventh"])?;
    let said = text(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains("no benchmark seventh"), "{said}");
    assert!(said.contains("first-pull, seed, small-change"), "{said}");
    Ok(())
}
