//! Opens the file: takes the writer's lock, and refuses what is not a store of this program.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, MAIN_DB, OpenFlags, TransactionBehavior};

use super::checkpoint::Checkpoint;
use super::{look, schema};
use crate::error::{Error, advice};

/// How long to wait for another program's write to the same file.
pub(super) const BUSY_SECONDS_MAX: u64 = 10;

/// Statements that are kept prepared: a few for each entity of a page.
const STATEMENTS_KEPT_MAX: usize = 128;

/// An open store, and the lock that makes this process its only writer.
#[derive(Debug)]
pub(super) struct OpenStore {
    // Before the connection, which closes the file last.
    pub(super) checkpoint: Checkpoint,
    pub(super) connection: Connection,
    pub(super) place: Place,
    /// Held, never read: the lock ends when the file is closed.
    _lock: File,
}

/// Where a store's file is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// Which file it is, whatever becomes of its name.
    identity: Option<(u64, u64)>,
}

/// Opens the store at `path` for writing; a missing or empty file becomes one.
pub(super) fn open(path: &Path) -> Result<OpenStore, Error> {
    let path = absolute(path)?;
    check(&path)?;
    let lock = lock(&path)?;
    OpenStore::new(path, lock)
}

impl OpenStore {
    fn new(path: PathBuf, lock: File) -> Result<Self, Error> {
        Ok(Self {
            checkpoint: Checkpoint::default(),
            connection: connect(&path)?,
            place: Place {
                identity: identity(&path),
                path,
            },
            _lock: lock,
        })
    }
}

impl Place {
    /// Fails where the file was removed or another put in its place: what is written would be seen by nobody.
    pub(super) fn check(&self) -> Result<(), Error> {
        if identity(&self.path) == self.identity {
            return Ok(());
        }
        Err(refuse(
            &self.path,
            "the file was removed or replaced while it was open; begin again",
        ))
    }
}

/// The place of a store that is not there yet, and the lock on it.
pub(crate) struct Vacant {
    path: PathBuf,
    lock: File,
}

impl Vacant {
    /// The place at `path`; `None` where something is there.
    pub(crate) fn at(path: &Path) -> Result<Option<Self>, Error> {
        let path = absolute(path)?;
        if has_content(&path)? {
            return Ok(None);
        }
        let lock = lock(&path)?;
        // Whoever had the lock before may have made one.
        Ok((!has_content(&path)?).then_some(Self { path, lock }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its lock once more: the place is taken until both are dropped.
    pub(crate) fn hold(&self) -> Result<File, Error> {
        self.lock
            .try_clone()
            .map_err(|error| io_error(&self.path, "its lock file cannot be opened once more", error))
    }

    /// Opens the store that was put here, or makes an empty one.
    pub(super) fn open(self) -> Result<OpenStore, Error> {
        OpenStore::new(self.path, self.lock)
    }
}

/// Refuses a file that is not a store, or cannot be written, before anything is left beside it.
pub(super) fn check(path: &Path) -> Result<(), Error> {
    if !has_content(path)? {
        return Ok(());
    }
    look::at(path, |_| Ok(()))?;
    check_writable(path)
}

/// Refuses a file that cannot be written. Nothing is read, so that SQLite leaves nothing either.
pub(super) fn check_writable(path: &Path) -> Result<(), Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| cannot_open(path, error))?;
    match connection.is_readonly(MAIN_DB) {
        Ok(false) => Ok(()),
        Ok(true) => Err(refuse(
            path,
            "the file is read-only; give this user the right to write it",
        )),
        Err(error) => Err(cannot_open(path, error)),
    }
}

/// Opens the file whose lock is held, and makes it a store of this version.
pub(super) fn connect(path: &Path) -> Result<Connection, Error> {
    let mut connection = Connection::open(path).map_err(|error| cannot_open(path, error))?;
    prepare(&mut connection, path).map_err(|error| error.in_store(path))?;
    Ok(connection)
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), Error> {
    connection.busy_timeout(Duration::from_secs(BUSY_SECONDS_MAX))?;
    // One that reads first and would write then is told at once that somebody else writes, and does not wait.
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    // Again, now that the lock is held and nobody else changes it.
    look::check_ours(connection, path)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT_MAX);
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        schema::choose_pages(connection)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
    }
    connection.pragma_update(None, "synchronous", "normal")?;
    // A foreign key of the user's must never stop the copy from following its source.
    connection.pragma_update(None, "foreign_keys", false)?;
    schema::upgrade(connection)
}

/// The path with its folder resolved, so that one file has one lock however it is named.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    match fs::canonicalize(path) {
        Ok(path) if path.is_dir() => return Err(refuse(&path, "it is a folder; name a file in it")),
        Ok(path) if !path.is_file() => return Err(refuse(&path, "it is a device or a pipe; name a file")),
        Ok(path) => return Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(path, "it cannot be reached", error)),
    }
    // A link to a file that is not there yet: SQLite would make that, and the lock has to be its.
    if let Ok(target) = fs::read_link(path) {
        let folder = path.parent().unwrap_or(Path::new("."));
        return absolute(&folder.join(target));
    }
    let Some(name) = path.file_name() else {
        return Err(refuse(path, "it does not name a file"));
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match fs::canonicalize(folder) {
        Ok(folder) => Ok(folder.join(name)),
        Err(error) => Err(io_error(
            path,
            &format!("the folder {} does not exist; create it first", folder.display()),
            error,
        )),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Whether the file has content; a missing or empty one is to become a store.
fn has_content(path: &Path) -> Result<bool, Error> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len() > 0),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(path, "it cannot be read", error)),
    }
}

/// Takes the lock that makes this process the file's only writer, until it is dropped.
pub(super) fn lock(path: &Path) -> Result<File, Error> {
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

/// Whether a store is there, or was, by what stands beside it.
pub(crate) fn is_store(path: &Path) -> bool {
    beside(path, ".lock").exists()
}

/// The file beside the store that is called like it, with `suffix`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The error for a file that is left as it is.
pub(super) fn refuse(path: &Path, reason: &str) -> Error {
    Error::Open {
        store: path.to_owned(),
        reason: reason.to_owned(),
        source: None,
    }
}

/// The error for a file that the system does not let us have.
pub(super) fn io_error(path: &Path, reason: &str, error: io::Error) -> Error {
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
