//! A store in memory that takes any pages, and has to stay whole.

use std::cell::RefCell;

use highwater_shared::{EntityName, PageParser, Timestamp};
use rusqlite::Connection;
use rusqlite::backup::Backup;
use rusqlite::types::Value;

use super::page::PageWriter;
use super::table_sql::quoted;
use super::{from_page, schema, sync_helpers};
use crate::applied::PageApplied;
use crate::error::Error;
use crate::meter::Meter;
use crate::plan::next_ask;
use crate::pull::{Order, Writing};
use crate::sync_helper::{SourceId, State};

/// What is in the store at first: an entity with rows, and what a user has added to it.
const FIRST_PAGE: &str = concat!(
    r#"{"version":1,"entity":"product","kind":"reset","columns":[{"name":"id","type":"bigint","role":"key"},{"name":"name","type":"text"},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"}],"fingerprint":"1"}"#,
    "\n\\.\n",
    r#"{"version":1,"entity":"product","kind":"upsert","columns":[{"name":"id","type":"bigint","role":"key"},{"name":"name","type":"text"},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"}],"fingerprint":"1"}"#,
    "\n1\tChair\t2026-11-22 10:00:00+00\n2\tTable\t2026-11-22 10:00:00+00\n\\.\n",
    r#"{"next":"c0","more":false,"lastSyncDate":"2026-11-22T10:00:00Z","rows":2,"entities":["product"]}"#,
    "\n",
);
const OF_THE_USER: &str = "create table mine (text text); insert into mine values ('kept');
    create view names as select name from product;
    create unique index by_name on product (name)";

/// How pages are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    keep_deleted: bool,
    scope_changed: bool,
    writing: Writing,
    /// Whether one entity is asked for, and not all.
    names_one: bool,
    chunk_bytes: usize,
}

impl From<u8> for Course {
    fn from(bits: u8) -> Self {
        let is_set = |bit: u32| bits >> bit & 1 == 1;
        Self {
            keep_deleted: is_set(0),
            scope_changed: is_set(1),
            writing: if is_set(2) {
                Writing::DeletesFirst
            } else {
                Writing::InPlace
            },
            names_one: is_set(3),
            chunk_bytes: 8_usize.pow(u32::from(bits >> 6)) * 8 - 7,
        }
    }
}

/// Takes pages one after another, and tells how many were taken. After each of them the store is whole, and
/// where the page was refused it is as it was.
pub(crate) fn pull(course: &Course, pages: &[Vec<u8>]) -> usize {
    thread_local! {
        static FIRST: Connection = first();
        // Copied into, since to make a new one takes longer.
        static WORK: RefCell<Connection> = RefCell::new(Connection::open_in_memory().expect("memory"));
    }
    WORK.with_borrow_mut(|store| {
        FIRST.with(|first| {
            let copy = Backup::new(first, store).expect("a copy");
            copy.step(-1).expect("a copy");
        });
        let mut count = 0;
        for page in pages {
            let before = contents(store);
            let taken = take(store, course, page);
            is_whole(store, taken.as_ref().ok());
            match taken {
                Ok(_) => count += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    assert_eq!(
                        contents(store),
                        before,
                        "a page that was refused has left something"
                    );
                }
            }
        }
        count
    })
}

fn first() -> Connection {
    let mut store = Connection::open_in_memory().expect("memory");
    schema::upgrade(&mut store).expect("a store");
    take(&store, &Course::from(0), FIRST_PAGE.as_bytes()).expect("the first page");
    store.execute_batch(OF_THE_USER).expect("what a user adds");
    store
}

/// As `write` does, with the next question that the pull would ask.
fn take(store: &Connection, course: &Course, page: &[u8]) -> Result<PageApplied, Error> {
    let helpers: Vec<_> = sync_helpers::load(store)?.into_values().collect();
    let wanted = course.names_one.then(|| vec![EntityName::new("product")]);
    let order = Order {
        anew_rows_max: None,
        ask: next_ask(wanted.as_deref(), &helpers),
        writing: course.writing,
        keep_deleted: course.keep_deleted,
        scope_changed: course.scope_changed,
        source: SourceId::new("source"),
        now: Timestamp::EPOCH,
    };
    let meter = Meter::default();
    let mut parser = PageParser::new();
    let mut writer = PageWriter::new(store, &order, &meter);
    for chunk in page.chunks(course.chunk_bytes) {
        parser.push(chunk, &mut writer).map_err(from_page)?;
    }
    writer.finish(&parser.finish().map_err(from_page)?)
}

fn is_whole(store: &Connection, applied: Option<&PageApplied>) {
    assert!(store.is_autocommit(), "a transaction is left open");
    assert_eq!(column(store, "pragma integrity_check"), ["Text(\"ok\")"]);
    assert_eq!(column(store, "select text from mine"), ["Text(\"kept\")"]);
    let helpers = sync_helpers::load(store).expect("SyncHelpers that can be read");
    for helper in helpers.values() {
        if helper.state == State::Current {
            let table = format!("select count(*) from {}", quoted(helper.entity.as_str()));
            assert_eq!(column(store, &table).len(), 1);
            assert!(helper.cursor.is_some());
        }
    }
    let Some(applied) = applied else { return };
    let newest = helpers.values().map(|helper| helper.sequence).max();
    for helper in helpers.values().filter(|helper| Some(helper.sequence) == newest) {
        // No cursor without its rows.
        assert!(helper.cursor.is_none() || helper.cursor.as_ref() == Some(&applied.cursor));
        assert!(applied.more || matches!(helper.state, State::Current | State::Withdrawn));
    }
}

/// Everything in the store.
fn contents(store: &Connection) -> Vec<String> {
    let mut contents = column(
        store,
        "select type || name || coalesce(sql, '') from sqlite_schema order by 1",
    );
    let tables = "select name from sqlite_schema where type = 'table' order by name";
    let mut tables = store.prepare(tables).expect("tables");
    let names = tables
        .query_map([], |row| row.get::<_, String>(0))
        .expect("tables");
    for name in names.map(|name| name.expect("a name")) {
        let sql = format!("select * from {}", quoted(&name));
        let mut rows = store.prepare(&sql).expect(&sql);
        let width = rows.column_count();
        let values = rows.query_map([], |row| (0..width).map(|place| row.get(place)).collect());
        contents.extend(
            values
                .expect(&sql)
                .map(|row: rusqlite::Result<Vec<Value>>| format!("{name} {row:?}")),
        );
    }
    contents
}

/// The first column of a query.
fn column(store: &Connection, sql: &str) -> Vec<String> {
    let mut statement = store.prepare(sql).expect(sql);
    let values = statement.query_map([], |row| row.get::<_, Value>(0)).expect(sql);
    values.map(|value| format!("{:?}", value.expect(sql))).collect()
}
