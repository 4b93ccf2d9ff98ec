//! Whether this process, and a server that it starts, may have as many connections as are to be
//! measured.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::figures::count;

/// What a process has open besides: stores, logs, programs and connections to Postgres.
const OTHERS_MAX: u64 = 200;
/// The limit of this process; what it starts has the same.
const LIMITS: &str = "/proc/self/limits";

/// Fails, and says what to do, where `sockets` are too many for one process.
pub(crate) fn check(sockets: u64) -> Result<()> {
    let text = fs::read_to_string(LIMITS)
        .with_context(|| format!("cannot read {LIMITS}: benchmarks run on Linux"))?;
    let (soft, hard) = limits(&text).with_context(|| format!("{LIMITS} has no limit of open files"))?;
    let needed = sockets + OTHERS_MAX;
    ensure!(
        soft.is_none_or(|soft| soft >= needed),
        "each of {} callers has a socket here and one in the server, and a process may have {} open files. \
         Say `ulimit -n {needed}` in the shell first{}",
        count(sockets),
        count(soft.unwrap_or_default()),
        match hard {
            Some(hard) if hard < needed =>
                format!("; only root may, since the hard limit is {hard} (see /etc/security/limits.conf)"),
            _ => String::new(),
        }
    );
    Ok(())
}

/// The soft and the hard limit of open files; `None` where there is none.
fn limits(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let mut limits = line.split_whitespace().map(|limit| match limit {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    });
    Some((limits.next()??, limits.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_are_read() {
        let text = "Limit Soft Hard Units\nMax open files            1024                 unlimited            files\n";
        assert_eq!(limits(text), Some((Some(1024), None)));
        assert_eq!(limits("Max processes 1 2"), None);
    }

    #[test]
    fn too_low_a_limit_is_told_with_the_remedy() {
        assert!(check(0).is_ok());
        let said = check(u64::MAX / 2).unwrap_err().to_string();
        assert!(said.contains("ulimit -n"), "{said}");
    }
}
