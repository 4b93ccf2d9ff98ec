//! The unit for systemd in deploy/ names nothing that the program or systemd does not know.

use std::collections::BTreeSet;
use std::process::Command;

use crate::program::{out, run};

const UNIT: &str = include_str!("../../../deploy/highwater.service");
const VARIABLES: &str = include_str!("../../../deploy/highwater.env");

/// The unit's own, for further options.
const OPTIONS: &str = "HIGHWATER_OPTIONS";

/// Everything that begins with `start`, to the end of the word.
fn words<'a>(text: &'a str, start: &str) -> BTreeSet<&'a str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    text.split(|letter| !is_part(letter))
        .filter(|word| word.starts_with(start) && word.len() > start.len())
        .collect()
}

#[tokio::test]
async fn every_option_and_variable_of_the_unit_is_one_of_the_program() {
    let help = out(&run(&["run", "--help"]).await);
    let (options, variables) = (words(&help, "--"), words(&help, "HIGHWATER_"));
    // The head of the unit has commands of others.
    let (_, unit) = UNIT.split_once("[Unit]").unwrap();
    for text in [unit, VARIABLES] {
        for option in words(text, "--") {
            assert!(options.contains(option), "{option}");
        }
        for variable in words(text, "HIGHWATER_") {
            assert!(variable == OPTIONS || variables.contains(variable), "{variable}");
        }
    }
    assert!(unit.contains("\nExecStart=/usr/bin/highwater run $HIGHWATER_OPTIONS\n"));
    assert!(words(VARIABLES, "--").len() > 5, "the options are looked for");
}

#[tokio::test]
async fn systemd_takes_the_unit_and_calls_it_safe() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("highwater.service");
    let program = env!("CARGO_BIN_EXE_highwater");
    let variables = folder.path().join("highwater.env");
    std::fs::write(&variables, VARIABLES).unwrap();
    let adapted = UNIT
        .replace("/usr/bin/highwater", program)
        .replace("/etc/highwater/highwater.env", variables.to_str().unwrap());
    std::fs::write(&unit, adapted).unwrap();
    let analyze = |arguments: &[&str]| {
        Command::new("systemd-analyze")
            .args(arguments)
            .arg(&unit)
            .output()
    };
    let Ok(verified) = analyze(&["verify", "--man=no"]) else {
        eprintln!("left out: there is no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(
        verified.status.success() && !said.contains("highwater.service"),
        "{said}"
    );
    // By its own measure from 0 to 10, in tenths; a service without any of it has 96.
    let rated = analyze(&["security", "--offline=true", "--threshold=20", "--no-pager"]).unwrap();
    assert!(
        rated.status.success(),
        "{}",
        String::from_utf8_lossy(&rated.stdout)
    );
}
