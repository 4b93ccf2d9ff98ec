//! The client killed, cut off, stopped and run twice: the SyncHelper and the rows stand or fall
//! together, and the next pull goes on.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use highwater_testbed::process::Signal;
use highwater_testbed::{Fault, Process, Proxy};

use crate::rig::{Rig, client, output};
use crate::verify;

/// Rows of the table, and of a page.
const ROWS: i64 = 30_000;
const PAGE: i64 = 1_000;

const TABLE: &str = "create table product (id int primary key, name text);
    insert into product select g, 'product number ' || g from generate_series(1, 30000) g";

/// Rows in a store's table; 0 where it has none.
fn rows(store: &Path) -> i64 {
    let Ok(connection) =
        rusqlite::Connection::open_with_flags(store, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
    else {
        return 0;
    };
    connection
        .query_row("select count(*) from product", [], |row| row.get(0))
        .unwrap_or(0)
}

/// What SQLite finds wrong with a store, where there is one. It reads the log that a killed client has left, and leaves it.
fn damage(store: &Path) -> Option<String> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(store, flags).ok()?;
    let found = connection.query_row("pragma integrity_check", [], |row| row.get::<_, String>(0));
    let found = found.unwrap_or_else(|error| error.to_string());
    (found != "ok").then_some(found)
}

/// The SyncHelper row of the entity: its cursor and its state.
fn sync_helper(store: &Path) -> Option<(Option<String>, String)> {
    let connection =
        rusqlite::Connection::open_with_flags(store, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let row = "select cursor, state from sync_helper where entity = 'product'";
    connection
        .query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_instant_keeps_rows_and_cursor_together() {
    let rig = Rig::start(TABLE, &["product"]).await;
    killed_until_it_has_all(&rig, ROWS, PAGE, 7).await;
}

/// Pages that are so long that each is copied from the log while the next one is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_while_the_log_is_copied_keeps_rows_and_cursor_together() {
    let table = "create table product (id int primary key, name text);
        insert into product select g, repeat('product ' || g, 130) from generate_series(1, 24000) g";
    let rig = Rig::start(table, &["product"]).await;
    killed_until_it_has_all(&rig, 24_000, 3_000, 31).await;
}

/// Kills a first pull again and again, each time so many milliseconds later, until the store is current.
async fn killed_until_it_has_all(rig: &Rig, rows_there: i64, page: i64, step: usize) {
    let store = rig.store("killed.db");
    let limit = page.to_string();
    let (mut kills, mut cursors) = (0, std::collections::BTreeSet::new());
    for wait in (20..).step_by(step) {
        let mut command = rig.pull(&store, &["--limit", &limit]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::spawn(command).unwrap();
        // Dropped, it is killed.
        tokio::time::sleep(Duration::from_millis(wait)).await;
        drop(process);
        kills += 1;
        let held = rows(&store);
        assert_eq!(held % page, 0, "half a page after {wait} ms");
        assert_eq!(damage(&store), None, "after {wait} ms");
        let helper = sync_helper(&store);
        let cursor = helper.as_ref().and_then(|(cursor, _)| cursor.clone());
        assert_eq!(held > 0, cursor.is_some(), "{held} rows, {helper:?}");
        cursors.extend(cursor);
        if helper.is_some_and(|(_, state)| state == "current") {
            break;
        }
        assert!(kills < 400, "the pull gets nowhere: {held} rows");
    }
    assert!(
        cursors.len() > 3,
        "{kills} kills met {} cursors only",
        cursors.len()
    );
    rig.pulled(&store, &[]).await;
    assert_eq!(rows(&store), rows_there);
    rig.assert_equal(&store, &["product"], "killed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_cut_anywhere_changes_nothing_and_the_next_pull_completes() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let store = rig.store("cut.db");
    rig.pulled(&store, &[]).await;
    let before = sync_helper(&store);
    crate::rig::run(
        &rig.pool,
        "update product set name = 'new ' || id where id <= 500; delete from product where id > 29900",
    )
    .await;
    let since = before.clone().unwrap().0.unwrap();
    let request = reqwest::Client::new().get(format!("http://{}/changes?since={since}", rig.address));
    let answer = request
        .header("accept", "application/vnd.highwater.copy")
        .send()
        .await
        .unwrap();
    let whole = answer.bytes().await.unwrap().len();
    for part in 0..6 {
        // With the headers, which come first, the last cut lies before the trailer.
        let bytes = 100 + whole * part / 6;
        let proxy = Proxy::before(rig.address).await.unwrap();
        proxy.set(if part % 2 == 0 {
            Fault::Cut(bytes)
        } else {
            Fault::Truncate(bytes)
        });
        let mut command = client("pull", &store);
        command.args(["--quiet", "--server", &proxy.url()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::spawn(command).unwrap();
        // It tries again for a while; that it has not succeeded is what matters.
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(process);
        assert_eq!(sync_helper(&store), before, "cut after part {part}");
        assert_eq!(rows(&store), ROWS, "cut after part {part}");
    }
    rig.pulled(&store, &[]).await;
    rig.assert_equal(&store, &["product"], "after the cuts").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_writer_stops_with_a_clear_message() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let store = rig.store("shared.db");
    let mut run = client("run", &store);
    run.args([
        "--quiet",
        "--interval",
        "1s",
        "--server",
        &format!("http://{}", rig.address),
    ]);
    let mut daemon = Process::spawn(run).unwrap();
    let current = async {
        while sync_helper(&store).is_none_or(|(_, state)| state != "current") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), current)
        .await
        .expect("the daemon pulls");

    let second = output(rig.pull(&store, &[])).await;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("shared.db"), "{said}");
    // Readers are not writers.
    let status = output(client("status", &store)).await;
    assert_eq!(status.status.code(), Some(0));

    crate::rig::run(&rig.pool, "insert into product values (40000, 'while it runs')").await;
    let arrived = async {
        while rows(&store) != ROWS + 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived)
        .await
        .expect("the daemon pulls again");
    daemon.signal(Signal::Terminate).unwrap();
    let status = daemon.wait_up_to(Duration::from_secs(10)).unwrap();
    assert_eq!(
        status.and_then(|status| status.code()),
        Some(0),
        "run stopped by a signal ends with 0"
    );
    rig.pulled(&store, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_makes_the_next_pull_a_full_one() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let store = rig.store("reset.db");
    rig.pulled(&store, &[]).await;
    let again = output(rig.pull(&store, &["--json"])).await;
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(
        (&again["rows"], &again["pages"]),
        (&0.into(), &1.into()),
        "nothing new is one page"
    );
    assert!(output(client("reset", &store)).await.status.success());
    assert_eq!(rows(&store), 0);
    assert_eq!(sync_helper(&store), None);
    rig.pulled(&store, &[]).await;
    rig.assert_equal(&store, &["product"], "after the reset").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_pull_ends_with_130_and_goes_on_later() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let store = rig.store("interrupted.db");
    let mut command = rig.pull(&store, &["--limit", "100"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::spawn(command).unwrap();
    while rows(&store) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.signal(Signal::Interrupt).unwrap();
    let status = process.wait_up_to(Duration::from_secs(10)).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(130));
    let held = rows(&store);
    assert!(held > 0 && held < ROWS && held % 100 == 0, "{held}");
    rig.pulled(&store, &[]).await;
    rig.assert_equal(&store, &["product"], "resumed").await;
}

/// A pull that nobody goes on with is waited for ten seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_verify_waits_for_no_pull() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let store = rig.store("waiting.db");
    rig.pulled(&store, &[]).await;
    verify::edit(&store, "update sync_helper set state = 'pulling'");
    let mut command = verify::command(&rig.url(), &store, &[]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::spawn(command).unwrap();
    while !store.with_extension("db-shm").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.signal(Signal::Interrupt).unwrap();
    let status = process.wait_up_to(Duration::from_secs(5)).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(130));
}
