//! The programs on a database of their own, each run as a user would run it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::POLL;
use crate::programs::{self, Programs};
use crate::{Database, Process, Result};

/// How long a program may take to say what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A database, a folder, and `highwater-server` and `highwater` to work with both.
#[derive(Debug)]
pub struct Stage {
    programs: Programs,
    folder: TempDir,
    // Last, so that it is dropped last.
    database: Database,
}

/// A program in the background, which ends when this is dropped, and the address that it listens at.
#[derive(Debug)]
pub struct Listening {
    /// The program.
    pub process: Process,
    /// Its address, such as `http://127.0.0.1:40001`.
    pub url: String,
}

impl Stage {
    /// An empty database and an empty folder. Builds both programs, once in a process.
    pub async fn start(label: &str) -> Result<Self> {
        Ok(Self {
            programs: programs::build(false)?,
            folder: TempDir::new()?,
            database: Database::create(label).await?,
        })
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `highwater-server` to its end.
    pub fn admin(&self, arguments: &[&str]) -> Result<String> {
        succeeded(self.command(&self.programs.server).args(arguments))
    }

    /// `highwater-server serve` with these options, on a port of its own.
    pub fn serve(&self, options: &[&str]) -> Result<Listening> {
        let mut command = self.command(&self.programs.server);
        command.args(["--log-format", "json", "serve", "--listen", "127.0.0.1:0"]);
        let address = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = line.get("fields")?;
            (fields.get("message")? == "serving").then_some(())?;
            Some(format!("http://{}", fields.get("address")?.as_str()?))
        };
        self.listen(command, options, address)
    }

    /// Runs `highwater` to its end, with a token where there is one.
    pub fn client(&self, arguments: &[&str], token: Option<&str>) -> Result<String> {
        let mut command = self.command(&self.programs.client);
        if let Some(token) = token {
            command.env("HIGHWATER_TOKEN", token);
        }
        succeeded(command.args(arguments))
    }

    /// Another program on the same database, which says `listening on` and its address first.
    pub fn start_program(&self, program: &Path, arguments: &[&str]) -> Result<Listening> {
        self.listen(self.command(program), arguments, |line| {
            Some(line.strip_prefix("listening on ")?.to_owned())
        })
    }

    /// Starts a program in the background that writes into a file of the folder.
    pub fn start_writing(&self, program: &Path, arguments: &[&str], file: &str) -> Result<Process> {
        let into = File::create(self.folder().join(file))?;
        let mut command = self.command(program);
        command.args(arguments).stdout(into.try_clone()?).stderr(into);
        Process::spawn(command).with_context(|| format!("cannot run {}", program.display()))
    }

    /// Waits until a file of the folder holds what is looked for, and returns that.
    pub fn wait_for<T>(
        &self,
        file: &str,
        process: &mut Process,
        find: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = process.try_wait()?;
            let said = fs::read_to_string(self.folder().join(file))?;
            if let Some(found) = find(&said) {
                return Ok(found);
            }
            ensure!(ended.is_none(), "it has ended, and said:\n{said}");
            ensure!(Instant::now() < deadline, "it did not come, but:\n{said}");
            thread::sleep(POLL);
        }
    }

    fn listen(
        &self,
        mut command: Command,
        arguments: &[&str],
        address: impl Fn(&str) -> Option<String>,
    ) -> Result<Listening> {
        let file = tempfile::Builder::new().tempfile_in(self.folder())?.keep()?;
        command.args(arguments).stdout(file.0.try_clone()?).stderr(file.0);
        let mut process = Process::spawn(command)?;
        let name = file.1.to_string_lossy().into_owned();
        let url = self.wait_for(&name, &mut process, |said| said.lines().find_map(&address))?;
        Ok(Listening { process, url })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder())
            .env("DATABASE_URL", self.database.url())
            .env("NO_PROXY", "127.0.0.1")
            .env_remove("RUST_LOG")
            .env_remove("HIGHWATER_TOKEN")
            .stdin(Stdio::null());
        command
    }
}

fn succeeded(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output()?;
    if !status.success() {
        bail!("{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
