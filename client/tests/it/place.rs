//! A folder with a store in it, and what the program makes of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use rusqlite::Connection;
use rusqlite::types::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::program::{err, highwater, run, text};
use crate::server::{Answer, Server};

/// Nothing listens here, so that a command which gets as far as to ask says so.
pub(crate) const NOBODY: &str = "http://127.0.0.1:1";

/// Every command.
pub(crate) const COMMANDS: [&str; 4] = ["pull", "run", "status", "reset"];

/// A folder of its own; the store in it is `store.db`.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// With a store into which so many products were pulled, and a table of the user's.
    pub(crate) async fn filled(products: u32) -> Self {
        let place = Self::new();
        let server = Server::start([page("c1", products)]).await;
        place.succeeds("pull", &server.address).await;
        place.execute("create table note (text text); insert into note values ('mine')");
        place
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.file("store.db")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Every file of the folder, byte for byte.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.folder.path()).expect("a folder");
        let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("text");
        entries
            .map(|entry| name(entry.expect("an entry")))
            .map(|name| (name.clone(), fs::read(self.file(&name)).unwrap_or_default()))
            .collect()
    }

    /// Runs statements as any other program does.
    pub(crate) fn execute(&self, sql: &str) {
        let connection = Connection::open(self.store()).expect("a database");
        connection.execute_batch(sql).expect(sql);
    }

    /// The first column of a query on a file of the folder, as text.
    pub(crate) fn query(&self, file: &str, sql: &str) -> Vec<String> {
        let connection = Connection::open(self.file(file)).expect("a database");
        let mut statement = connection.prepare(sql).expect(sql);
        let rows = statement.query_map([], |row| {
            Ok(match row.get(0)? {
                Value::Text(text) => text,
                Value::Integer(number) => number.to_string(),
                other => format!("{other:?}"),
            })
        });
        rows.expect(sql).map(|row| row.expect(sql)).collect()
    }

    /// Runs a command on the store, and expects it to succeed.
    pub(crate) async fn succeeds(&self, command: &str, server: &str) -> Output {
        let output = run(&arguments(command, text(&self.store()), server)).await;
        assert_eq!(output.status.code(), Some(0), "{command}: {}", err(&output));
        output
    }

    /// Runs a command on the store, expects it to fail and returns what it says.
    pub(crate) async fn fails(&self, command: &str, server: &str) -> String {
        let output = run(&arguments(command, text(&self.store()), server)).await;
        assert_eq!(output.status.code(), Some(1), "{command}: {}", err(&output));
        err(&output)
    }
}

/// A page with so many products that begins the entity anew.
pub(crate) fn page(next: &str, products: u32) -> Answer {
    let rows: Vec<String> = (1..=products)
        .map(|id| format!("{id} product number {id}"))
        .collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    Answer::first_page(next, false, &rows)
}

/// The arguments of a command; those that know no server are given none.
pub(crate) fn arguments<'a>(command: &'a str, store: &'a str, server: &'a str) -> Vec<&'a str> {
    let mut arguments = vec![command, "--store", store];
    if matches!(command, "pull" | "run") {
        arguments.extend(["--server", server]);
    }
    arguments
}

/// A command that is run by other programs in their way: `by` makes one of it.
pub(crate) async fn run_by(
    by: impl FnOnce(std::process::Command) -> std::process::Command,
    arguments: &[&str],
) -> Output {
    let mut command = Command::from(by(highwater(arguments).into_std()));
    command.stdin(Stdio::null()).output().await.expect("a program")
}
