//! What the numbers were measured on and with, as far as a reader needs it to judge them.

use std::fs;
use std::process::Command;
use std::thread;

use anyhow::Result;

use crate::program;
use crate::stage::Stage;

const KIB_PER_GIB: u64 = 1024 * 1024;

/// Settings of Postgres' on which the numbers hang.
const SETTINGS: [&str; 7] = [
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "autovacuum",
];

/// What is true of all benchmarks of a run, as names and values.
pub(crate) async fn facts(stage: &Stage, load_before: &str) -> Result<Vec<(&'static str, String)>> {
    let mut settings = Vec::new();
    for name in SETTINGS {
        settings.push(format!("{name} {}", stage.setting(name).await?));
    }
    let memory = memory_gib().map_or("unknown".to_owned(), |gib| format!("{gib} GiB"));
    let cores = thread::available_parallelism()?;
    let system = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    let build = if cfg!(debug_assertions) {
        "debug: the numbers mean nothing"
    } else {
        "release"
    };
    Ok(vec![
        ("machine", format!("{cores} cores, {memory} of memory, {system}")),
        (
            "load of the machine",
            format!("{load_before} before the run, {} after it", load()),
        ),
        ("Postgres", stage.setting("server_version").await?),
        ("settings", settings.join(", ")),
        ("sqlite3", version("sqlite3", "-version").await?),
        ("curl", version("curl", "--version").await?),
        ("SQLite of Highwater", rusqlite::version().to_owned()),
        ("build", build.to_owned()),
    ])
}

/// The memory in whole GiB.
fn memory_gib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.split_whitespace().next()?.parse().ok()?;
    Some((kib + KIB_PER_GIB / 2) / KIB_PER_GIB)
}

/// How many processes wanted a core in the last minute, on average: others measure along with us.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").ok();
    let first = text.as_deref().and_then(|text| text.split_whitespace().next());
    first.unwrap_or("unknown").to_owned()
}

/// The number in the first line that a program says of itself.
async fn version(program: &str, argument: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.arg(argument);
    let said = program::timed(command).await?.out;
    let numbered = |word: &&str| word.starts_with(|letter: char| letter.is_ascii_digit());
    Ok(said
        .split_whitespace()
        .find(numbered)
        .unwrap_or("unknown")
        .to_owned())
}
