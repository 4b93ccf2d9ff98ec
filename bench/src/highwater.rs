//! The two real programs: a database made ready by the server, the server on it, and pulls by the
//! client.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use highwater_testbed::Process;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::data::Data;
use crate::program;
use crate::stage::{Database, Stage};

const SERVER_START_MAX: Duration = Duration::from_secs(30);
/// How long a line of the server's log may take to arrive.
const LOG_WAIT_MAX: Duration = Duration::from_secs(10);
const LOG_POLL: Duration = Duration::from_millis(5);
/// The most connections to Postgres that a server is given.
pub(crate) const POOL_CONNECTIONS_MAX: u64 = 16;
/// How much of what a server said before it failed is shown.
const LOG_LINES_SHOWN_MAX: usize = 20;
/// The same of a result that was not expected, in characters.
const RESULT_SHOWN_MAX: usize = 1_000;

/// A server that takes requests; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    pub(crate) url: String,
    answered: Answered,
}

/// The ids of the requests that a server has answered, in their order.
type Answered = Arc<Mutex<Vec<String>>>;

/// What the client tells of a pull.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulled {
    pub(crate) seconds: f64,
    pub(crate) rows: u64,
    pub(crate) deleted: u64,
    pub(crate) bytes: u64,
}

/// What a run of the client took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
}

impl From<Pulled> for Taken {
    fn from(pulled: Pulled) -> Self {
        Self {
            seconds: pulled.seconds,
            bytes: pulled.bytes,
        }
    }
}

/// A database with `data` in it, whose measured table is an entity.
pub(crate) async fn enabled(stage: &Stage, data: Data) -> Result<Database> {
    let database = stage.database(data).await?;
    enable(stage, &database, data.table()).await?;
    database.settle(data.table()).await?;
    Ok(database)
}

/// Makes a table an entity.
pub(crate) async fn enable(stage: &Stage, database: &Database, table: &str) -> Result<()> {
    enable_with(stage, database, &["enable", table]).await
}

/// Makes a table an entity, with a column as its scope.
pub(crate) async fn enable_scoped(
    stage: &Stage,
    database: &Database,
    table: &str,
    column: &str,
) -> Result<()> {
    enable_with(stage, database, &["enable", table, "--scope", column]).await
}

async fn enable_with(stage: &Stage, database: &Database, enable: &[&str]) -> Result<()> {
    for arguments in [&["migrate"][..], enable] {
        administer(stage, database, arguments).await?;
    }
    Ok(())
}

/// Runs a command of the server's program on a database.
pub(crate) async fn administer(stage: &Stage, database: &Database, arguments: &[&str]) -> Result<()> {
    program::timed(server_program(&stage.programs.server, database, arguments)).await?;
    Ok(())
}

/// Adds a key to a file of them that sees these scopes, and returns it.
pub(crate) async fn new_key(stage: &Stage, keys: &Path, scopes: &[String]) -> Result<String> {
    let mut command = Command::new(&stage.programs.server);
    command
        .args(["key", "new", "--name", "bench", "--api-keys"])
        .arg(keys);
    for scope in scopes {
        command.args(["--scope", scope]);
    }
    plain(&mut command);
    Ok(program::timed(command).await?.out.trim().to_owned())
}

/// Has every client fetch an entity anew.
pub(crate) async fn touch(stage: &Stage, database: &Database, table: &str) -> Result<()> {
    administer(stage, database, &["touch", table]).await
}

/// Removes all that was deleted so far.
pub(crate) async fn purge(stage: &Stage, database: &Database) -> Result<()> {
    administer(stage, database, &["purge", "--older-than", "0s"]).await
}

impl Server {
    /// Starts `highwater-server serve` on a free port and waits until it says which.
    pub(crate) async fn start(stage: &Stage, database: &Database) -> Result<Self> {
        Self::start_with(stage, database, None).await
    }

    /// The same, for callers with a key of this file.
    pub(crate) async fn start_asking(stage: &Stage, database: &Database, keys: &Path) -> Result<Self> {
        Self::start_with(stage, database, Some(keys)).await
    }

    async fn start_with(stage: &Stage, database: &Database, keys: Option<&Path>) -> Result<Self> {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json"];
        let mut command = server_program(&stage.programs.server, database, &arguments);
        command.args(["--pool-size", &POOL_CONNECTIONS_MAX.to_string()]);
        if let Some(keys) = keys {
            command.arg("--api-keys").arg(keys);
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::spawn(command).context("cannot run highwater-server")?;
        let log = process
            .stderr
            .take()
            .context("the server has no standard error")?;
        let (ready, address) = oneshot::channel();
        let answered = Answered::default();
        let noted = Arc::clone(&answered);
        thread::spawn(move || read_log(log, ready, &noted));
        let address = tokio::time::timeout(SERVER_START_MAX, address)
            .await
            .with_context(|| format!("the server did not start in {} s", SERVER_START_MAX.as_secs()))??
            .map_err(|log| anyhow!("the server ended before it served; its log:\n{log}"))?;
        Ok(Self {
            process,
            url: format!("http://{address}"),
            answered,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How many requests were answered before one that bears the id `last`, which is waited for.
    pub(crate) async fn answered_before(&self, last: &str) -> Result<usize> {
        let deadline = Instant::now() + LOG_WAIT_MAX;
        loop {
            let place = {
                let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
                answered.iter().position(|id| id == last)
            };
            if let Some(place) = place {
                return Ok(place);
            }
            ensure!(
                Instant::now() < deadline,
                "the server's log has no request {last}"
            );
            tokio::time::sleep(LOG_POLL).await;
        }
    }
}

/// The client's `pull` into a store; what it says is JSON.
pub(crate) fn pull(stage: &Stage, server: &str, store: &Path, limit: Option<u64>) -> Command {
    let mut command = Command::new(&stage.programs.client);
    command
        .args(["pull", "--json", "--server", server, "--store"])
        .arg(store);
    if let Some(limit) = limit {
        command.args(["--limit", &limit.to_string()]);
    }
    plain(&mut command);
    command
}

/// The client's `run`, which is live; it says nothing, and ends when it is dropped.
pub(crate) fn follow(stage: &Stage, server: &str, store: &Path) -> Result<Process> {
    let mut command = Command::new(&stage.programs.client);
    command
        .args(["run", "--quiet", "--server", server, "--store"])
        .arg(store);
    plain(&mut command);
    command.stdout(Stdio::null());
    Process::spawn(command).context("cannot run highwater")
}

/// Pulls by the clock.
pub(crate) async fn pulled(stage: &Stage, server: &str, store: &Path) -> Result<Pulled> {
    told_of_pull(pull(stage, server, store, None)).await
}

/// The same with a key.
pub(crate) async fn pulled_as(stage: &Stage, server: &str, store: &Path, key: &str) -> Result<Pulled> {
    let mut command = pull(stage, server, store, None);
    command.env("HIGHWATER_TOKEN", key);
    told_of_pull(command).await
}

async fn told_of_pull(command: Command) -> Result<Pulled> {
    let ended = program::timed(command).await?;
    let told = told(&ended.out)?;
    Ok(Pulled {
        seconds: ended.seconds,
        rows: number(&told, "rows")?,
        deleted: number(&told, "deleted")?,
        bytes: number(&told, "bytes")?,
    })
}

/// Compares a store with its source by the clock, and sees to it that rows differ where they are to be repaired, and none
/// otherwise.
pub(crate) async fn verified(stage: &Stage, server: &str, store: &Path, how: &[&str]) -> Result<Taken> {
    let mut command = Command::new(&stage.programs.client);
    command
        .args(["verify", "--json", "--server", server, "--store"])
        .arg(store)
        .args(how);
    plain(&mut command);
    let ended = program::timed(command).await?;
    let told = told(&ended.out)?;
    let is_repair = how.contains(&"--repair");
    ensure!(
        told.get("equal") == Some(&Value::Bool(!is_repair)),
        "{}",
        ended.out.chars().take(RESULT_SHOWN_MAX).collect::<String>()
    );
    Ok(Taken {
        seconds: ended.seconds,
        bytes: number(&told, "bytes")?,
    })
}

/// What the client said with `--json`.
fn told(out: &str) -> Result<Value> {
    serde_json::from_str(out).context("the client's result is not JSON")
}

fn number(told: &Value, name: &str) -> Result<u64> {
    let value = told.get(name).and_then(Value::as_u64);
    value.with_context(|| format!("the client's result has no {name}: {told}"))
}

/// Pulls everything into a new store, and sees to it that this was all of the table.
pub(crate) async fn pulled_anew(
    stage: &Stage,
    server: &str,
    expected_rows: u64,
) -> Result<(Pulled, PathBuf)> {
    let store = stage.store();
    let pulled = pulled(stage, server, &store).await?;
    ensure!(
        pulled.rows == expected_rows,
        "a first pull brought {} rows of {expected_rows}",
        pulled.rows
    );
    Ok((pulled, store))
}

fn server_program(path: &Path, database: &Database, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(arguments).env("DATABASE_URL", &database.url);
    plain(&mut command);
    command
}

/// Takes from a command what would have a say in what is measured.
pub(crate) fn plain(command: &mut Command) {
    // All of it stays on this machine.
    command
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("RUST_LOG")
        .env_remove("HIGHWATER_TOKEN")
        .stdin(Stdio::null());
}

/// Reads a server's log to its end, since a server whose log nobody reads would stand still. Tells
/// the address once it is there, or the end of the log where it never is, and notes who was
/// answered.
fn read_log(log: ChildStderr, ready: oneshot::Sender<Result<String, String>>, answered: &Answered) {
    let mut ready = Some(ready);
    let mut said = VecDeque::new();
    // The pipe breaks when the server ends, and then there is no more to read.
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        let line = match Line::read(&line) {
            Line::Serving(address) => {
                // Nobody listens any more where the benchmark was interrupted.
                let _ = ready.take().map(|ready| ready.send(Ok(address)));
                continue;
            }
            Line::Answered(id) => {
                let mut answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
                answered.push(id);
                continue;
            }
            Line::Other => line,
        };
        said.push_back(line);
        if said.len() > LOG_LINES_SHOWN_MAX {
            said.pop_front();
        }
    }
    if let Some(ready) = ready {
        let _ = ready.send(Err(Vec::from(said).join("\n")));
    }
}

/// What a line of the server's log says.
#[derive(Debug, PartialEq)]
enum Line {
    /// That it takes requests, and where.
    Serving(String),
    /// That the request of this id was answered.
    Answered(String),
    Other,
}

impl Line {
    fn read(line: &str) -> Self {
        let read = || {
            let line: Value = serde_json::from_str(line).ok()?;
            let text = |path: &str| line.pointer(path)?.as_str().map(str::to_owned);
            match text("/fields/message")?.as_str() {
                "serving" => Some(Self::Serving(text("/fields/address")?)),
                "finished processing request" => Some(Self::Answered(text("/span/id")?)),
                _ => None,
            }
        };
        read().unwrap_or(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_the_address_and_who_was_answered() {
        let serving = r#"{"fields":{"message":"serving","address":"127.0.0.1:7"}}"#;
        assert_eq!(Line::read(serving), Line::Serving("127.0.0.1:7".to_owned()));
        let answered =
            r#"{"fields":{"message":"finished processing request"},"span":{"id":"a","name":"request"}}"#;
        assert_eq!(Line::read(answered), Line::Answered("a".to_owned()));
        for other in ["", "serving", r#"{"fields":{"message":"stopped"}}"#] {
            assert_eq!(Line::read(other), Line::Other);
        }
    }
}
