//! Opens the file: takes the writer's lock, and refuses what is not a store of this program.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema;
use crate::error::{Cause, Error, advice};

/// How long to wait for another program's write to the same file.
const BUSY_SECONDS_MAX: u64 = 10;

/// Statements that are kept prepared: a few for each entity of a page.
const STATEMENTS_KEPT_MAX: usize = 128;

/// What every SQLite database begins with.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// An open store, and the lock that makes this process its only writer.
#[derive(Debug)]
pub(super) struct OpenStore {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    /// Held, never read: the lock ends when the file is closed.
    _lock: File,
}

/// Opens the store at `path` for writing; a missing or empty file becomes one.
pub(super) fn open(path: &Path) -> Result<OpenStore, Error> {
    let path = absolute(path)?;
    // Looked at first, so that a file which is refused is not touched, nor a lock left beside it.
    if has_content(&path)? {
        drop(open_read_only(&path)?);
    }
    let lock = lock(&path)?;
    let mut connection = Connection::open(&path).map_err(|error| cannot_open(&path, error))?;
    prepare(&mut connection, &path).map_err(|error| error.in_store(&path))?;
    Ok(OpenStore {
        connection,
        path,
        _lock: lock,
    })
}

/// Opens an existing store for reading, beside a writer if there is one.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, Error> {
    let path = absolute(path)?;
    check_magic(&path)?;
    let open = |flags| -> Result<Connection, Error> {
        let connection = Connection::open_with_flags(&path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(Duration::from_secs(BUSY_SECONDS_MAX))?;
        check_ours(&connection, &path)?;
        Ok(connection)
    };
    let opened = match open(OpenFlags::SQLITE_OPEN_READ_ONLY) {
        // Its writer was killed at an instant that leaves SQLite something to take back first,
        // which any connection may do that is allowed to write.
        Err(Error::Sqlite(error)) if error.sqlite_error_code() == Some(ErrorCode::ReadOnly) => {
            open(OpenFlags::SQLITE_OPEN_READ_WRITE)
        }
        opened => opened,
    };
    opened.map_err(|error| error.in_store(&path))
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), Error> {
    connection.busy_timeout(Duration::from_secs(BUSY_SECONDS_MAX))?;
    // Again, now that the lock is held and nobody else changes it.
    check_ours(connection, path)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT_MAX);
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        connection.pragma_update(None, "journal_mode", "wal")?;
    }
    connection.pragma_update(None, "synchronous", "normal")?;
    // A foreign key of the user's must never stop the copy from following its source.
    connection.pragma_update(None, "foreign_keys", false)?;
    schema::upgrade(connection)
}

/// The path with its folder resolved, so that one file has one lock however it is named.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let refuse = |reason: String, source: Option<Cause>| Error::Open {
        store: path.to_owned(),
        reason,
        source,
    };
    match fs::canonicalize(path) {
        Ok(path) if path.is_dir() => {
            return Err(refuse("it is a folder; name a file in it".to_owned(), None));
        }
        Ok(path) => return Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(refuse(error.to_string(), Some(Box::new(error)))),
    }
    let Some(name) = path.file_name() else {
        return Err(refuse("it does not name a file".to_owned(), None));
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match fs::canonicalize(folder) {
        Ok(folder) => Ok(folder.join(name)),
        Err(error) => Err(refuse(
            format!("the folder {} does not exist; create it first", folder.display()),
            Some(Box::new(error)),
        )),
    }
}

/// Whether the file has content; a missing or empty one is to become a store.
fn has_content(path: &Path) -> Result<bool, Error> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len() > 0),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(path, "it cannot be read", error)),
    }
}

fn check_magic(path: &Path) -> Result<(), Error> {
    let mut head = Vec::with_capacity(SQLITE_MAGIC.len());
    File::open(path)
        .and_then(|file| file.take(SQLITE_MAGIC.len() as u64).read_to_end(&mut head))
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => io_error(path, "there is no such file; `highwater pull` makes it", error),
            _ => io_error(path, "it cannot be read", error),
        })?;
    // With a journal beside it, what the file holds is only what SQLite makes of the two.
    if head == SQLITE_MAGIC || beside(path, "-journal").exists() {
        return Ok(());
    }
    Err(Error::Open {
        store: path.to_owned(),
        reason: if head.is_empty() {
            "it is empty; `highwater pull` makes a store of it".to_owned()
        } else {
            "it is not an SQLite database; nothing was changed; choose another file".to_owned()
        },
        source: None,
    })
}

/// Refuses a database of another program, and a store of a newer version.
fn check_ours(connection: &Connection, path: &Path) -> Result<(), Error> {
    let refuse = |reason: String| Error::Open {
        store: path.to_owned(),
        reason,
        source: None,
    };
    let application = schema::application(connection)?;
    let objects: i64 = connection.query_row("select count(*) from sqlite_schema", [], |row| row.get(0))?;
    if application != schema::APPLICATION_ID && (application != 0 || objects > 0) {
        return Err(refuse(
            "it is a database of another program; nothing was changed; choose another file".to_owned(),
        ));
    }
    let version = schema::version(connection)?;
    if application == schema::APPLICATION_ID && version > schema::newest() {
        return Err(refuse(format!(
            "it was written by a newer highwater (store version {version}, this one knows {}); nothing was changed; install a newer highwater",
            schema::newest()
        )));
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, Error> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(beside(path, ".lock"))
        .map_err(|error| {
            let reason = match error.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    "its folder is read-only; give this user the right to write there"
                }
                ErrorKind::StorageFull => "the disk is full; make room first",
                _ => "its lock file cannot be made",
            };
            io_error(path, reason, error)
        })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            store: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(io_error(path, "its lock file cannot be locked", error)),
    }
}

/// The file beside the store that is called like it, with `suffix`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn io_error(path: &Path, reason: &str, error: io::Error) -> Error {
    Error::Open {
        store: path.to_owned(),
        reason: format!("{reason} ({error})"),
        source: Some(Box::new(error)),
    }
}

fn cannot_open(path: &Path, error: rusqlite::Error) -> Error {
    Error::Open {
        store: path.to_owned(),
        reason: advice(&error),
        source: Some(Box::new(error)),
    }
}
