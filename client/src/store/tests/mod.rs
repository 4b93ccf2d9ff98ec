//! The store on real files, fed with pages as bytes through the pull that feeds it in earnest.

mod attempts;
mod images;
mod keeping;
mod lines;
mod looks;
mod mending;
mod objects;
mod pages;
mod past;
mod refusals;
mod renewals;
mod resyncs;
mod scopes;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use backon::ExponentialBuilder;
use bytes::Bytes;
use highwater_shared::{EntityName, ResyncReason, Timestamp};
use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use super::Store;
use crate::applied::PullReport;
use crate::error::Error;
use crate::plan::Ask;
use crate::pull::{Answer, Clock, Event, Outcome, PageBody, Pull, Remote, Shortcut};
use crate::spread::Spread;
use crate::sync_helper::{SourceId, State, SyncHelper};

/// The columns of most tests: key, text, date.
const PRODUCT: &str = r#"[{"name":"id","type":"bigint","role":"key"},{"name":"name","type":"text"},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"}]"#;

/// What a deletion of a product carries.
const PRODUCT_KEY: &str = r#"[{"name":"id","type":"bigint","role":"key"},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"},{"name":"reason","type":"text","role":"reason"}]"#;

/// What a trailer covers with a second entity.
const BOTH: &str = r#"["product","tax"]"#;

const DATE: &str = "2026-11-22 10:00:00+00";

/// The columns of products whose name has another name.
fn with_name_as(name: &str) -> String {
    PRODUCT.replace(r#""name":"name""#, &format!(r#""name":"{name}""#))
}

/// A folder with a store in it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    fn open(&self) -> Store {
        Store::open(self.path()).expect("a store")
    }

    /// The file as any other program sees it.
    fn reader(&self) -> Connection {
        Connection::open(self.path()).expect("a reader")
    }

    /// The first column of a query, as text.
    fn query(&self, sql: &str) -> Vec<String> {
        query(&self.reader(), sql)
    }

    fn execute(&self, sql: &str) {
        self.reader().execute_batch(sql).expect(sql);
    }

    /// Everything in the file that counts.
    fn dump(&self) -> Vec<String> {
        let reader = self.reader();
        let mut dump = query(
            &reader,
            "select name || coalesce(sql, '') from sqlite_schema order by name",
        );
        for table in query(
            &reader,
            "select name from sqlite_schema where type = 'table' order by name",
        ) {
            let columns = query(&reader, &format!("select name from pragma_table_info('{table}')"));
            let values: Vec<String> = columns
                .iter()
                .map(|column| format!("coalesce(\"{column}\", 'null')"))
                .collect();
            let sql = format!(
                "select {} from \"{table}\" order by 1",
                values.join(" || '|' || ")
            );
            dump.extend(query(&reader, &sql));
        }
        dump
    }
}

fn query(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(sql).expect(sql);
    statement
        .query_map([], |row| {
            Ok(match row.get_ref(0)? {
                rusqlite::types::ValueRef::Null => "null".to_owned(),
                rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                rusqlite::types::ValueRef::Real(number) => number.to_string(),
                rusqlite::types::ValueRef::Text(text) | rusqlite::types::ValueRef::Blob(text) => {
                    String::from_utf8_lossy(text).into_owned()
                }
            })
        })
        .expect(sql)
        .map(|value| value.expect("a value"))
        .collect()
}

/// A page under construction.
#[derive(Clone, Default)]
struct Page {
    body: String,
    rows: u64,
    fingerprint: String,
}

impl Page {
    fn new() -> Self {
        Self {
            fingerprint: "f1".to_owned(),
            ..Self::default()
        }
    }

    /// The blocks that follow have columns of another fingerprint.
    fn fingerprint(mut self, fingerprint: &str) -> Self {
        fingerprint.clone_into(&mut self.fingerprint);
        self
    }

    fn block(mut self, entity: &str, kind: &str, columns: &str, rows: &[&str]) -> Self {
        let fingerprint = &self.fingerprint;
        writeln!(
            self.body,
            r#"{{"version":1,"entity":"{entity}","kind":"{kind}","columns":{columns},"fingerprint":"{fingerprint}"}}"#
        )
        .expect("text");
        for row in rows {
            self.body.push_str(row);
            self.body.push('\n');
            self.rows += 1;
        }
        self.body.push_str("\\.\n");
        self
    }

    fn reset(self) -> Self {
        self.reset_of("product")
    }

    fn reset_of(self, entity: &str) -> Self {
        self.block(entity, "reset", PRODUCT, &[])
    }

    /// Products, written `id name`.
    fn upsert(self, rows: &[&str]) -> Self {
        self.upsert_of("product", rows)
    }

    /// Rows of an entity with the columns of a product, written so too.
    fn upsert_of(self, entity: &str, rows: &[&str]) -> Self {
        let rows: Vec<String> = rows
            .iter()
            .map(|row| format!("{}\t{DATE}", row.replacen(' ', "\t", 1)))
            .collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        self.block(entity, "upsert", PRODUCT, &rows)
    }

    fn delete(self, keys: &[&str], reason: &str) -> Self {
        let rows: Vec<String> = keys
            .iter()
            .map(|key| format!("{key}\t{DATE}\t{reason}"))
            .collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        self.block("product", "delete", PRODUCT_KEY, &rows)
    }

    fn end(self, next: &str, more: bool) -> Bytes {
        self.end_covering(next, more, r#"["product"]"#)
    }

    fn end_covering(mut self, next: &str, more: bool, entities: &str) -> Bytes {
        writeln!(
            self.body,
            r#"{{"next":"{next}","more":{more},"lastSyncDate":"2026-11-22T10:00:00Z","rows":{},"entities":{entities}}}"#,
            self.rows
        )
        .expect("text");
        Bytes::from(self.body)
    }
}

/// Stands among pages for the answer that the cursor is gone.
const GONE: Bytes = Bytes::from_static(b"gone");

/// The same, since the caller may see something else now.
const SCOPE_CHANGED: Bytes = Bytes::from_static(b"scope");

/// A server that answers with given pages, and remembers what it was asked.
#[derive(Default)]
struct Script {
    pages: Mutex<VecDeque<Bytes>>,
    asks: Mutex<Vec<Ask>>,
    source: String,
}

/// The whole of a page in two chunks.
struct Chunks(VecDeque<Bytes>);

impl PageBody for Chunks {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        Ok(self.0.pop_front())
    }
}

/// The error of a script that has come to its end; nothing tries again.
fn out_of_pages() -> Error {
    Error::Task("out of pages".into())
}

impl Remote for Script {
    type Body = Chunks;

    async fn changes(&self, ask: &Ask) -> Result<Answer<Chunks>, Error> {
        self.asks.lock().expect("asks").push(ask.clone());
        let page = self
            .pages
            .lock()
            .expect("pages")
            .pop_front()
            .ok_or_else(out_of_pages)?;
        let middle = page.len() / 2;
        let chunks = [page.slice(..middle), page.slice(middle..)];
        Ok(Answer {
            source: SourceId::new(self.source.as_str()),
            outcome: match page {
                page if page == GONE => Outcome::Resync {
                    reason: None,
                    earlier: false,
                },
                page if page == SCOPE_CHANGED => Outcome::Resync {
                    reason: Some(ResyncReason::ScopeChanged),
                    earlier: false,
                },
                _ => Outcome::Page(Chunks(chunks.into())),
            },
        })
    }
}

/// A clock that stands still, so that stores can be compared.
struct NoTime;

impl Clock for NoTime {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_000_000)
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }

    async fn sleep(&self, _: Duration) {}
}

/// What a pull did, and what it asked for.
struct Pulled {
    outcome: Result<PullReport, Error>,
    asks: Vec<Ask>,
}

impl Pulled {
    fn report(self) -> PullReport {
        self.outcome.expect("a pull")
    }

    fn error(self) -> Error {
        self.outcome.expect_err("no pull")
    }

    /// What was sent as `since`, question by question.
    fn since(&self) -> Vec<Option<&str>> {
        self.asks
            .iter()
            .map(|ask| ask.since.as_ref().map(crate::sync_helper::Cursor::as_str))
            .collect()
    }
}

struct Options<'a> {
    keep_deleted: bool,
    source: &'static str,
    wanted: Option<Vec<EntityName>>,
    wait: Duration,
    retries: usize,
    shortcut: Option<&'a dyn Shortcut>,
    observer: &'a (dyn Fn(Event<'_>) + Send + Sync),
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            keep_deleted: false,
            source: "source-1",
            wanted: None,
            wait: Duration::ZERO,
            retries: 0,
            shortcut: None,
            observer: &|_| {},
        }
    }
}

/// A pull that keeps rows though they are deleted.
fn keep() -> Options<'static> {
    Options {
        keep_deleted: true,
        ..Options::default()
    }
}

/// A pull of one entity.
fn only(entity: &str) -> Options<'static> {
    Options {
        wanted: Some(vec![EntityName::new(entity)]),
        ..Options::default()
    }
}

async fn pull(store: &Store, pages: impl IntoIterator<Item = Bytes>) -> Pulled {
    pull_with(store, pages, Options::default()).await
}

async fn pull_with(store: &Store, pages: impl IntoIterator<Item = Bytes>, options: Options<'_>) -> Pulled {
    let script = Script {
        pages: Mutex::new(pages.into_iter().collect()),
        source: options.source.to_owned(),
        ..Script::default()
    };
    let pull = Pull {
        remote: &script,
        store,
        clock: &NoTime,
        wanted: options.wanted.as_deref(),
        keep_deleted: options.keep_deleted,
        wait: options.wait,
        retries: ExponentialBuilder::new().with_max_times(options.retries),
        resyncs: Spread::none(),
        shortcut: options.shortcut,
        takes_rescoped: true,
        stop: &CancellationToken::new(),
        observer: options.observer,
    };
    let outcome = pull.run().await;
    Pulled {
        outcome,
        asks: script.asks.into_inner().expect("asks"),
    }
}

fn helper(store: &Store, entity: &str) -> SyncHelper {
    let helpers = store.sync_helpers().expect("SyncHelpers");
    let helper = helpers
        .into_iter()
        .find(|helper| helper.entity.as_str() == entity);
    helper.expect("a SyncHelper")
}

fn state(store: &Store) -> State {
    helper(store, "product").state
}
