//! `highwater reset` works whatever has become of the store, and keeps what is the user's.

use crate::place::{NOBODY, Place, page};
use crate::program::{err, out, run, text};
use crate::server::{Answer, Server};

/// Products of a store: several pages of the file.
const PRODUCTS: u32 = 3000;

/// Pulls again, and expects all the products to come.
async fn pulled_anew(place: &Place, products: u32) {
    let server = Server::start([page("c9", products)]).await;
    place.succeeds("pull", &server.address).await;
    assert_eq!(server.asked()[0].query, "", "not a full pull");
    let rows = place.query("store.db", "select count(*) from product");
    assert_eq!(rows, [products.to_string()]);
}

#[tokio::test]
async fn a_store_of_another_source_begins_anew_from_that_one() {
    let place = Place::filled(PRODUCTS).await;
    place.succeeds("reset", NOBODY).await;
    let other = page("c9", 5).header("highwater-source", "source-2");
    let server = Server::start([other]).await;
    place.succeeds("pull", &server.address).await;
    assert_eq!(
        place.query("store.db", "select source from sync_helper"),
        ["source-2"]
    );
    assert_eq!(place.query("store.db", "select text from note"), ["mine"]);
}

#[tokio::test]
async fn a_missing_table_is_told_and_forgotten() {
    let place = Place::filled(PRODUCTS).await;
    place.execute("drop table product");
    for rows in [&["1 Stool"][..], &[]] {
        let server = Server::start([Answer::page("c2", false, rows)]).await;
        let said = place.fails("pull", &server.address).await;
        assert!(said.contains("highwater reset --entity product"), "{said}");
    }
    let status = out(&place.succeeds("status", NOBODY).await);
    assert!(status.contains("product"), "{status}");
    let store = place.store();
    let reset = run(&["reset", "--store", text(&store), "--entity", "product"]).await;
    assert_eq!(
        out(&reset),
        "reset product; the next pull is a full one\n",
        "{}",
        err(&reset)
    );
    pulled_anew(&place, 7).await;
}

#[tokio::test]
async fn a_table_that_no_longer_takes_rows_is_made_anew() {
    let changes = [
        "alter table product drop column name",
        "alter table product rename column name to title",
        "drop table product; create table product (id integer, name text, changed_date text)",
    ];
    for change in changes {
        let place = Place::filled(PRODUCTS).await;
        place.execute("create index by_date on product (changed_date)");
        place.execute(change);
        let has_index = !place
            .query("store.db", "select 1 from pragma_index_list('product')")
            .is_empty();
        let server = Server::start([Answer::page("c2", false, &["1 Stool"])]).await;
        let said = place.fails("pull", &server.address).await;
        assert!(
            said.contains("highwater reset --entity product"),
            "{change}: {said}"
        );
        place.succeeds("reset", NOBODY).await;
        pulled_anew(&place, 7).await;
        let kept = place.query("store.db", "select name from pragma_index_list('product')");
        assert_eq!(
            kept.contains(&"by_date".to_owned()),
            has_index,
            "{change}: {kept:?}"
        );
        assert_eq!(place.query("store.db", "select text from note"), ["mine"]);
    }
}

#[tokio::test]
async fn a_trigger_that_makes_no_sense_any_more_is_dropped_and_named() {
    let place = Place::filled(1).await;
    place.execute(
        "create table log (what text);
         create trigger kept after insert on product begin insert into note values (new.name); end;
         create trigger lost after insert on product begin insert into log values (new.name); end;
         drop table log;",
    );
    let server = Server::start([Answer::page("c2", false, &["1 Stool"])]).await;
    let said = place.fails("pull", &server.address).await;
    assert!(
        said.contains("trigger") && said.contains("highwater reset"),
        "{said}"
    );
    let reset = out(&place.succeeds("reset", NOBODY).await);
    assert!(
        reset.contains("trigger lost") && reset.contains("dropped"),
        "{reset}"
    );
    assert!(!reset.contains("trigger kept"), "{reset}");
    pulled_anew(&place, 2).await;
    assert_eq!(place.query("store.db", "select text from note").len(), 3);
}

#[tokio::test]
async fn a_store_in_use_is_not_reset() {
    let place = Place::filled(1).await;
    let held = highwater_client::Store::open(place.store()).expect("a store");
    let before = place.query("store.db", "select cursor from sync_helper");
    let said = place.fails("reset", NOBODY).await;
    assert!(said.contains("in use"), "{said}");
    assert_eq!(place.query("store.db", "select cursor from sync_helper"), before);
    drop(held);
}

#[cfg(target_os = "linux")]
mod full_disk {
    use std::process::Output;

    use highwater_testbed::Disk;

    use super::*;
    use crate::place::{arguments, run_by};

    /// The store on a disk that is as full as `size` and a filler make it.
    struct FullDisk {
        disk: Disk,
        store: String,
    }

    impl FullDisk {
        #[expect(clippy::print_stderr, reason = "a test that is left out says so")]
        fn new(bytes: u64) -> Option<Self> {
            let Some(disk) = Disk::new(bytes).expect("a disk") else {
                eprintln!("left out: it needs a disk");
                return None;
            };
            let store = text(&disk.path().join("store.db")).to_owned();
            Some(Self { disk, store })
        }

        async fn run(&self, command: &str, server: &str) -> Output {
            run_by(
                |plain| self.disk.command(&plain),
                &arguments(command, &self.store, server),
            )
            .await
        }

        /// A pull that ends with 1, and with what to do.
        async fn is_told(&self, what: &str) {
            let server = Server::start([page("c1", PRODUCTS)]).await;
            let pulled = self.run("pull", &server.address).await;
            let said = err(&pulled);
            assert_eq!(pulled.status.code(), Some(1), "{what}: {said}");
            assert!(
                said.contains("the disk is full") && said.contains("make room"),
                "{what}: {said}"
            );
        }

        /// The disk is full: status and reset work all the same. With room again, so does a pull.
        async fn is_reset(&self, what: &str) {
            self.disk.fill("filler").expect("a full disk");
            for command in ["status", "reset", "status", "reset", "status"] {
                let output = self.run(command, NOBODY).await;
                assert_eq!(
                    output.status.code(),
                    Some(0),
                    "{what}, {command}: {}",
                    err(&output)
                );
            }
            let server = Server::start([page("c9", 5)]).await;
            let squeezed = self.run("pull", &server.address).await;
            if squeezed.status.code() != Some(0) {
                let said = err(&squeezed);
                assert!(
                    said.contains("the disk is full") && said.contains("make room"),
                    "{what}: {said}"
                );
            }
            self.disk.shell("rm filler").expect("room");
            self.disk.resize(64 << 20).expect("room");
            let server = Server::start([page("c9", 5)]).await;
            let pulled = self.run("pull", &server.address).await;
            assert_eq!(pulled.status.code(), Some(0), "{what}: {}", err(&pulled));
            let is_full = server.asked()[0].query.is_empty();
            assert!(is_full || squeezed.status.success(), "{what}: not a full pull");
            let copied = tempfile::tempdir().expect("a folder");
            let copy = format!("cp store.db* '{}'", copied.path().display());
            self.disk.shell(&copy).expect("a copy");
            let reader = rusqlite::Connection::open(copied.path().join("store.db")).expect("a store");
            let count = |sql: &str| reader.query_row(sql, [], |row| row.get::<_, i64>(0));
            assert_eq!(count("select count(*) from product"), Ok(5), "{what}");
            let faults = reader.query_row("pragma integrity_check", [], |row| row.get::<_, String>(0));
            assert_eq!(faults.as_deref(), Ok("ok"), "{what}");
        }
    }

    #[tokio::test]
    async fn what_others_fill_the_disk_with_does_not_stand_in_the_way() {
        let Some(full) = FullDisk::new(16 << 20) else {
            return;
        };
        let server = Server::start([page("c1", PRODUCTS)]).await;
        let pulled = full.run("pull", &server.address).await;
        assert_eq!(pulled.status.code(), Some(0), "{}", err(&pulled));
        full.is_reset("filled by others").await;
    }

    #[tokio::test]
    async fn a_disk_that_is_too_small_for_any_store_leaves_nothing_to_reset() {
        for kib in (8..=200).step_by(16) {
            let Some(full) = FullDisk::new(kib << 10) else {
                return;
            };
            let what = format!("{kib} KiB");
            full.is_told(&what).await;
            full.disk.fill("filler").expect("a full disk");
            let reset = full.run("reset", NOBODY).await;
            assert_eq!(reset.status.code(), Some(0), "{what}: {}", err(&reset));
            full.is_told(&what).await;
            full.disk.resize(64 << 20).expect("room");
            let server = Server::start([page("c1", PRODUCTS)]).await;
            let pulled = full.run("pull", &server.address).await;
            assert_eq!(pulled.status.code(), Some(0), "{what}: {}", err(&pulled));
        }
    }

    #[tokio::test]
    async fn a_log_that_cannot_go_into_the_file_does_not_either() {
        // Among them are sizes at which the log is written in full, and the file has no room for what
        // is in it.
        let mut left = 0;
        for kib in (208..448).step_by(48) {
            let Some(full) = FullDisk::new(kib << 10) else {
                return;
            };
            let server = Server::start([page("c1", PRODUCTS)]).await;
            let pulled = full.run("pull", &server.address).await;
            if pulled.status.code() == Some(0) {
                let log = full
                    .disk
                    .shell("stat -c %s store.db-wal || echo 0")
                    .expect("a size");
                left += u32::from(log.trim() != "0");
                full.is_reset(&format!("{kib} KiB")).await;
            }
        }
        assert!(left > 0, "no size left a log behind");
    }
}
