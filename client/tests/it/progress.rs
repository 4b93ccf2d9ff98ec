//! What a pull shows while it is under way: on a terminal all that is known, elsewhere nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use highwater_testbed::Terminal;
use highwater_testbed::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::program::{err, highwater, text};
use crate::server::{Answer, Server};

const PATIENCE: Duration = Duration::from_secs(30);

/// The rest of a pull never comes.
const NEVER: Duration = Duration::from_mins(10);

fn pull(store: &Path, server: &Server) -> Command {
    let mut command = highwater(&["pull", "--store", text(store), "--server", &server.address]).into_std();
    command.env_remove("NO_COLOR");
    command
}

fn entities() -> Answer {
    let list = r#"{"entities":[{"name":"product","columns":[],"key":["id"],"fingerprint":"f","estimatedRows":4000}]}"#;
    Answer::new(200, "application/json", list)
}

fn paths(server: &Server) -> Vec<String> {
    server.asked().into_iter().map(|asked| asked.path).collect()
}

#[tokio::test]
async fn a_first_pull_shows_rows_rate_bytes_and_the_time_left() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.db");
    let rows: Vec<String> = (1..=400).map(|id| format!("{id} Chair")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let server = Server::start([
        entities(),
        Answer::first_page("c1", true, &rows),
        Answer::page("c2", false, &[]).after(NEVER),
    ])
    .await;
    let mut terminal = Terminal::start(pull(&store, &server), 24, 100).unwrap();
    let drawing = tokio::task::spawn_blocking(move || {
        // It may be drawn while the page is still being written.
        terminal.wait_for(0, "400 of about 4,000 rows").unwrap();
        let shown = terminal.wait_for(0, "left").unwrap();
        (terminal, shown)
    });
    let (mut terminal, shown) = drawing.await.unwrap();
    assert!(shown.contains("400 of about 4,000 rows"), "{shown:?}");
    let line = shown
        .split(['\r', '\n'])
        .find(|line| line.contains("left"))
        .unwrap();
    for part in ["KiB ", "/s "] {
        assert!(line.contains(part), "{line:?}");
    }
    // Nothing is promised before there is a rate.
    let before = shown.split("0 of about 4,000 rows").nth(1).unwrap();
    assert!(!before.split('\r').next().unwrap().contains("left"), "{shown:?}");
    terminal.process.signal(Signal::Interrupt).unwrap();
    let ended = terminal.process.wait_up_to(PATIENCE).unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(130));
}

#[tokio::test]
async fn a_later_pull_has_no_end_to_show_and_asks_for_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.db");
    let server = Server::start([
        Answer::first_page("c1", false, &["1 Chair"]),
        Answer::page("c2", true, &["2 Table", "3 Lamp"]),
        Answer::page("c3", false, &[]).after(NEVER),
    ])
    .await;
    // Where nobody sees a bar, nothing is asked for one.
    let first = pull(&store, &server);
    let first = tokio::process::Command::from(first).output().await.unwrap();
    assert!(first.status.success(), "{}", err(&first));
    assert_eq!(err(&first), "");
    let terminal = Terminal::start(pull(&store, &server), 24, 100).unwrap();
    let shown = tokio::task::spawn_blocking(move || {
        let mut terminal = terminal;
        terminal.wait_for(0, " 2 rows").unwrap()
    });
    let shown = shown.await.unwrap();
    assert!(!shown.contains("about") && !shown.contains("left"), "{shown:?}");
    assert_eq!(paths(&server), ["/changes"; 3]);
}

#[tokio::test]
async fn a_quiet_pull_on_a_terminal_shows_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.db");
    let server = Server::start([Answer::first_page("c1", false, &["1 Chair"])]).await;
    let mut command = pull(&store, &server);
    command.arg("--quiet");
    let terminal = Terminal::start(command, 24, 100).unwrap();
    let written = tokio::task::spawn_blocking(move || {
        let mut terminal = terminal;
        let ended = terminal.process.wait_up_to(PATIENCE).unwrap();
        assert_eq!(ended.and_then(|status| status.code()), Some(0));
        terminal.written()
    });
    assert_eq!(written.await.unwrap(), "");
    assert_eq!(paths(&server), ["/changes"]);
}

#[tokio::test]
async fn a_seed_on_its_way_shows_how_much_of_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.db");
    // Half of it comes, and the rest does not.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let half = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        // An answer to what was not asked yet is none to the client.
        let asked = connection.read(&mut [0; 4_096]).await.unwrap();
        assert!(asked > 0);
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 2048\r\n\r\n";
        let sent = format!("{head}{}", "x".repeat(1_024));
        connection.write_all(sent.as_bytes()).await.unwrap();
        connection
    });
    let mut command = highwater(&["pull", "--store", text(&store), "--server", &address]).into_std();
    command.args(["--seed", &format!("{address}/shop.seed")]);
    let terminal = Terminal::start(command, 24, 100).unwrap();
    let shown = tokio::task::spawn_blocking(move || {
        let mut terminal = terminal;
        terminal.wait_for(0, "seed: 1.00 KiB of 2.00 KiB").unwrap()
    });
    shown.await.unwrap();
    drop(half.await.unwrap());
}
