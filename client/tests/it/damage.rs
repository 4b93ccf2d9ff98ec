//! Damaged stores: every command says what to do, nothing is lost that was there, and a reset helps.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use crate::place::{NOBODY, Place, page};
use crate::program::out;
use crate::server::{Answer, Server};

/// Products of a store: several pages of the file.
const PRODUCTS: u32 = 3000;

/// The size of a page of the file.
const PAGE_BYTES: usize = 2048;

/// What is done to a store, and which commands meet it.
type Damage = (&'static str, fn(&Path), &'static [&'static str]);

const DAMAGES: [Damage; 8] = [
    (
        "a page of an entity",
        |store| spoil(store, "product"),
        &["pull", "run", "status"],
    ),
    (
        "the page of the SyncHelpers",
        |store| spoil(store, "sync_helper"),
        &["pull", "run", "status"],
    ),
    (
        "the page of the list of tables",
        |store| spoil(store, "highwater_table"),
        &["pull", "run", "status"],
    ),
    (
        "the tables' definitions",
        |store| overwrite(store, 100, PAGE_BYTES - 100),
        &["pull", "run", "status"],
    ),
    (
        "the first page",
        |store| overwrite(store, 0, PAGE_BYTES),
        &["pull", "run", "status"],
    ),
    (
        "the second half is gone",
        |store| cut(store, 2),
        &["pull", "run", "status"],
    ),
    (
        "all but 50 bytes are gone",
        |store| keep(store, 50),
        &["pull", "run", "status"],
    ),
    (
        "a value that nobody wrote",
        |store| {
            let connection = Connection::open(store).expect("a database");
            let garble = "update sync_helper set state = 'cuqrent'";
            connection.execute_batch(garble).expect(garble);
        },
        &["pull", "run", "status"],
    ),
];

/// Overwrites a page of a table, in the middle of those that hold its rows.
fn spoil(store: &Path, table: &str) {
    let connection = Connection::open(store).expect("a database");
    let sql = "select pageno from dbstat where name = ?1 and pagetype = 'leaf' order by pageno";
    let mut statement = connection.prepare(sql).expect(sql);
    let pages = statement.query_map([table], |row| row.get(0)).expect(sql);
    let pages: Vec<u32> = pages.map(|page| page.expect("a page")).collect();
    drop(statement);
    drop(connection);
    overwrite_page(store, pages[pages.len() / 2]);
}

fn overwrite_page(store: &Path, page: u32) {
    overwrite(
        store,
        usize::try_from(page - 1).expect("small") * PAGE_BYTES,
        PAGE_BYTES,
    );
}

fn overwrite(store: &Path, at: usize, bytes: usize) {
    let mut content = fs::read(store).expect("a store");
    content[at..at + bytes].fill(0xa5);
    fs::write(store, content).expect("a damaged store");
}

fn cut(store: &Path, part: usize) {
    keep(store, fs::read(store).expect("a store").len() / part);
}

fn keep(store: &Path, bytes: usize) {
    let content = fs::read(store).expect("a store");
    fs::write(store, &content[..bytes]).expect("what is left of a store");
}

/// A page that changes every product.
fn changes() -> Answer {
    let rows: Vec<String> = (1..=PRODUCTS).map(|id| format!("{id} changed")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    Answer::page("c2", false, &rows)
}

#[tokio::test]
async fn every_damage_is_told_and_a_reset_moves_the_file_aside() {
    for (what, damage, commands) in DAMAGES {
        let place = Place::filled(PRODUCTS).await;
        damage(&place.store());
        let before = place.contents();
        for command in commands {
            let server = Server::start([changes()]).await;
            let said = place.fails(command, &server.address).await;
            for word in [
                "store.db",
                "is damaged",
                "highwater reset",
                "moves the file aside",
            ] {
                assert!(said.contains(word), "{what}, {command}: {said}");
            }
            assert!(place.contents() == before, "{what}: {command} left a trace");
        }
        let said = out(&place.succeeds("reset", NOBODY).await);
        assert!(
            said.contains("store.db.damaged") && said.contains("full one"),
            "{what}: {said}"
        );
        let after = place.contents();
        assert!(
            after["store.db.damaged"] == before["store.db"],
            "{what}: something was lost"
        );
        let names: Vec<&str> = after.keys().map(String::as_str).collect();
        assert_eq!(names, ["store.db", "store.db.damaged", "store.db.lock"], "{what}");
        let status = out(&place.succeeds("status", NOBODY).await);
        assert!(status.contains("nothing was pulled yet"), "{what}: {status}");
        let server = Server::start([page("c1", PRODUCTS)]).await;
        place.succeeds("pull", &server.address).await;
        let rows = place.query("store.db", "select count(*) from product");
        assert_eq!(rows, [PRODUCTS.to_string()], "{what}");
    }
}

#[tokio::test]
async fn what_a_damaged_store_still_holds_can_be_read_where_it_was_moved() {
    let place = Place::filled(PRODUCTS).await;
    spoil(&place.store(), "product");
    place.succeeds("reset", NOBODY).await;
    assert_eq!(place.query("store.db.damaged", "select text from note"), ["mine"]);
    // The name is taken now.
    fs::remove_file(place.store()).expect("a store");
    fs::write(place.store(), "SQLite format 3\0and no more").expect("what is left of a store");
    place.succeeds("reset", NOBODY).await;
    assert_eq!(place.query("store.db.damaged", "select text from note"), ["mine"]);
    assert!(place.file("store.db.damaged-2").exists());
}

#[tokio::test]
async fn a_log_is_moved_with_the_file_that_it_belongs_to() {
    let living = Place::filled(PRODUCTS).await;
    let writer = Connection::open(living.store()).expect("a writer");
    writer
        .execute_batch("insert into note values ('in the log')")
        .expect("a note");
    let place = Place::new();
    for file in ["store.db", "store.db-wal", "store.db-shm", "store.db.lock"] {
        fs::copy(living.file(file), place.file(file)).expect(file);
    }
    let note = "select pageno from dbstat where name = 'sync_helper'";
    let page = living.query("store.db", note)[0].parse().expect("a number");
    overwrite_page(&place.store(), page);
    place.succeeds("reset", NOBODY).await;
    assert_eq!(
        place.query("store.db.damaged", "select text from note"),
        ["mine", "in the log"]
    );
}

#[tokio::test]
async fn damage_beside_the_entities_is_found_by_the_reset() {
    let place = Place::filled(PRODUCTS).await;
    place.execute("create table gone as select * from product; drop table gone");
    // The list of free pages is met by whoever needs one.
    let list = place.query("store.db", "pragma freelist_count");
    assert_ne!(list, ["0"]);
    let head = fs::read(place.store()).expect("a store")[32..36].to_vec();
    let head = u32::from_be_bytes(head.try_into().expect("four bytes"));
    overwrite_page(&place.store(), head);
    place.succeeds("reset", NOBODY).await;
    assert!(place.file("store.db.damaged").exists());
}

#[tokio::test]
async fn one_entity_of_a_damaged_store_cannot_be_reset_alone() {
    let place = Place::filled(PRODUCTS).await;
    spoil(&place.store(), "product");
    let before = place.contents();
    let store = place.store();
    let arguments = [
        "reset",
        "--store",
        crate::program::text(&store),
        "--entity",
        "product",
    ];
    let output = crate::program::run(&arguments).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(crate::program::err(&output).contains("is damaged"));
    assert!(place.contents() == before);
}

#[tokio::test]
async fn a_store_without_one_of_its_own_tables_is_damaged() {
    for table in ["sync_helper", "highwater_table", "highwater_past"] {
        let place = Place::filled(1).await;
        place.execute(&format!("drop table {table}"));
        for command in ["pull", "run", "status"] {
            let said = place.fails(command, NOBODY).await;
            assert!(said.contains(&format!("its table {table} is missing")), "{said}");
        }
        place.succeeds("reset", NOBODY).await;
        assert_eq!(
            place.query("store.db.damaged", "select name from product").len(),
            1
        );
        place.succeeds("status", NOBODY).await;
    }
}
