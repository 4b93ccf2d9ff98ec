//! What is not a store of this program, or is in use, is refused and not touched.

use std::fs;

use super::*;

fn refused(place: &Place) -> String {
    let before = fs::read(place.path()).expect("a file");
    let error = Store::open(place.path()).expect_err("refused");
    assert!(matches!(error, Error::Open { .. }), "{error:?}");
    assert_eq!(fs::read(place.path()).expect("a file"), before, "touched");
    let beside = fs::read_dir(place.folder.path()).expect("a folder").count();
    assert_eq!(beside, 1, "something was left beside it");
    error.to_string()
}

#[test]
fn a_file_that_is_not_sqlite_is_refused() {
    let place = Place::new();
    for content in [
        "x",
        "hello, this is a letter and not a database",
        "SQLite format 2\0xxxx",
    ] {
        fs::write(place.path(), content).expect("a file");
        assert!(refused(&place).contains("not an SQLite database"));
    }
}

#[test]
fn a_database_of_another_program_is_refused() {
    let place = Place::new();
    place.execute("create table mine (id integer); insert into mine values (1)");
    assert!(refused(&place).contains("another program"));
    let place = Place::new();
    place.execute("pragma application_id = 7; create table mine (id integer)");
    assert!(refused(&place).contains("another program"));
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let place = Place::new();
    drop(place.open());
    place.execute("pragma user_version = 999; pragma journal_mode = delete");
    fs::remove_file(place.folder.path().join("store.db.lock")).expect("a lock file");
    assert!(refused(&place).contains("newer"));
}

/// A database whose schema cannot be read any more, while its header can.
fn damage(place: &Place) {
    place.execute("pragma journal_mode = delete");
    let mut bytes = fs::read(place.path()).expect("a file");
    bytes.get_mut(100..2048).expect("a page").fill(0xff);
    fs::write(place.path(), bytes).expect("a file");
}

#[test]
fn a_damaged_file_is_told_by_whose_it_was() {
    let place = Place::new();
    drop(place.open());
    damage(&place);
    let error = Store::open(place.path()).expect_err("damaged");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let error = super::super::status(place.path()).expect_err("damaged");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let newer = Place::new();
    drop(newer.open());
    newer.execute("pragma user_version = 999");
    damage(&newer);
    fs::remove_file(newer.folder.path().join("store.db.lock")).expect("a lock file");
    assert!(refused(&newer).contains("newer"));
    let other = Place::new();
    other.execute("pragma page_size = 2048; pragma application_id = 7; create table mine (id integer)");
    damage(&other);
    assert!(refused(&other).contains("another program"));
}

#[test]
fn a_store_without_one_of_its_own_tables_is_damaged() {
    for table in ["sync_helper", "highwater_table", "highwater_past"] {
        let place = Place::new();
        drop(place.open());
        place.execute(&format!("drop table {table}"));
        let error = Store::open(place.path()).expect_err("damaged");
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(table), "{error}");
    }
}

#[test]
fn a_store_may_have_any_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("50 % of #1?&mode=memory é.db");
    drop(Store::open(&path).expect("a store"));
    let status = super::super::status(&path).expect("a status");
    assert!(status.entities.is_empty());
    let mut left: Vec<_> = fs::read_dir(folder.path())
        .expect("the folder")
        .map(|file| file.expect("a file").path())
        .collect();
    left.sort();
    assert_eq!(left, [path.clone(), super::super::beside(&path, ".lock")]);
}

#[test]
fn missing_folders_and_folders_are_named() {
    let place = Place::new();
    let missing = Store::open(place.folder.path().join("no/where.db")).expect_err("no folder");
    assert!(missing.to_string().contains("does not exist"), "{missing}");
    let folder = Store::open(place.folder.path()).expect_err("a folder");
    assert!(folder.to_string().contains("it is a folder"), "{folder}");
    let device = Store::open("/dev/null").expect_err("a device");
    assert!(
        device.to_string().contains("it is a device or a pipe"),
        "{device}"
    );
    let file = place.folder.path().join("file");
    fs::write(&file, "").expect("a file");
    let below = Store::open(file.join("store.db")).expect_err("a file is no folder");
    assert!(below.to_string().contains("it cannot be reached"), "{below}");
    let nameless = Store::open(place.folder.path().join("..")).expect_err("a folder");
    assert!(nameless.to_string().contains("it is a folder"), "{nameless}");
    let status = super::super::status(place.path()).expect_err("nothing there");
    assert!(status.to_string().contains("no such file"), "{status}");
}

#[test]
fn a_name_alone_is_a_file_of_the_folder_where_one_stands() {
    let name = std::path::Path::new("highwater-no-such-store.db");
    let here = std::env::current_dir()
        .and_then(fs::canonicalize)
        .expect("a folder");
    let absolute = super::super::open::absolute(name).expect("a path");
    assert_eq!(absolute, here.join(name));
}

#[test]
fn an_empty_file_becomes_a_store() {
    let place = Place::new();
    fs::write(place.path(), "").expect("a file");
    let status = super::super::status(place.path()).expect_err("nothing yet");
    assert!(
        status.to_string().contains("it is empty; `highwater pull` makes"),
        "{status}"
    );
    drop(place.open());
    assert_eq!(place.query("pragma application_id"), ["1214863201"]);
    assert_eq!(place.query("pragma journal_mode"), ["wal"]);
    assert_eq!(place.query("pragma page_size"), ["2048"]);
}

#[test]
fn a_store_keeps_the_pages_that_somebody_gave_it() {
    let place = Place::new();
    drop(place.open());
    place.execute("pragma journal_mode = delete; pragma page_size = 8192; vacuum");
    drop(place.open());
    assert_eq!(place.query("pragma journal_mode"), ["wal"]);
    assert_eq!(place.query("pragma page_size"), ["8192"]);
}

#[test]
fn one_writer_at_a_time() {
    let place = Place::new();
    let first = place.open();
    let second = Store::open(place.path()).expect_err("locked");
    assert!(matches!(second, Error::Locked { .. }), "{second}");
    let link = place.folder.path().join("link.db");
    std::os::unix::fs::symlink(place.path(), &link).expect("a link");
    assert!(
        matches!(Store::open(&link), Err(Error::Locked { .. })),
        "by another name"
    );
    super::super::status(place.path()).expect("a status beside the writer");
    drop(first);
    drop(place.open());
    // A link to what is not there yet, which the first to open it makes.
    let folder = place.folder.path();
    std::os::unix::fs::symlink("later.db", folder.join("early.db")).expect("a link");
    let first = Store::open(folder.join("early.db")).expect("a store behind a link");
    for name in ["early.db", "later.db"] {
        let second = Store::open(folder.join(name));
        assert!(matches!(second, Err(Error::Locked { .. })), "{name}");
    }
    drop(first);
}

#[tokio::test]
async fn a_store_of_another_database_is_refused_untouched() {
    let place = Place::new();
    let store = place.open();
    pull(
        &store,
        [Page::new().reset().upsert(&["1 Chair"]).end("c1", false)],
    )
    .await
    .report();
    let before = place.dump();
    let other = Options {
        source: "source-2",
        ..Options::default()
    };
    let page = Page::new().upsert(&["1 Stool"]).end("c2", false);
    let error = pull_with(&store, [page], other).await.error().to_string();
    assert!(
        error.contains("source-1") && error.contains("source-2"),
        "{error}"
    );
    assert_eq!(place.dump(), before);
}

#[tokio::test]
async fn a_name_that_is_taken_is_left_alone() {
    let place = Place::new();
    let store = place.open();
    place.execute("create table Product (mine text); insert into Product values ('x')");
    let page = Page::new().reset().upsert(&["1 Chair"]).end("c1", false);
    let error = pull(&store, [page]).await.error();
    assert!(matches!(error, Error::NameTaken { .. }), "{error}");
    assert_eq!(place.query("select mine from product"), ["x"]);
    for taken in ["sync_helper", "highwater_table", "sqlite_x"] {
        let page = Page::new().block(taken, "reset", PRODUCT, &[]).end_covering(
            "c1",
            false,
            &format!("[\"{taken}\"]"),
        );
        assert!(pull(&store, [page]).await.outcome.is_err(), "{taken}");
    }
}

#[tokio::test]
async fn a_table_that_the_user_dropped_is_missed_and_reset_mends_it() {
    let place = Place::new();
    let store = place.open();
    pull(
        &store,
        [Page::new().reset().upsert(&["1 Chair"]).end("c1", false)],
    )
    .await
    .report();
    place.execute("drop table product");
    let error = pull(&store, [Page::new().upsert(&["2 Table"]).end("c2", false)])
        .await
        .error();
    assert!(matches!(error, Error::TableMissing { .. }), "{error}");
    store.reset(&[EntityName::new("product")]).expect("a reset");
    let unknown = store.reset(&[EntityName::new("tax")]).expect_err("unknown");
    assert!(matches!(unknown, Error::UnknownEntity { .. }), "{unknown}");
    pull(
        &store,
        [Page::new().reset().upsert(&["2 Table"]).end("c3", false)],
    )
    .await
    .report();
    assert_eq!(place.query("select name from product"), ["Table"]);
}

#[tokio::test]
async fn only_the_entities_that_were_asked_for_are_taken() {
    let place = Place::new();
    let store = place.open();
    let page = Page::new().reset().upsert(&["1 Chair"]).end("c1", false);
    let error = pull_with(&store, [page], only("tax")).await.error();
    assert!(matches!(error, Error::Malformed(_)), "{error}");
    let page = Page::new().end_covering("c1", false, BOTH);
    let error = pull_with(&store, [page], only("tax")).await.error();
    assert!(matches!(error, Error::Malformed(_)), "{error}");
    assert!(store.is_new().expect("a look"));
}

#[test]
fn a_file_whose_maker_was_killed_half_way_becomes_a_store() {
    // What a kill leaves behind while the file is made: pages in the file, and a journal that
    // takes them back.
    let killed = Place::new();
    let maker = killed.reader();
    maker
        .execute_batch(
            "pragma cache_size = 1; begin; create table t (x text);
             insert into t with recursive n (i) as (select 1 union all select i + 1 from n where i < 50)
             select hex(randomblob(2000)) from n",
        )
        .expect("an unfinished transaction");
    let journal = |place: &Place| place.folder.path().join("store.db-journal");
    let left_behind = || {
        let place = Place::new();
        fs::copy(killed.path(), place.path()).expect("a copy");
        fs::copy(journal(&killed), journal(&place)).expect("a journal");
        assert!(fs::metadata(place.path()).expect("a file").len() > 0);
        place
    };
    let looked_at = super::super::status(left_behind().path()).expect("a status");
    assert!(looked_at.entities.is_empty());
    let place = left_behind();
    drop(place.open());
    super::super::status(place.path()).expect("a status");
}
