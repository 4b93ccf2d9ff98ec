//! A disk that is full in the middle of a page: nothing is lost, and the next pull goes on.

use std::path::PathBuf;
use std::process::{Command, Output};

use highwater_testbed::Disk;
use rusqlite::Connection;

use crate::rig::{Rig, client, output, run};

const TABLE: &str = "create table product (id int primary key, name text);
    insert into product select g, 'product number ' || g from generate_series(1, 500) g";

/// More than fits, in one page of the server's own size.
const MORE: &str = "insert into product select g, repeat('x', 80) || g from generate_series(501, 45000) g";

const DISK_BYTES: u64 = 3 << 20;
const ROOM_BYTES: u64 = 64 << 20;

/// A store on a small disk, which a client pulls into from a real server.
struct Small {
    rig: Rig,
    disk: Disk,
}

impl Small {
    #[expect(clippy::print_stderr, reason = "a test that is left out says so")]
    async fn start() -> Option<Self> {
        let Some(disk) = Disk::new(DISK_BYTES).unwrap() else {
            eprintln!("left out: it needs a disk");
            return None;
        };
        let rig = Rig::start(TABLE, &["product"]).await;
        Some(Self { rig, disk })
    }

    fn store(&self) -> PathBuf {
        self.disk.path().join("store.db")
    }

    async fn run(&self, command: &Command) -> Output {
        output(self.disk.command(command)).await
    }

    async fn pull(&self, more: &[&str]) -> Output {
        self.run(&self.rig.pull(&self.store(), more)).await
    }

    async fn succeeds(&self, command: &Command) -> String {
        let output = self.run(command).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{command:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn status(&self) -> String {
        self.succeeds(&client("status", &self.store())).await
    }

    /// A copy of the store where this process can read it.
    fn copy(&self, name: &str) -> PathBuf {
        let folder = self.rig.store(name);
        std::fs::create_dir(&folder).unwrap();
        let copy = format!("cp store.db* '{}'", folder.display());
        self.disk.shell(&copy).unwrap();
        folder.join("store.db")
    }

    /// Ends with 1, and says what is wrong and what to do.
    fn is_full(pulled: &Output) {
        let said = String::from_utf8_lossy(&pulled.stderr);
        assert_eq!(pulled.status.code(), Some(1), "{said}");
        assert!(
            said.contains("the disk is full") && said.contains("make room"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    /// With room the next pull ends, and the store equals the source.
    async fn ends_with_room(&self, what: &str) {
        self.disk.resize(ROOM_BYTES).unwrap();
        let pulled = self.pull(&[]).await;
        let said = String::from_utf8_lossy(&pulled.stderr);
        assert_eq!(pulled.status.code(), Some(0), "{what}: {said}");
        let copy = self.copy("whole");
        self.rig.assert_equal(&copy, &["product"], what).await;
        assert_eq!(faults(&Connection::open(&copy).unwrap()), "ok", "{what}");
    }
}

fn faults(store: &Connection) -> String {
    let faults = store.query_row("pragma integrity_check", [], |row| row.get(0));
    faults.unwrap()
}

/// How many rows there are, and at which cursor they stand.
fn stands(store: &Connection) -> (i64, String, String) {
    let rows = store.query_row("select count(*) from product", [], |row| row.get(0));
    let helper = store.query_row("select cursor, state from sync_helper", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    });
    let (cursor, state) = helper.unwrap();
    (rows.unwrap(), cursor, state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_does_not_fit_changes_nothing() {
    let Some(small) = Small::start().await else {
        return;
    };
    assert!(small.pull(&[]).await.status.success());
    let before = stands(&Connection::open(small.copy("before")).unwrap());
    assert_eq!((before.0, before.2.as_str()), (500, "current"));
    run(&small.rig.pool, MORE).await;

    for attempt in ["first", "second"] {
        Small::is_full(&small.pull(&[]).await);
        let copy = Connection::open(small.copy(attempt)).unwrap();
        assert_eq!(stands(&copy), before, "{attempt}");
        assert_eq!(faults(&copy), "ok", "{attempt}");
        let status = small.status().await;
        assert!(status.contains("product  current   500"), "{status}");
    }
    small.ends_with_room("after a page that did not fit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_goes_on_from_the_last_page_that_did_fit() {
    let Some(small) = Small::start().await else {
        return;
    };
    run(&small.rig.pool, MORE).await;
    Small::is_full(&small.pull(&["--limit", "1000"]).await);
    let copy = Connection::open(small.copy("cut")).unwrap();
    let (rows, _, state) = stands(&copy);
    assert!(rows > 0 && rows < 45_000 && rows % 1000 == 0, "{rows}");
    assert_eq!(state, "pulling");
    assert_eq!(faults(&copy), "ok");
    small.status().await;

    small.disk.resize(ROOM_BYTES).unwrap();
    let pulled = small.pull(&["--json"]).await;
    assert!(pulled.status.success());
    // What came before is not sent again. It is told as JSON whatever else is quiet.
    let report: serde_json::Value = serde_json::from_slice(&pulled.stdout).unwrap();
    assert_eq!(report["rows"], 45_000 - rows);
    small.ends_with_room("after half a pull").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_works_on_the_full_disk() {
    for (name, limit) in [("in one page", "50000"), ("in many", "1000")] {
        let Some(small) = Small::start().await else {
            return;
        };
        assert!(small.pull(&[]).await.status.success());
        run(&small.rig.pool, MORE).await;
        Small::is_full(&small.pull(&["--limit", limit]).await);
        // To the last byte.
        small.disk.fill("filler").unwrap();
        let said = small.succeeds(&client("reset", &small.store())).await;
        assert!(said.starts_with("reset product"), "{name}: {said}");
        let status = small.status().await;
        assert!(status.contains("nothing was pulled yet"), "{name}: {status}");
        Small::is_full(&small.pull(&["--limit", limit]).await);
        small.disk.shell("rm filler").unwrap();
        small.ends_with_room(name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_room_for_anything_is_told() {
    let Some(small) = Small::start().await else {
        return;
    };
    small.disk.fill("filler").unwrap();
    Small::is_full(&small.pull(&[]).await);
    small.disk.shell("rm filler").unwrap();
    small.ends_with_room("after no room at all").await;
}
