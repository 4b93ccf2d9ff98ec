//! What a store holds at one moment, read beside its writer: the cursors and the rows of one transaction,
//! as hashes that can be compared with those of the source.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use highwater_shared::hash::{date_hash, key_hash, value_hash};
use highwater_shared::{ColumnRole, EntityName, ValueKind, copy_text};
use rusqlite::{CachedStatement, Connection, InterruptHandle, OpenFlags, Row};
use tokio_util::sync::CancellationToken;

use super::open::{self, BUSY_SECONDS_MAX};
use super::table::{Purpose, Table, is_senseless};
use super::table_sql::{deleted_column, list, quoted};
use super::value::{self, NotAValue};
use super::{look, printed, schema, sync_helpers};
use crate::error::Error;
use crate::sync_helper::{State, SyncHelper};

/// How long to wait for a pull that is under way in the store.
const PULL_SECONDS_MAX: u64 = 10;

/// How often to look whether it has ended.
const PULL_POLL: Duration = Duration::from_millis(50);

/// A store at one moment.
#[derive(Debug)]
pub(crate) struct View {
    connection: Connection,
    path: PathBuf,
    helpers: Vec<SyncHelper>,
    /// How large the file is.
    bytes: u64,
}

/// When a store is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Between two pulls, which is waited for.
    BetweenPulls,
    /// Now, whatever state it is in.
    Now,
}

/// A row of an entity, as it is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowHashes {
    pub(crate) key: u64,
    pub(crate) digest: u64,
}

/// The table of an entity, as it is compared.
#[derive(Clone, Debug)]
pub(crate) struct Compared {
    table: Table,
    /// Kinds of what a statement selects: the key's columns, `changed_date`, then the other columns with their places.
    key: Vec<ValueKind>,
    others: Vec<(u64, ValueKind)>,
    columns: String,
}

impl View {
    /// Opens the store at `path`, to compare the entities that are `wanted` (all, where none are named).
    pub(crate) fn open(
        path: &Path,
        wanted: Option<&[EntityName]>,
        look: Look,
        stop: &CancellationToken,
    ) -> Result<Self, Error> {
        let path = open::absolute(path)?;
        look::at(&path, |_| Ok(()))?;
        Self::begin(&path, wanted, look, stop).map_err(|error| error.in_store(&path))
    }

    fn begin(
        path: &Path,
        wanted: Option<&[EntityName]>,
        look: Look,
        stop: &CancellationToken,
    ) -> Result<Self, Error> {
        // Nothing is written; but only who might, makes the files that SQLite needs beside a store
        // that nobody has open, and removes them again.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(BUSY_SECONDS_MAX))?;
        connection.pragma_update(None, "query_only", true)?;
        let until = Instant::now() + Duration::from_secs(PULL_SECONDS_MAX);
        loop {
            connection.execute_batch("begin")?;
            let helpers = if schema::version(&connection)? == 0 {
                Vec::new()
            } else {
                chosen(&connection, wanted)?
            };
            let under_way = helpers
                .iter()
                .find(|helper| look == Look::BetweenPulls && helper.state != State::Current);
            let Some(under_way) = under_way else {
                let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
                let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
                return Ok(Self {
                    connection,
                    path: path.to_owned(),
                    helpers,
                    bytes: pages.saturating_mul(page).unsigned_abs(),
                });
            };
            // What was withdrawn stays so, and what was reset waits for a pull that may not have begun.
            let was_reset = under_way.state == State::Waiting && !under_way.complete;
            if under_way.state == State::Withdrawn || was_reset || Instant::now() >= until {
                let entity = &under_way.entity;
                return Err(Error::PullFirst {
                    reason: match under_way.state {
                        State::Withdrawn => {
                            format!("the server no longer offered {entity} when it was asked last")
                        }
                        _ if was_reset => format!("{entity} was reset"),
                        _ => format!("{entity} is in the middle of a pull"),
                    },
                });
            }
            connection.execute_batch("rollback")?;
            if stop.is_cancelled() {
                return Err(Error::Stopped);
            }
            thread::sleep(PULL_POLL);
        }
    }

    /// The entities that are compared, by name.
    pub(crate) fn helpers(&self) -> &[SyncHelper] {
        &self.helpers
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends what is read at the moment.
    pub(crate) fn interrupt_handle(&self) -> InterruptHandle {
        self.connection.get_interrupt_handle()
    }

    /// The table of an entity.
    pub(crate) fn compared(&self, entity: &EntityName, deep: bool) -> Result<Compared, Error> {
        let table = Table::find(&self.connection, entity, Purpose::Rows)
            .map_err(|error| self.failed(error))?
            .ok_or_else(|| Error::TableMissing {
                entity: entity.clone(),
            })?;
        Ok(Compared::new(table, deep))
    }

    /// Hands every live row of an entity to `each` of whose key's hash `is_wanted` says so, with its key
    /// as a line of `COPY` text that can be asked for.
    pub(crate) fn rows(
        &self,
        entity: &EntityName,
        compared: &Compared,
        mut is_wanted: impl FnMut(u64) -> bool,
        mut each: impl FnMut(RowHashes, &dyn Fn() -> Vec<u8>),
    ) -> Result<(), Error> {
        let mut statement = self.prepare(entity, &compared.select_sql(&compared.table.where_live()))?;
        let mut rows = statement.query([])?;
        let mut texts = Texts::default();
        while let Some(row) = rows.next().map_err(|error| self.failed(error))? {
            let key = compared.key_hash(row, &mut texts)?;
            if is_wanted(key) {
                let digest = compared.digest(key, row, &mut texts)?;
                each(RowHashes { key, digest }, &|| texts.key_line());
            }
        }
        Ok(())
    }

    /// The same of the rows that have one of these keys, lines of `COPY` text, each looked up.
    pub(crate) fn rows_of(
        &self,
        entity: &EntityName,
        compared: &Compared,
        keys: impl Iterator<Item = Result<Vec<u8>, Error>>,
        mut each: impl FnMut(RowHashes, &dyn Fn() -> Vec<u8>),
    ) -> Result<(), Error> {
        let conditions: Vec<String> = compared
            .table
            .key()
            .enumerate()
            .map(|(place, column)| format!("{} = ?{}", quoted(&column.name), place + 1))
            .chain(
                compared
                    .table
                    .keeps_deleted
                    .then(|| format!("{} = 0", deleted_column())),
            )
            .collect();
        let sql = compared.select_sql(&format!(" where {}", conditions.join(" and ")));
        let mut statement = self.prepare(entity, &sql)?;
        let mut texts = Texts::default();
        for key in keys {
            let key = key?;
            for (place, (kind, field)) in compared.key.iter().zip(copy_text::fields(&key)).enumerate() {
                let value = value::read(*kind, field)
                    .map_err(|NotAValue| Error::Malformed(format!("a key of {entity} is none")))?;
                statement.raw_bind_parameter(place + 1, value)?;
            }
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next().map_err(|error| self.failed(error))? {
                let key = compared.key_hash(row, &mut texts)?;
                let digest = compared.digest(key, row, &mut texts)?;
                each(RowHashes { key, digest }, &|| texts.key_line());
            }
        }
        Ok(())
    }

    fn prepare(&self, entity: &EntityName, sql: &str) -> Result<CachedStatement<'_>, Error> {
        self.connection.prepare_cached(sql).map_err(|error| {
            if is_senseless(&error) {
                Error::TableAltered {
                    entity: entity.clone(),
                    source: Box::new(error),
                }
            } else {
                self.failed(error)
            }
        })
    }

    /// The error for a store that cannot be read.
    fn failed(&self, error: impl Into<Error>) -> Error {
        error.into().in_store(&self.path)
    }
}

/// What the store remembers of the entities that are to be compared.
fn chosen(connection: &Connection, wanted: Option<&[EntityName]>) -> Result<Vec<SyncHelper>, Error> {
    let mut helpers = sync_helpers::load(connection)?;
    match wanted {
        // What the server no longer offers cannot be compared with anything.
        None => Ok(helpers
            .into_values()
            .filter(|helper| helper.state != State::Withdrawn)
            .collect()),
        Some(wanted) => wanted
            .iter()
            .map(|entity| {
                helpers.remove(entity).ok_or_else(|| Error::UnknownEntity {
                    entity: entity.clone(),
                })
            })
            .collect(),
    }
}

impl Compared {
    fn new(table: Table, deep: bool) -> Self {
        let is_other = |role| !matches!(role, Some(ColumnRole::Key | ColumnRole::ChangedDate));
        let others: Vec<_> = table
            .columns
            .iter()
            .zip(1..)
            .filter(|(column, _)| deep && is_other(column.role))
            .collect();
        let mut columns = vec![list(table.key(), ""), quoted(table.changed_date())];
        columns.extend(others.iter().map(|(column, _)| quoted(&column.name)));
        Self {
            key: table.key().map(highwater_shared::Column::value_kind).collect(),
            others: others
                .into_iter()
                .map(|(column, place)| (place, column.value_kind()))
                .collect(),
            columns: columns.join(", "),
            table,
        }
    }

    /// Whether it holds rows that were deleted.
    pub(crate) fn keeps_deleted(&self) -> bool {
        self.table.keeps_deleted
    }

    /// Whether the source has the columns that the store has.
    pub(crate) fn has_fingerprint(&self, fingerprint: &str) -> bool {
        self.table.fingerprint == fingerprint
    }

    /// The names of the key's columns and how their values are read, in the order of the key.
    pub(crate) fn key(&self) -> impl Iterator<Item = (&str, ValueKind)> {
        let names = self.table.key().map(|column| column.name.as_str());
        names.zip(self.key.iter().copied())
    }

    fn select_sql(&self, condition: &str) -> String {
        format!(
            "select {} from main.{}{condition}",
            self.columns,
            quoted(&self.table.name)
        )
    }

    fn key_hash(&self, row: &Row<'_>, texts: &mut Texts) -> Result<u64, Error> {
        texts.key.resize_with(self.key.len(), Vec::new);
        for (place, (kind, text)) in self.key.iter().zip(&mut texts.key).enumerate() {
            printed::print(*kind, row.get_ref(place)?, text);
        }
        Ok(key_hash(texts.key.iter().map(Vec::as_slice)))
    }

    fn digest(&self, key: u64, row: &Row<'_>, texts: &mut Texts) -> Result<u64, Error> {
        let date = self.key.len();
        printed::print(ValueKind::TimestampWithZone, row.get_ref(date)?, &mut texts.value);
        let mut digest = date_hash(key, &texts.value);
        for (index, (place, kind)) in self.others.iter().enumerate() {
            if printed::print(*kind, row.get_ref(date + 1 + index)?, &mut texts.value) {
                digest ^= value_hash(key, *place, &texts.value);
            }
        }
        Ok(digest)
    }
}

/// Room for the texts of a row.
#[derive(Debug, Default)]
struct Texts {
    key: Vec<Vec<u8>>,
    value: Vec<u8>,
}

impl Texts {
    fn key_line(&self) -> Vec<u8> {
        let mut line = Vec::new();
        for (place, column) in self.key.iter().enumerate() {
            if place > 0 {
                line.push(b'\t');
            }
            copy_text::escape_into(column, &mut line);
        }
        line
    }
}
