//! Columns change in the middle of a pull, or a pull that brings new columns is cut off: readers have
//! the old rows until the new ones are complete, and no value is ever in a column not its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use highwater_testbed::Process;
use highwater_testbed::process::Signal;
use rusqlite::{Connection, OpenFlags};

use crate::rig::{Rig, run};

/// Every value says in which column it is.
const TABLE: &str = "create table product (id int primary key, a text, b text);
    insert into product select g, 'a ' || g, 'b ' || g from generate_series(1, 1500) g";

/// Changes that would put a value into another column, were it found by its place, and the tags of the
/// columns after them. Rows are not written by the first ones.
const CHANGES: [(&str, [&str; 2]); 5] = [
    (
        "alter table product rename a to c; alter table product rename b to a; alter table product rename c to b",
        ["b", "a"],
    ),
    (
        "alter table product add column c text default 'a x', drop column b; alter table product rename c to b",
        ["b", "a"],
    ),
    ("alter table product alter a type varchar(40)", ["b", "a"]),
    (
        "alter table product drop column b; alter table product add column b text default 'b y'",
        ["b", "b"],
    ),
    (
        "alter table product alter a type text using 'a ' || id, alter b type varchar(30) using 'b ' || id",
        ["a", "b"],
    ),
];

/// How long a client may take to come to the middle of its pull.
const PATIENCE: Duration = Duration::from_mins(1);

fn reader(store: &Path) -> Option<Connection> {
    Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()
}

fn state(store: &Path) -> Option<String> {
    let row = "select state from sync_helper where entity = 'product'";
    reader(store)?.query_row(row, [], |row| row.get(0)).ok()
}

/// The tags of the values of `a` and `b`, over all rows that readers see, and how many these are.
fn tags(reader: &Connection) -> (Vec<String>, i64) {
    let sql = "select distinct substr(a, 1, 1) || substr(b, 1, 1) from product";
    let mut statement = reader.prepare(sql).unwrap();
    let tags = statement.query_map([], |row| row.get(0)).unwrap();
    let rows = reader.query_row("select count(*) from product", [], |row| row.get(0));
    (tags.map(Result::unwrap).collect(), rows.unwrap())
}

/// A client that has applied some pages of its pull, and more are to come.
pub(crate) async fn midway(rig: &Rig, store: &Path, wanted: &str) -> Process {
    let mut command = rig.pull(store, &["--limit", "10"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let process = Process::spawn(command).unwrap();
    let comes = async {
        while state(store).is_none_or(|state| state != wanted) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, comes).await.expect(wanted);
    process
}

async fn ends(mut process: Process) {
    let ended = tokio::task::spawn_blocking(move || process.wait_up_to(PATIENCE).unwrap());
    let status = ended.await.unwrap().expect("an end");
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_have_the_old_rows_until_the_new_ones_are_complete() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let store = rig.store("read.db");
    rig.pulled(&store, &[]).await;
    // Open all the time, as an application has it.
    let application = reader(&store).unwrap();
    run(
        &rig.pool,
        "alter table product rename a to name; insert into product values (9999, 'n', 'b 9')",
    )
    .await;
    for kill in 1..=3 {
        let process = midway(&rig, &store, "renewing").await;
        drop(process);
        assert_eq!(state(&store).as_deref(), Some("renewing"), "kill {kill}");
        let (tags, rows) = tags(&application);
        assert_eq!((tags, rows), (vec!["ab".to_owned()], 1500), "kill {kill}");
    }
    rig.pulled(&store, &["--limit", "10"]).await;
    rig.assert_equal(&store, &["product"], "renewed").await;
    let rows = application.query_row("select count(*) from product where name is not null", [], |row| {
        row.get(0)
    });
    assert_eq!(rows, Ok(1501));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_change_in_the_middle_of_a_first_pull_come_whole() {
    for (change, _) in CHANGES {
        let rig = Rig::start(TABLE, &["product"]).await;
        let store = rig.store("first.db");
        let mut process = midway(&rig, &store, "pulling").await;
        process.signal(Signal::Stop).unwrap();
        run(&rig.pool, change).await;
        let (tags, rows) = tags(&reader(&store).unwrap());
        assert_eq!(tags, ["ab"], "{change}");
        assert!(rows < 1500, "{change}: it was at its end already");
        process.signal(Signal::Continue).unwrap();
        ends(process).await;
        rig.assert_equal(&store, &["product"], change).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_change_in_the_middle_of_a_renewal_come_whole() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let store = rig.store("renewal.db");
    rig.pulled(&store, &[]).await;
    let mut seen = ["a", "b"];
    for (change, after) in CHANGES {
        let was_seen = vec![seen.concat()];
        // Something to be in the middle of.
        run(&rig.pool, "alter table product add column extra text default 'x'").await;
        let mut process = midway(&rig, &store, "renewing").await;
        process.signal(Signal::Stop).unwrap();
        run(
            &rig.pool,
            &format!("alter table product drop column extra; {change}"),
        )
        .await;
        assert_eq!(tags(&reader(&store).unwrap()), (was_seen, 1500), "{change}");
        process.signal(Signal::Continue).unwrap();
        ends(process).await;
        rig.assert_equal(&store, &["product"], change).await;
        let (tags, _) = tags(&reader(&store).unwrap());
        assert_eq!(tags, [after.concat()], "{change}");
        seen = after;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_change_between_the_pages_of_changes_come_whole() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let store = rig.store("changes.db");
    rig.pulled(&store, &[]).await;
    for (change, _) in CHANGES {
        // Without a change of columns these rows would come as they are, page by page.
        run(&rig.pool, "update product set id = id + 10000 where id < 10000").await;
        let mut process = midway(&rig, &store, "pulling").await;
        process.signal(Signal::Stop).unwrap();
        run(&rig.pool, change).await;
        process.signal(Signal::Continue).unwrap();
        ends(process).await;
        rig.assert_equal(&store, &["product"], change).await;
        run(&rig.pool, "update product set id = id - 10000 where id > 10000").await;
        rig.pulled(&store, &[]).await;
    }
}
