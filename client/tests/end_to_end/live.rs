//! The client as it is by default: the daemon live, by long poll, and pages compressed on their way.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use highwater_testbed::Process;
use highwater_testbed::process::Signal;

use crate::rig::{Rig, client, output, run};

fn daemon(rig: &Rig, store: &Path) -> std::process::Command {
    let mut command = client("run", store);
    command.args(["--quiet", "--server", &format!("http://{}", rig.address)]);
    command
}

/// What the store answers to a query of one value.
pub(crate) fn value(store: &Path, query: &str) -> Option<String> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(store, flags).ok()?;
    connection.query_row(query, [], |row| row.get(0)).ok()
}

/// What the store says the name of product 1 is.
fn name(store: &Path) -> Option<String> {
    value(store, "select name from product where id = 1")
}

async fn until(store: &Path, expected: &str) {
    let waiting = async {
        while name(store).as_deref() != Some(expected) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap_or_else(|_| panic!("{expected} does not arrive, there is {:?}", name(store)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_arrives_when_it_is_committed() {
    let rig = Rig::start(
        "create table product (id int primary key, name text); insert into product values (1, 'first')",
        &["product"],
    )
    .await;
    let store = rig.store("live.db");
    let mut process = Process::spawn(daemon(&rig, &store)).unwrap();
    until(&store, "first").await;
    for round in 0..20 {
        let name = format!("round {round}");
        run(&rig.pool, &format!("update product set name = '{name}'")).await;
        until(&store, &name).await;
    }
    rig.assert_equal(&store, &["product"], "live").await;
    // In the middle of a long poll.
    let began = Instant::now();
    process.signal(Signal::Terminate).unwrap();
    let status = process.wait_up_to(Duration::from_secs(20)).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_hears_that_the_store_is_up_to_date_and_that_the_daemon_lives_and_ends() {
    let rig = Rig::start(
        "create table product (id int primary key, name text)",
        &["product"],
    )
    .await;
    let socket = rig.store("notify");
    let heard = UnixDatagram::bind(&socket).unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = daemon(&rig, &rig.store("notified.db"));
    command
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "200000")
        .env_remove("WATCHDOG_PID");
    let mut process = Process::spawn(command).unwrap();
    let heard = tokio::task::spawn_blocking(move || {
        let (mut ready, mut alive) = (false, 0);
        let mut message = [0; 100];
        loop {
            let length = heard.recv(&mut message).unwrap();
            match String::from_utf8_lossy(&message[..length]).trim() {
                "READY=1" => ready = true,
                "WATCHDOG=1" => alive += 1,
                "STOPPING=1" => break,
                other => panic!("{other}"),
            }
            if ready && alive == 3 {
                process.signal(Signal::Terminate).unwrap();
            }
        }
        (ready, alive)
    });
    let (ready, alive) = heard.await.unwrap();
    assert!(ready && alive >= 3, "{alive}");
}

/// By a name that is no machine's, so that only a proxy finds the server: as from far away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_far_away_is_pulled_from_in_compressed_pages() {
    let rig = Rig::start(
        "create table product (id int primary key, name text); insert into product select g, repeat('name ', 20) || g from generate_series(1, 5000) g",
        &["product"],
    )
    .await;
    let store = rig.store("far.db");
    let mut command = client("pull", &store);
    command
        .args([
            "--quiet",
            "--limit",
            "1000",
            "--server",
            "http://sync.example.org",
        ])
        .env("http_proxy", format!("http://{}", rig.address))
        .env_remove("no_proxy")
        .env_remove("NO_PROXY");
    let output = output(command).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    rig.assert_equal(&store, &["product"], "compressed").await;
}

/// What is written to a file that has lost its name nobody will read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_removed_ends_the_daemon() {
    let rig = Rig::start(
        "create table product (id int primary key, name text); insert into product values (1, 'first')",
        &["product"],
    )
    .await;
    let store = rig.store("removed.db");
    let mut process = Process::spawn(daemon(&rig, &store)).unwrap();
    until(&store, "first").await;
    std::fs::remove_file(&store).unwrap();
    run(&rig.pool, "update product set name = 'second'").await;
    let status = process.wait_up_to(Duration::from_secs(20)).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(1));
}
