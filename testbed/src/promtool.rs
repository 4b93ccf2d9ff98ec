//! The program that checks alerts and tries them, installed or fetched.

use std::process::Command;
use std::sync::OnceLock;

use crate::Result;
use crate::debian::{Program, Wanted};

static PROGRAM: Wanted = Wanted {
    packages: &["prometheus"],
    path: "usr/bin/promtool",
    names: &[],
    variable: "HIGHWATER_TESTBED_PROMTOOL",
    advice: "no promtool was found; install Prometheus",
    found: OnceLock::new(),
};

/// A command that runs `promtool`, which belongs to Prometheus. `None` where it is neither installed nor
/// can be fetched with `apt-get`: the test is then left out, and is to say so.
pub fn promtool() -> Result<Option<Command>> {
    Ok(PROGRAM.find()?.as_ref().map(Program::command))
}
