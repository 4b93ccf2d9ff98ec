//! The program that checks alerts and tries them, installed or fetched.

use std::path::PathBuf;
use std::process::Command;

use crate::Result;
use crate::debian::{self, Program};

/// The variable that has tests which need the program fail where it cannot be had.
const VARIABLE: &str = "HIGHWATER_TESTBED_PROMTOOL";

/// The packages that have the program.
const PACKAGES: &[&str] = &["prometheus"];

/// A command that runs `promtool`, which belongs to Prometheus. `None` where it is neither installed nor
/// can be fetched with `apt-get`: the test is then left out, and is to say so.
pub fn promtool() -> Result<Option<Command>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).map(|folder| folder.join("promtool"));
    let installed = folders.find(|path: &PathBuf| path.is_file());
    let found = match installed {
        Some(path) => Ok(Program {
            path,
            libraries: None,
        }),
        None => debian::fetch(PACKAGES, "usr/bin/promtool"),
    };
    match found {
        Ok(Program { path, libraries }) => {
            let mut command = Command::new(path);
            if let Some(libraries) = libraries {
                command.env("LD_LIBRARY_PATH", libraries);
            }
            Ok(Some(command))
        }
        Err(error) if std::env::var(VARIABLE).is_ok_and(|value| value == "1") => {
            Err(error.context("no promtool was found; install Prometheus"))
        }
        Err(_) => Ok(None),
    }
}
