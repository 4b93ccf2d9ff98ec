//! A store's file as part of a seed: written from a store that is in use, checked, and put in the
//! place of one that is not there yet.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use highwater_shared::{EntityName, Timestamp};
use rusqlite::{Connection, OpenFlags, params};

use super::open::{self, beside, io_error, refuse};
use super::table::{Purpose, Table};
use super::table_sql::{list, quoted};
use super::{look, schema, sync_helpers};
use crate::error::Error;
use crate::sync_helper::{SourceId, State, SyncHelper};

/// How long to wait for a pull that is under way in the store.
const PULL_SECONDS_MAX: u64 = 30;

/// How often to look whether it has ended.
const PULL_POLL: Duration = Duration::from_millis(100);

/// What a store's file in a seed holds.
pub(crate) struct ImageContents {
    pub(crate) source: SourceId,
    pub(crate) pulled_at: Option<Timestamp>,
    pub(crate) entities: Vec<(EntityName, u64)>,
}

/// Writes the entities of the store at `store`, as one transaction sees them, to the new file
/// `image`: tables, rows and SyncHelper rows, nothing of the user's.
pub(crate) fn write_image(store: &Path, image: &Path) -> Result<ImageContents, Error> {
    let store = open::absolute(store)?;
    look::at(&store, |_| Ok(()))?;
    let written = || -> Result<ImageContents, Error> {
        let mut empty = Connection::open(image)?;
        schema::choose_pages(&empty)?;
        schema::upgrade(&mut empty)?;
        drop(empty);
        let connection = Connection::open_with_flags(
            &store,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(Duration::from_secs(open::BUSY_SECONDS_MAX))?;
        connection.execute("attach ?1 as image", [image.to_string_lossy()])?;
        // It is thrown away where this fails.
        connection.execute_batch("pragma image.journal_mode = off; pragma image.synchronous = off")?;
        let until = Instant::now() + Duration::from_secs(PULL_SECONDS_MAX);
        loop {
            let transaction = connection.unchecked_transaction()?;
            let helpers = standing(&transaction)?;
            if helpers.iter().all(|helper| helper.state == State::Current) {
                let contents = copy(&transaction, &helpers, &store)?;
                transaction.commit()?;
                return Ok(contents);
            }
            drop(transaction);
            if Instant::now() >= until {
                return Err(refuse(
                    &store,
                    "it is in the middle of a pull; try again when that has ended",
                ));
            }
            thread::sleep(PULL_POLL);
        }
    };
    written().map_err(|error| error.in_store(&store))
}

/// The entities that go into a seed.
fn standing(connection: &Connection) -> Result<Vec<SyncHelper>, Error> {
    let helpers = sync_helpers::load(connection)?.into_values();
    Ok(helpers
        .filter(|helper| helper.state != State::Withdrawn)
        .collect())
}

fn copy(connection: &Connection, helpers: &[SyncHelper], store: &Path) -> Result<ImageContents, Error> {
    let Some(source) = helpers.iter().find_map(|helper| helper.source.clone()) else {
        return Err(refuse(
            store,
            "nothing was pulled into it yet; a seed would be empty",
        ));
    };
    let mut entities = Vec::new();
    for helper in helpers {
        let entity = &helper.entity;
        let table = Table::find(connection, entity, Purpose::Rows)?.ok_or_else(|| Error::TableMissing {
            entity: entity.clone(),
        })?;
        entities.push((entity.clone(), copy_table(connection, entity, &table)?));
        connection.execute(
            "insert into image.sync_helper select * from main.sync_helper where entity = ?1",
            [entity.as_str()],
        )?;
    }
    Ok(ImageContents {
        source,
        pulled_at: helpers.iter().filter_map(|helper| helper.pulled_at).min(),
        entities,
    })
}

fn copy_table(connection: &Connection, entity: &EntityName, table: &Table) -> Result<u64, Error> {
    // Whether deleted rows are kept is for each device to say.
    let plain = Table {
        keeps_deleted: false,
        ..table.clone()
    };
    connection.execute_batch(&plain.create_sql("image", &plain.name))?;
    connection.execute(
        "insert into image.highwater_table (name, entity, purpose, columns, fingerprint, keeps_deleted)
         select name, entity, purpose, columns, fingerprint, 0 from main.highwater_table where entity = ?1 and purpose = ?2",
        params![entity.as_str(), Purpose::Rows.as_str()],
    )?;
    let columns = list(table.columns.iter(), "");
    let rows = connection.execute(
        &format!(
            "insert into image.{0} ({columns}) select {columns} from main.{0}{live} order by {key}",
            quoted(&table.name),
            live = table.where_live(),
            key = list(table.key(), "")
        ),
        [],
    )?;
    Ok(rows as u64)
}

/// Says why the file `image`, which came with a seed, is not what [`write_image`] writes. It comes
/// from elsewhere, and a view or trigger in it could do anything.
pub(crate) fn check_image(image: &Path) -> Result<(), String> {
    let found = || -> Result<Option<String>, Error> {
        let mut connection = Connection::open(image)?;
        if schema::application(&connection)? != schema::APPLICATION_ID {
            return Ok(Some("it does not hold a store".to_owned()));
        }
        if schema::version(&connection)? > schema::newest() {
            return Ok(Some("it was written by a newer highwater".to_owned()));
        }
        schema::upgrade(&mut connection)?;
        let mut expected = objects(&{
            let mut fresh = Connection::open_in_memory()?;
            schema::upgrade(&mut fresh)?;
            fresh
        })?;
        for entity in super::table::entities(&connection)? {
            let Some(table) = Table::find(&connection, &entity, Purpose::Rows)? else {
                continue;
            };
            let sql = table.create_sql("image", &table.name);
            // SQLite keeps the statement from the name on.
            let sql = sql.strip_prefix("create table image.").unwrap_or(&sql);
            expected.push(("table".to_owned(), table.name, format!("CREATE TABLE {sql}")));
        }
        expected.sort_unstable();
        Ok((objects(&connection)? != expected)
            .then(|| "it holds other tables than those of its entities".to_owned()))
    };
    match found() {
        Ok(None) => Ok(()),
        Ok(Some(reason)) => Err(reason),
        Err(error) => Err(format!("it cannot be opened ({error})")),
    }
}

fn objects(connection: &Connection) -> Result<Vec<(String, String, String)>, Error> {
    let mut statement = connection
        .prepare("select type, name, sql from sqlite_schema where sql is not null order by 1, 2, 3")?;
    let objects = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(objects.collect::<rusqlite::Result<_>>()?)
}

/// What SQLite keeps beside a file that is open, and leaves there when its process is killed.
const LEFT_BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// A store beside its place. What is left of it goes with this value.
pub(crate) struct SeedImage(PathBuf);

impl SeedImage {
    /// For the store at `store`. One that was left behind is removed.
    pub(crate) fn new(store: &Path) -> Self {
        let image = Self(beside(store, ".seeding"));
        image.remove();
        image
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Puts it in its place. Nothing may have it open.
    pub(crate) fn install(self, store: &Path) -> Result<(), Error> {
        if beside(&self.0, "-wal").exists() {
            return Err(refuse(&self.0, "another program has it open"));
        }
        let put = || {
            // On disk before it has its name: a crash must not leave a name without rows.
            File::open(&self.0)?.sync_all()?;
            // What a store that was removed has left behind would be taken for the log of this one.
            for suffix in LEFT_BESIDE {
                match fs::remove_file(beside(store, suffix)) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&self.0, store)?;
            store
                .parent()
                .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        put().map_err(|error| {
            io_error(
                store,
                "the store that was made of the seed cannot be put there",
                error,
            )
        })
    }

    fn remove(&self) {
        for suffix in LEFT_BESIDE.into_iter().chain(["", ".lock"]) {
            let _ = fs::remove_file(beside(&self.0, suffix));
        }
    }
}

impl Drop for SeedImage {
    fn drop(&mut self) {
        self.remove();
    }
}
