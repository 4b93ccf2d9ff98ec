//! The program: what it prints, and what it ends with.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::server::{Answer, Server};

pub(crate) fn highwater(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command
        .args(arguments)
        .env_remove("HIGHWATER_STORE")
        .env_remove("HIGHWATER_SERVER")
        .env_remove("HIGHWATER_TOKEN")
        .stdin(Stdio::null());
    command
}

pub(crate) async fn run(arguments: &[&str]) -> Output {
    highwater(arguments).output().await.expect("highwater")
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[tokio::test]
async fn a_pull_its_status_and_a_reset() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store.db");
    let store = text(&store);
    let server = Server::start([
        Answer::first_page("c1", false, &["1 Chair", "2 Table"]),
        Answer::page("c2", false, &[]),
    ])
    .await;

    let pulled = run(&["pull", "--store", store, "--server", &server.address, "--json"]).await;
    assert_eq!(pulled.status.code(), Some(0), "{}", err(&pulled));
    assert_eq!(err(&pulled), "");
    let report: serde_json::Value = serde_json::from_slice(&pulled.stdout).expect("json");
    assert_eq!(report["rows"], 2);
    assert_eq!(report["entities"][0]["entity"], "product");
    assert_eq!(
        report["entities"][0]["lastSyncDate"],
        "2026-11-22T10:00:00.000000Z"
    );

    let nothing = run(&["pull", "--store", store, "--server", &server.address]).await;
    assert!(out(&nothing).starts_with("nothing new"), "{}", out(&nothing));

    let status = run(&["status", "--store", store]).await;
    let lines: Vec<String> = out(&status).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[1].starts_with("product  current     2  2026-11-22T10:00:00.000000Z"),
        "{lines:?}"
    );

    let reset = run(&["reset", "--store", store, "--entity", "product"]).await;
    assert_eq!(out(&reset), "reset product; the next pull is a full one\n");
    let status = run(&["status", "--store", store, "--json"]).await;
    assert_eq!(out(&status), "{\"source\":null,\"entities\":[]}\n");
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    let usages: [&[&str]; 6] = [
        &[],
        &["fetch"],
        &["pull", "--store", "x.db"],
        &["pull", "--store", "x.db", "--server", "http://h", "--limit", "0"],
        &[
            "run",
            "--store",
            "x.db",
            "--server",
            "http://h",
            "--interval",
            "often",
        ],
        &["pull", "--store", "/tmp/x.db", "--server", "localhost:8080"],
    ];
    for arguments in usages {
        let output = run(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", err(&output));
    }
    let missing = run(&["pull", "--store", "x.db"]).await;
    assert!(err(&missing).contains("--server"), "{}", err(&missing));
}

#[tokio::test]
async fn failures_end_with_1_and_say_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store.db");
    let missing = run(&["status", "--store", text(&store)]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(err(&missing).contains("highwater pull"), "{}", err(&missing));
    let nowhere = folder.path().join("no/where.db");
    let nowhere = run(&[
        "pull",
        "--store",
        text(&nowhere),
        "--server",
        "http://127.0.0.1:1",
    ])
    .await;
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(err(&nowhere).contains("create it first"), "{}", err(&nowhere));
    let held = highwater_client::Store::open(&store).expect("a store");
    let second = run(&["reset", "--store", text(&store)]).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(err(&second).contains("in use"), "{}", err(&second));
    drop(held);
}

#[tokio::test]
async fn help_and_version_are_there() {
    let version = run(&["--version"]).await;
    assert_eq!(
        out(&version),
        format!("highwater {}\n", env!("CARGO_PKG_VERSION"))
    );
    for command in ["pull", "run", "status", "reset"] {
        let help = run(&[command, "--help"]).await;
        assert!(out(&help).contains("Example"), "{command}");
    }
}

#[tokio::test]
async fn the_token_comes_from_the_file_or_the_environment_and_is_shown_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store.db");
    let file = folder.path().join("token");
    std::fs::write(&file, "from-file\n").expect("a file");
    let refusal = || Answer::problem(401, "unauthenticated", None);
    let server = Server::start([refusal(), refusal()]).await;
    let arguments = ["pull", "--store", text(&store), "--server", &server.address];
    let with_file = highwater(&arguments)
        .args(["--token-file", text(&file)])
        .output()
        .await
        .expect("highwater");
    let with_variable = highwater(&arguments)
        .env("HIGHWATER_TOKEN", "from-variable")
        .output()
        .await
        .expect("highwater");
    let sent: Vec<String> = server
        .asked()
        .iter()
        .map(|asked| asked.headers["authorization"].to_str().expect("text").to_owned())
        .collect();
    assert_eq!(sent, ["Bearer from-file", "Bearer from-variable"]);
    for output in [with_file, with_variable] {
        assert_eq!(output.status.code(), Some(1));
        assert!(!(err(&output) + &out(&output)).contains("from-"));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn signals_end_a_pull_with_130_and_the_daemon_with_0() {
    use std::time::Duration;

    for (command, code) in [("pull", 130), ("run", 0)] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = folder.path().join("store.db");
        let server = Server::start([Answer::page("c1", false, &[]).after(Duration::from_mins(1))]).await;
        let arguments = [command, "--store", text(&store), "--server", &server.address];
        let child = highwater(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("highwater");
        while server.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        let id = child.id().expect("running").to_string();
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .await
            .expect("kill");
        let output = child.wait_with_output().await.expect("an end");
        assert_eq!(output.status.code(), Some(code), "{command}: {}", err(&output));
    }
}
