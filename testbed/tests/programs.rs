//! Programs are built where cargo says, and end with their owner.

use std::process::Command;
use std::time::{Duration, Instant};

use highwater_testbed::process::Signal;
use highwater_testbed::{Process, Result, programs};

const PATIENCE: Duration = Duration::from_secs(30);

fn sleeper() -> Result<Process> {
    let mut command = Command::new("sleep");
    command.arg("1000");
    Ok(Process::spawn(command)?)
}

#[test]
fn programs_are_built_once_and_run() -> Result<()> {
    let programs = programs::build(false)?;
    assert!(programs.server.is_file());
    assert!(programs.client.is_file());
    let again = Instant::now();
    assert_eq!(programs::build(false)?, programs);
    assert!(again.elapsed() < Duration::from_millis(50), "cargo was run again");
    Ok(())
}

#[test]
fn process_ends_with_its_owner_and_not_with_a_thread() -> Result<()> {
    let mut process = std::thread::spawn(sleeper).join().unwrap()?;
    assert_eq!(process.wait_up_to(Duration::from_millis(50))?, None);
    let id = process.id().to_string();
    let is_there = || {
        Command::new("kill")
            .args(["-0", &id])
            .output()
            .is_ok_and(|ran| ran.status.success())
    };
    assert!(is_there());
    drop(process);
    assert!(!is_there());
    Ok(())
}

#[test]
fn ended_process_is_not_signalled() -> Result<()> {
    let mut process = sleeper()?;
    process.signal(Signal::Terminate)?;
    assert!(process.wait_up_to(PATIENCE)?.is_some());
    assert!(process.signal(Signal::Terminate).is_err());
    Ok(())
}
