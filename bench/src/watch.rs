//! What a process has cost so far, read from `/proc`: CPU time and the most memory that it held.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::measure::float;

/// What Linux counts CPU time in for `/proc`, on every architecture that Postgres runs on.
const TICKS_PER_SECOND: u64 = 100;
/// `VmHWM` is in units of 1,024 bytes.
const BYTES_PER_KIB: u64 = 1024;

/// The CPU time of a process and all of its threads, in seconds. One that has ended and was not
/// waited for still tells it.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = read(pid, "stat")?;
    stat_cpu_seconds(&stat).with_context(|| format!("{stat} tells no CPU time"))
}

/// The same from the text of a `stat` file: user and system time are its fields 14 and 15.
pub(crate) fn stat_cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = after_name(stat)?.skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, system) = (ticks()?, ticks()?);
    Some(float(user + system) / float(TICKS_PER_SECOND))
}

/// Whether a process has ended; it stays to be asked until it is waited for.
pub(crate) fn has_ended(pid: u32) -> Result<bool> {
    let stat = read(pid, "stat")?;
    let state = after_name(&stat).and_then(|mut fields| fields.next());
    Ok(matches!(state, Some("Z" | "X")))
}

/// The most memory that a process has held at once, in bytes; `None` for one that has ended.
pub(crate) fn peak_bytes(pid: u32) -> Result<Option<u64>> {
    let status = read(pid, "status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<u64>().ok());
    Ok(peak.map(|kib| kib * BYTES_PER_KIB))
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: benchmarks run on Linux", path.display()))
}

/// The fields of a `stat` file from the third on: the name before them may hold anything.
fn after_name(stat: &str) -> Option<impl Iterator<Item = &str>> {
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_user_and_system_whatever_the_name_is() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 9 9 20 0 1 0";
        assert_eq!(stat_cpu_seconds(stat).map(f64::to_bits), Some(3.0_f64.to_bits()));
        assert_eq!(stat_cpu_seconds("7 (a) S 1"), None);
    }

    #[test]
    fn we_ourselves_have_cost_something() {
        let own = std::process::id();
        assert!(cpu_seconds(own).unwrap() >= 0.0);
        assert!(peak_bytes(own).unwrap() > Some(1 << 16));
        assert!(!has_ended(own).unwrap());
    }
}
