//! A small disk of one's own: memory, mounted where only chosen programs see it (Linux only).
//!
//! A keeper holds a mount namespace, and programs are run in it. When the keeper ends, which it does
//! with its owner, the disk is gone, and with it all that was on it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::{Process, Result, kernel};

/// The variable that has tests which need a disk fail where none can be had.
const VARIABLE: &str = "HIGHWATER_TESTBED_DISK";

/// Mounts `$1` bytes of memory at `$2`, and keeps them until standard input ends.
const KEEPER: &str = r#"
mount -t tmpfs -o "size=$1,mode=755" tmpfs "$2" && echo mounted && read -r _
"#;

/// A disk that programs run by [`Disk::command`] see, and nobody else.
#[derive(Debug)]
pub struct Disk {
    keeper: Process,
    /// Held, never written to: the keeper ends with it, even where it cannot be killed with us.
    _ends: Option<ChildStdin>,
    as_user: bool,
    // Last, so that it is removed when nothing is mounted there any more.
    folder: TempDir,
}

impl Disk {
    /// A disk of `bytes`. `None` where the system lets us mount none, as in most containers: the test
    /// is then left out, and is to say so.
    pub fn new(bytes: u64) -> Result<Option<Self>> {
        let folder = TempDir::new().context("cannot make a folder to mount a disk at")?;
        let as_user = !kernel::is_root();
        let mut keeper = Command::new("unshare");
        if as_user {
            keeper.args(["--user", "--map-root-user"]);
        }
        keeper.args(["--mount", "--", "sh", "-c", KEEPER, "keeper", &bytes.to_string()]);
        keeper.arg(folder.path());
        keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut keeper = Process::spawn(keeper).context("cannot run unshare, of util-linux")?;
        let mut said = String::new();
        if let Some(out) = keeper.stdout.take() {
            BufReader::new(out).read_line(&mut said)?;
        }
        if said.trim() != "mounted" {
            let mut error = String::new();
            if let Some(mut err) = keeper.stderr.take() {
                err.read_to_string(&mut error)?;
            }
            let is_needed = std::env::var(VARIABLE).is_ok_and(|value| value == "1");
            if !is_needed && (error.contains("not permitted") || error.contains("ermission denied")) {
                return Ok(None);
            }
            bail!(
                "cannot mount a disk for this test: {}; run it as root, or let users make namespaces",
                error.trim()
            );
        }
        let ends = keeper.stdin.take();
        Ok(Some(Self {
            keeper,
            _ends: ends,
            as_user,
            folder,
        }))
    }

    /// Where the disk is, for programs that see it.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `command` as a program that sees the disk. Its streams are to be set anew.
    pub fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.keeper.id().to_string(), "--mount"]);
        if self.as_user {
            inside.args(["--user", "--preserve-credentials"]);
        }
        run_by(inside, command)
    }

    /// Runs a line of shell in the folder of the disk, and returns what it prints.
    pub fn shell(&self, line: &str) -> Result<String> {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"cd -- "$1" && eval "$2""#, "sh"])
            .arg(self.path());
        let ran = self.command(command.arg(line)).output()?;
        let error = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.success(), "{line}: {error}");
        Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
    }

    /// Fills what is left of it with a file, to the last byte.
    pub fn fill(&self, file: &str) -> Result<()> {
        self.shell(&format!("cat /dev/zero > {file} 2> /dev/null || true"))?;
        Ok(())
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        // Named with its source, it is not given its old options again, which a user may not set.
        let line = format!(r#"mount -o remount,size={bytes} tmpfs "$PWD""#);
        self.shell(&line)?;
        Ok(())
    }

    /// Makes a file or folder on it one that nobody can write, root included.
    pub fn protect(&self, name: &str) -> Result<()> {
        let path = self.path().join(name);
        let path = path.display();
        self.shell(&format!(
            "mount --bind {path} {path} && mount -o remount,bind,ro {path}"
        ))?;
        Ok(())
    }
}

/// `command` as a program that the rights of files bind, also where we are root. Its streams are
/// to be set anew.
pub fn bound_by_rights(command: Command) -> Command {
    if !kernel::is_root() {
        return command;
    }
    let mut bound = Command::new("setpriv");
    for set in ["--bounding-set", "--inh-caps"] {
        bound.arg(format!("{set}=-dac_override,-dac_read_search"));
    }
    run_by(bound, &command)
}

/// `command`, run by another program that is told what to run after its own arguments.
fn run_by(mut other: Command, command: &Command) -> Command {
    other
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}
