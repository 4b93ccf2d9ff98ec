//! Looks into a file beside its writer, and leaves no trace: neither in the file nor beside it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::head::{self, HEADER_BYTES, Owner};
use super::open::{BUSY_SECONDS_MAX, absolute, beside, io_error, refuse};
use super::schema;
use crate::error::{Error, is_damage};

/// Runs `read` on the file at `path`, once it is known to be a store that this version can read.
///
/// `read` may run twice, where somebody begins to write meanwhile.
pub(super) fn at<T>(path: &Path, read: impl Fn(&Connection) -> Result<T, Error>) -> Result<T, Error> {
    let path = absolute(path)?;
    match fs::metadata(&path) {
        Ok(metadata) if metadata.len() == 0 => {
            let reason = "it is empty; `highwater pull` makes a store of it";
            return Err(refuse(&path, reason));
        }
        // SQLite would take a file of one byte for an empty database.
        Ok(metadata) if metadata.len() < HEADER_BYTES as u64 && settled(&path).is_some() => {
            let cut = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
            return Err(damaged(&path, rusqlite::Error::SqliteFailure(cut, None)));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let reason = "there is no such file; `highwater pull` makes it";
            return Err(io_error(&path, reason, error));
        }
        Err(error) => return Err(io_error(&path, "it cannot be read", error)),
    }
    match read_somehow(&path, &read) {
        Err(Error::Sqlite(error)) if is_damage(&error) => Err(damaged(&path, *error)),
        other => other.map_err(|error| error.in_store(&path)),
    }
}

/// Refuses a database of another program, a store of a newer version, and what is left of a store.
pub(super) fn check_ours(connection: &Connection, path: &Path) -> Result<(), Error> {
    let application = schema::application(connection)?;
    let version = schema::version(connection)?;
    let objects: i64 = connection.query_row("select count(*) from sqlite_schema", [], |row| row.get(0))?;
    if application != schema::APPLICATION_ID {
        return if application == 0 && version == 0 && objects == 0 {
            Ok(())
        } else {
            Err(another_program(path))
        };
    }
    if version > schema::newest() {
        return Err(newer(path, version));
    }
    match schema::missing_table(connection)? {
        None => Ok(()),
        Some(table) => Err(Error::Damaged {
            store: path.to_owned(),
            reason: format!("its table {table} is missing"),
            source: None,
        }),
    }
}

fn read_somehow<T>(path: &Path, read: &impl Fn(&Connection) -> Result<T, Error>) -> Result<T, Error> {
    let read_with = |connection: Connection| {
        connection.busy_timeout(Duration::from_secs(BUSY_SECONDS_MAX))?;
        check_ours(&connection, path)?;
        match read(&connection) {
            // Whose file it is, is known, so that nobody has to open it again to find out: where this process writes to it,
            // that would cost it its locks.
            Err(Error::Sqlite(error)) if is_damage(&error) => Err(Error::Sqlite(error).in_store(path)),
            looked => looked,
        }
    };
    if let Some(stamp) = settled(path) {
        let looked = immutable(path).and_then(read_with);
        if settled(path) == Some(stamp) {
            return looked;
        }
    }
    match Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(Error::from)
        .and_then(read_with)
    {
        Err(Error::Sqlite(error)) => match error.sqlite_error_code() {
            // Its writer was killed at an instant that leaves SQLite something to take back first,
            // which any connection may do that is allowed to write.
            Some(ErrorCode::ReadOnly) => read_with(Connection::open_with_flags(
                path,
                OpenFlags::SQLITE_OPEN_READ_WRITE,
            )?),
            // There is no room for the index of the log that readers share.
            Some(ErrorCode::SystemIoFailure) => read_with(alone(path)?),
            _ => Err(Error::Sqlite(error)),
        },
        looked => looked,
    }
}

/// What tells whether the file was written, where all that it holds is in the file itself.
fn settled(path: &Path) -> Option<(u64, Option<SystemTime>)> {
    let has_content = |suffix: &str| fs::metadata(beside(path, suffix)).is_ok_and(|file| file.len() > 0);
    if has_content("-wal") || has_content("-journal") {
        return None;
    }
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()))
}

/// Opens a file that nobody writes to. SQLite then makes no file beside it, and needs no right to.
fn immutable(path: &Path) -> Result<Connection, Error> {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            // A string takes whatever is written to it.
            byte => drop(write!(uri, "%{byte:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Ok(Connection::open_with_flags(OsString::from(uri), flags)?)
}

/// Opens a file with its log, as the only one to do so, and leaves both as they are.
fn alone(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "locking_mode", "exclusive")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

fn damaged(path: &Path, error: rusqlite::Error) -> Error {
    match head::owner(path) {
        Ok(Owner::Us) => Error::Sqlite(Box::new(error)).in_store(path),
        Ok(Owner::Newer(version)) => newer(path, version),
        Ok(Owner::Another) => another_program(path),
        Ok(Owner::Nobody) => refuse(
            path,
            "it is not an SQLite database; nothing was changed; choose another file",
        ),
        Err(error) => error,
    }
}

fn another_program(path: &Path) -> Error {
    refuse(
        path,
        "it is a database of another program; nothing was changed; choose another file",
    )
}

fn newer(path: &Path, version: i64) -> Error {
    let known = schema::newest();
    refuse(
        path,
        &format!(
            "it was written by a newer highwater (store version {version}, this one knows {known}); nothing was changed; install a newer highwater"
        ),
    )
}
