//! Runs the two real programs, and shows each command line as one would type it.

use std::collections::VecDeque;
use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use highwater_testbed::Process;
use highwater_testbed::programs::Programs;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::narration::Narration;

const SERVER_START_MAX: Duration = Duration::from_secs(30);
/// How much of what a server said before it failed is shown.
const LOG_LINES_SHOWN_MAX: usize = 20;

/// The programs, with the database that the server works on.
#[derive(Debug)]
pub(crate) struct Commands {
    programs: Programs,
    database_url: String,
}

/// A server that takes requests; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) process: Process,
    pub(crate) url: String,
}

impl Commands {
    pub(crate) fn new(programs: Programs, database_url: String) -> Self {
        Self {
            programs,
            database_url,
        }
    }

    /// Runs `highwater-server` to its end and returns what it wrote to standard output.
    pub(crate) async fn server(&self, narration: &Narration, arguments: &[&str]) -> Result<String> {
        let shown = command_line("highwater-server", arguments);
        narration.command(&shown)?;
        let mut command = self.command(&self.programs.server, arguments);
        command.stderr(Stdio::piped());
        run(command, &shown).await
    }

    /// Runs `highwater` to its end and returns what it wrote to standard output. Its progress bar
    /// and its errors go where ours go.
    pub(crate) async fn client(&self, narration: &Narration, arguments: &[&str]) -> Result<String> {
        let shown = command_line("highwater", arguments);
        narration.command(&shown)?;
        run(self.command(&self.programs.client, arguments), &shown).await
    }

    /// Starts `highwater-server serve` on a free port and waits until it says which.
    pub(crate) async fn serve(&self, narration: &Narration) -> Result<Serving> {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json"];
        narration.command(&command_line("highwater-server", &arguments))?;
        let mut command = self.command(&self.programs.server, &arguments);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::spawn(command).context("cannot run highwater-server")?;
        let log = process
            .stderr
            .take()
            .context("the server has no standard error")?;
        let (ready, address) = oneshot::channel();
        thread::spawn(move || follow(log, ready));
        let address = tokio::time::timeout(SERVER_START_MAX, address)
            .await
            .with_context(|| format!("the server did not start in {} s", SERVER_START_MAX.as_secs()))??
            .map_err(|log| anyhow!("the server ended before it served; its log:\n{log}"))?;
        let url = format!("http://{address}");
        Ok(Serving { process, url })
    }

    /// Where the client is.
    pub(crate) fn client_program(&self) -> &Path {
        &self.programs.client
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("DATABASE_URL", &self.database_url)
            // All of it stays on this machine, and what the demo reads must be there.
            .env("NO_PROXY", "127.0.0.1")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }
}

/// A command line as a shell takes it.
pub(crate) fn command_line(program: &str, arguments: &[&str]) -> String {
    let mut line = quoted(program);
    for argument in arguments {
        line.push(' ');
        line.push_str(&quoted(argument));
    }
    line
}

/// A program's path as one would type it here.
pub(crate) fn typed_path(path: &Path) -> String {
    let here = env::current_dir().ok();
    let shorter = here.and_then(|here| path.strip_prefix(here).ok());
    shorter.unwrap_or(path).to_string_lossy().into_owned()
}

fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_./:=,@%+".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

async fn run(command: Command, shown: &str) -> Result<String> {
    let mut command = tokio::process::Command::from(command);
    command.stdout(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().with_context(|| format!("cannot run {shown}"))?;
    let ended = child.wait_with_output().await?;
    let out = String::from_utf8_lossy(&ended.stdout);
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!("{shown}: {}\n{said}{out}", ended.status);
    }
    Ok(out.trim_end().to_owned())
}

/// Reads a server's log to its end, since a server whose log nobody reads would stand still, and
/// tells the address once it is there, or the end of the log where it never is.
fn follow(log: ChildStderr, ready: oneshot::Sender<Result<String, String>>) {
    let mut ready = Some(ready);
    let mut said = VecDeque::new();
    // The pipe breaks when the server ends, and then there is no more to read.
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if ready.is_none() {
            continue;
        }
        if let Some(address) = address(&line) {
            // Nobody listens any more where the story was interrupted.
            let _ = ready.take().map(|ready| ready.send(Ok(address)));
            continue;
        }
        said.push_back(line);
        if said.len() > LOG_LINES_SHOWN_MAX {
            said.pop_front();
        }
    }
    if let Some(ready) = ready {
        let _ = ready.send(Err(Vec::from(said).join("\n")));
    }
}

/// The address in the log line that says that the server takes requests.
fn address(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields")?;
    (fields.get("message")? == "serving").then_some(())?;
    Some(fields.get("address")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_can_be_pasted() {
        let line = command_line("highwater", &["pull", "--store", "/tmp/it's here/a.db"]);
        assert_eq!(line, r"highwater pull --store '/tmp/it'\''s here/a.db'");
    }

    #[test]
    fn only_the_line_that_says_serving_has_the_address() {
        let serving = r#"{"level":"INFO","fields":{"message":"serving","address":"127.0.0.1:7"}}"#;
        assert_eq!(address(serving).as_deref(), Some("127.0.0.1:7"));
        for other in ["", "serving", r#"{"fields":{"message":"stopped"}}"#] {
            assert_eq!(address(other), None);
        }
    }
}
