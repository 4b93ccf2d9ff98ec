//! `highwater status`: what is seen at a glance, where colours are, and what is watched.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use highwater_client::Store;
use highwater_testbed::process::Signal;
use highwater_testbed::{Process, Terminal};
use rusqlite::Connection;

use crate::program::{err, highwater, out, run, text};
use crate::server::{Answer, Server};

/// A look that is not waited for long.
const SOON: &str = "20ms";
const PATIENCE: Duration = Duration::from_secs(30);

/// Brings two products into a store.
async fn pulled(store: &Path) {
    let server = Server::start([Answer::first_page("c1", false, &["1 Chair", "2 Table"])]).await;
    let output = run(&["pull", "--store", text(store), "--server", &server.address]).await;
    assert!(output.status.success(), "{}", err(&output));
}

/// As somebody else would, beside the program.
fn change(store: &Path, sql: &str) {
    let connection = Connection::open(store).expect("a store");
    connection.execute_batch(sql).expect("a change");
}

fn status(store: &Path, more: &[&str]) -> Command {
    let mut command = highwater(&["status", "--store", text(store)]).into_std();
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command.args(more);
    command
}

#[tokio::test]
async fn what_a_reader_should_know_of_an_entity_stands_at_the_end_of_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.db");
    pulled(&store).await;
    change(
        &store,
        "insert into sync_helper (entity, last_sync_date, state, pulled_at)
         select name, last_sync_date, stands, iif(old, '2026-01-01T00:00:00.000000Z', pulled_at) from sync_helper, (
             select 'b' as name, 'current' as stands, true as old
             union all select 'c', 'pulling', false union all select 'd', 'renewing', false
             union all select 'e' || char(27) || '[31m', 'waiting', false union all select 'f', 'withdrawn', true) added",
    );
    let shown = out(&run(&["status", "--store", text(&store)]).await);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    let end = |line: usize, expected: &str| assert!(lines[line].ends_with(expected), "{shown}");
    assert!(
        lines[1].starts_with("b        current       0  2026-11-22T10:00:00.000000Z"),
        "{shown}"
    );
    end(1, "d behind the newest");
    end(2, "  in the middle of a pull, not at one cut");
    end(3, "  begins anew; readers have the old rows");
    end(4, "  begins anew with the next pull");
    end(5, "  no longer served; its rows stay as they were");
    assert!(lines[6].starts_with("product  current       2  2026-11-22T10:00:00.000000Z"));
    end(6, "s");
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.db");
    pulled(&store).await;
    let coloured = "\u{1b}[32mcurrent\u{1b}[0m";
    let mut terminal = Terminal::start(status(&store, &[]), 24, 80).unwrap();
    terminal.wait_for(0, coloured).unwrap();
    let mut plain = status(&store, &[]);
    plain.env("NO_COLOR", "1");
    let mut terminal = Terminal::start(plain, 24, 80).unwrap();
    let shown = terminal.wait_for(0, "product  current").unwrap();
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    let mut json = Terminal::start(status(&store, &["--json"]), 24, 80).unwrap();
    assert!(!json.wait_for(0, "}\r\n").unwrap().contains('\u{1b}'));
}

#[tokio::test]
async fn a_watched_store_is_drawn_in_its_place_until_a_signal_comes() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.db");
    let mut terminal = Terminal::start(status(&store, &["--watch", SOON]), 24, 50).unwrap();
    // It may be watched before there is one, and while there is none.
    terminal.wait_for(0, "`highwater pull` makes it").unwrap();
    drop(Store::open(&store).unwrap());
    terminal.wait_for(0, "nothing was pulled yet").unwrap();
    pulled(&store).await;
    let shown = terminal.wait_for(0, "    2  2026-11-22T").unwrap();
    let before = shown.len();
    change(&store, "delete from product where id = 1");
    let redrawn = terminal.wait_for(before, "    1  2026-11-22T").unwrap();
    // Up by the three lines of the last look; no line is wider than the terminal.
    assert!(redrawn.contains("\u{1b}[3A"), "{redrawn:?}");
    let widest = redrawn.split(['\r', '\n']).map(console::measure_text_width).max();
    assert_eq!(widest, Some(50), "{redrawn:?}");
    terminal.process.signal(Signal::Interrupt).unwrap();
    let ended = terminal.process.wait_up_to(PATIENCE).unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}

#[tokio::test]
async fn a_small_terminal_shows_what_fits_and_how_much_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.db");
    pulled(&store).await;
    change(
        &store,
        "with recursive number(n) as (select 1 union all select n + 1 from number where n < 20)
         insert into sync_helper (entity, last_sync_date, state) select 'entity ' || n, last_sync_date, 'waiting' from number, sync_helper",
    );
    let mut terminal = Terminal::start(status(&store, &["--watch", SOON]), 10, 200).unwrap();
    let shown = terminal.wait_for(0, "\u{1b}[9A").unwrap();
    assert!(shown.contains("and 15 more lines\r\n"), "{shown:?}");
}

#[tokio::test]
async fn watched_without_a_terminal_every_look_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.db");
    pulled(&store).await;
    for (more, looks) in [
        (&["--watch", SOON][..], "\n\nentity"),
        (&["--json", "--watch", SOON], "}\n{\"source\""),
    ] {
        let file = folder.path().join("looks");
        let mut command = status(&store, more);
        command.stdout(std::fs::File::create(&file).unwrap());
        let mut process = Process::spawn(command).unwrap();
        while !std::fs::read_to_string(&file).unwrap().contains(looks) {
            assert!(process.try_wait().unwrap().is_none());
            tokio::task::yield_now().await;
        }
        assert!(!std::fs::read_to_string(&file).unwrap().contains('\u{1b}'));
        process.signal(Signal::Terminate).unwrap();
        let ended = process.wait_up_to(PATIENCE).unwrap();
        assert_eq!(ended.and_then(|status| status.code()), Some(0));
    }
}

#[tokio::test]
async fn a_store_that_is_missing_empty_or_damaged_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.db");
    let output = run(&["status", "--store", text(&missing)]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("there is no such file; `highwater pull` makes it"));
    let empty = folder.path().join("empty.db");
    std::fs::write(&empty, "").unwrap();
    let output = run(&["status", "--store", text(&empty)]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("it is empty; `highwater pull` makes a store of it"));
    let new = folder.path().join("new.db");
    drop(Store::open(&new).unwrap());
    let output = run(&["status", "--store", text(&new)]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(out(&output).starts_with("nothing was pulled yet; `highwater pull`"));
    let damaged = folder.path().join("damaged.db");
    pulled(&damaged).await;
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[4_096..].fill(0xff);
    std::fs::write(&damaged, bytes).unwrap();
    let output = run(&["status", "--store", text(&damaged)]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("damaged"), "{}", err(&output));
    assert!(err(&output).contains("highwater reset"), "{}", err(&output));
}
