//! A small disk can be filled and protected, is seen by chosen programs alone, and goes with its owner.

#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use highwater_testbed::{Disk, Result, bound_by_rights};

const BYTES: u64 = 1 << 20;

#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn disk() -> Result<Option<Disk>> {
    let disk = Disk::new(BYTES)?;
    if disk.is_none() {
        eprintln!("left out: it needs a disk");
    }
    Ok(disk)
}

#[test]
fn it_is_seen_by_chosen_programs_and_holds_no_more_than_it_can() -> Result<()> {
    let Some(disk) = disk()? else { return Ok(()) };
    let mut list = Command::new("ls");
    list.arg(disk.path()).env("LANGUAGE", "C");
    disk.shell("echo here > file")?;
    assert_eq!(String::from_utf8(disk.command(&list).output()?.stdout)?, "file\n");
    assert_eq!(
        std::fs::read_dir(disk.path())?.count(),
        0,
        "it is mounted for others too"
    );
    disk.fill("rest")?;
    assert!(disk.shell("echo more > other").is_err());
    disk.resize(2 * BYTES)?;
    disk.shell("echo more > other")?;
    let folder = disk.path().to_owned();
    drop(disk);
    assert!(!folder.exists());
    Ok(())
}

#[test]
fn what_is_protected_nobody_writes() -> Result<()> {
    let Some(disk) = disk()? else { return Ok(()) };
    disk.shell("echo one > file && mkdir folder")?;
    disk.protect("file")?;
    disk.protect("folder")?;
    assert!(disk.shell("echo two > file").is_err());
    assert!(disk.shell("echo two > folder/file").is_err());
    disk.shell("echo two > other")?;
    assert_eq!(disk.shell("cat file")?, "one\n");
    Ok(())
}

#[test]
fn rights_bind_root_too() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let set = |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode));
    let make = |name: &str| {
        let mut touch = Command::new("touch");
        touch.arg(folder.path().join(name));
        bound_by_rights(touch).output()
    };
    assert!(make("one")?.status.success());
    set(0o555)?;
    assert!(!make("two")?.status.success());
    set(0o755)?;
    Ok(())
}
