//! The server has every entity begin anew: `run` waits for a random time, `pull` does not.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::place::{NOBODY, Place};
use crate::program::{highwater, out, run, text};
use crate::server::{Answer, Server};

fn gone() -> Answer {
    Answer::problem(410, "resync_required", Some("source_changed"))
}

/// A daemon, once it has said that entities begin anew.
async fn daemon(place: &Place, server: &Server, spread: &[&str]) -> (Child, String) {
    let store = place.store();
    let mut arguments = vec!["run", "--store", text(&store), "--server", &server.address];
    arguments.extend(spread);
    let mut daemon = highwater(&arguments)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("highwater");
    let mut lines = BufReader::new(daemon.stderr.take().expect("standard error")).lines();
    loop {
        let line = lines
            .next_line()
            .await
            .expect("a line")
            .expect("a daemon that goes on");
        if line.contains("begins anew") {
            // Whoever closed it early would end the daemon with its next line.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (daemon, line);
        }
    }
}

async fn stopped(mut daemon: Child) {
    let id = daemon.id().expect("running").to_string();
    let kill = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(kill.expect("kill").success());
    assert_eq!(daemon.wait().await.expect("an end").code(), Some(0));
}

#[tokio::test]
async fn a_daemon_waits_and_can_be_stopped_meanwhile() {
    let place = Place::filled(3).await;
    let server = Server::start([gone()]).await;
    // Over a day, so that no short wait is drawn.
    let (daemon, line) = daemon(&place, &server, &["--resync-spread", "24h"]).await;
    assert!(line.contains("begins anew in "), "{line}");
    let status = out(&place.succeeds("status", NOBODY).await);
    assert!(status.contains("product  current     3"), "{status}");
    stopped(daemon).await;
    assert_eq!(server.asked().len(), 1, "it did not wait");
    assert_eq!(place.query("store.db", "select cursor from sync_helper"), ["c1"]);
}

#[tokio::test]
async fn a_daemon_that_need_not_wait_begins_anew_at_once() {
    let place = Place::filled(3).await;
    let server = Server::start([gone(), Answer::first_page("c2", false, &["9 Bench"])]).await;
    let (daemon, line) = daemon(&place, &server, &["--resync-spread", "0s", "--interval", "1h"]).await;
    assert!(line.contains("in 0.0 s"), "{line}");
    while place.query("store.db", "select name from product") != ["Bench"] {
        tokio::task::yield_now().await;
    }
    stopped(daemon).await;
}

#[tokio::test]
async fn a_pull_begins_anew_at_once() {
    let place = Place::filled(3).await;
    let server = Server::start([gone(), Answer::first_page("c2", false, &["9 Bench"])]).await;
    place.succeeds("pull", &server.address).await;
    assert_eq!(place.query("store.db", "select name from product"), ["Bench"]);
}

#[tokio::test]
async fn the_wait_is_a_minute_where_nothing_else_is_said() {
    let help = out(&run(&["run", "--help"]).await);
    let (_, option) = help.split_once("--resync-spread").expect("an option");
    assert!(option.contains("[default: 60s]"), "{help}");
    for bad in ["60", "soon", "-1s"] {
        let usage = [
            "run",
            "--store",
            "x.db",
            "--server",
            NOBODY,
            "--resync-spread",
            bad,
        ];
        assert_eq!(run(&usage).await.status.code(), Some(2), "{bad}");
    }
}
