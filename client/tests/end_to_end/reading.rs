//! What docs/reading.md says of reading a store holds: its snippets are run beside a client.

use std::path::{Path, PathBuf};
use std::process::Command;

use highwater_client::Client;
use highwater_testbed::has_language;

use crate::rig::{Rig, output, run};

const PAGE: &str = include_str!("../../../docs/reading.md");

/// A snippet, and what it is said to print.
fn snippet(language: &str) -> (&'static str, &'static str) {
    let block = |text: &'static str, kind: &str| {
        let (before, after) = text.split_once(&format!("\n```{kind}\n")).unwrap();
        let (block, after) = after.split_once("\n```").unwrap();
        (before, block, after)
    };
    let (_, snippet, after) = block(PAGE, language);
    let (between, printed, _) = block(after, "text");
    assert_eq!(between, "", "what {language} prints does not follow it");
    (snippet, printed)
}

/// A folder with the store of the page, which a client has open.
async fn shop() -> (Rig, Client) {
    let rig = Rig::start(
        "create table product (id integer primary key, name text not null, price numeric(10, 2));
         insert into product values (1, 'Chair', 45.00), (2, 'Table', 180.50), (3, 'Lamp', 29.90)",
        &["product"],
    )
    .await;
    let client = Client::builder(rig.url()).open(rig.store("shop.db")).unwrap();
    client.pull().await.unwrap();
    run(
        &rig.pool,
        "update product set price = 49.00 where id = 1; delete from product where id = 2",
    )
    .await;
    client.pull().await.unwrap();
    // What is newest is in the log, so whoever reads the file alone does not have it.
    assert!(rig.store("shop.db-wal").metadata().unwrap().len() > 0);
    (rig, client)
}

async fn prints(folder: &Path, program: &str, flag: &str, language: &str) {
    let (snippet, printed) = snippet(language);
    let mut command = Command::new(program);
    command.current_dir(folder).arg(flag).arg(snippet);
    let output = output(command).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{language}: {said}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim_end(),
        printed,
        "{language}: {said}"
    );
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = folder
        .read_dir()
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shell_and_python_read_a_store_beside_its_client() {
    if !has_language("sqlite3", &["--version"]) || !has_language("python3", &["--version"]) {
        return;
    }
    let (rig, client) = shop().await;
    let folder = rig.folder.path();
    let before = files(folder);
    prints(folder, "sh", "-c", "sh").await;
    prints(folder, "python3", "-c", "python").await;
    assert_eq!(files(folder), before);
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_reads_a_store_beside_its_client() {
    if !has_language("node", &["-e", "require('node:sqlite')"]) {
        return;
    }
    let (rig, client) = shop().await;
    prints(rig.folder.path(), "node", "-e", "js").await;
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_states_on_the_page_are_those_that_a_store_may_be_in() {
    use highwater_client::State;
    let listed: Vec<&str> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(state, _)| state)
        .filter(|state| state.parse::<State>().is_ok())
        .collect();
    let all = [
        State::Current,
        State::Pulling,
        State::Renewing,
        State::Waiting,
        State::Withdrawn,
    ];
    assert_eq!(listed, all.map(State::as_str));
}
