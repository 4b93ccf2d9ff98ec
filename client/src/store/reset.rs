//! Makes the next pull a full one, whatever has become of the store.
//!
//! Where SQLite can do it, the rows go and the tables stay. A damaged file is moved aside, since
//! tables of the user's may be in it that exist nowhere else; nothing is deleted.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use highwater_shared::EntityName;
use rusqlite::Connection;

use super::open::{self, beside, io_error};
use super::{no_room, past, sync_helpers, table};
use crate::error::Error;
use crate::sync_helper::{State, SyncHelper};

/// What SQLite says before faults in the structure of the file. Without it, it speaks of rows
/// that do not keep to a constraint of their table, which is for the user to judge.
const STRUCTURE: &str = "*** in database";

/// What a reset did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reset {
    /// The entities that were reset, by name.
    pub entities: Vec<EntityName>,
    /// Indexes, triggers and columns of the user's that did not fit a table which had to be made
    /// anew, and are gone.
    pub dropped: Vec<String>,
    /// Views of the user's that could be read before that, and no longer can. They are kept.
    pub broken: Vec<String>,
    /// Whether there was no room on the disk to remove rows, so that the next pull does it.
    pub rows_stay: bool,
    /// Where the file was moved, if it was damaged; an empty store is in its place.
    pub moved_to: Option<PathBuf>,
}

/// Removes the rows of the entities (of all, where none are named) from the store at `path`, so
/// that their next pull is a full one.
///
/// As [`Store::reset`](super::Store::reset), and where that cannot be: a damaged file is moved
/// aside if no entities are named, and on a full disk the rows stay until the next pull.
pub fn reset(path: impl AsRef<Path>, entities: &[EntityName]) -> Result<Reset, Error> {
    let path = open::absolute(path.as_ref())?;
    if !path.exists() {
        // None is made for that.
        return match entities.first() {
            Some(entity) => Err(Error::UnknownEntity {
                entity: entity.clone(),
            }),
            None => Ok(Reset::default()),
        };
    }
    match open::check(&path) {
        Ok(()) | Err(Error::Damaged { .. }) => {}
        Err(error) => return Err(error),
    }
    let _lock = open::lock(&path)?;
    let done = open::connect(&path).and_then(|mut connection| in_place(&mut connection, entities));
    match done.map_err(|error| error.in_store(&path)) {
        Err(Error::Damaged { .. }) if entities.is_empty() => begin_anew(&path),
        Err(error) if error.is_full() => {
            no_room::forget(&path, entities).map_err(|error| error.in_store(&path))
        }
        done => done,
    }
}

/// Resets entities in one transaction, and finds damage that would meet the next pull.
pub(super) fn in_place(connection: &mut Connection, entities: &[EntityName]) -> Result<Reset, Error> {
    let transaction = connection.transaction()?;
    let before = sync_helpers::load(&transaction)?;
    let mut reset = Reset {
        entities: choose(&transaction, entities)?,
        ..Reset::default()
    };
    for entity in &reset.entities {
        let renewed = table::reset(&transaction, entity)?;
        reset.dropped.extend(renewed.dropped);
        reset.broken.extend(renewed.broken);
        sync_helpers::delete(&transaction, entity)?;
        // Beside others that stand at a cut, an empty table is to be told from one that has no rows.
        let is_offered = before
            .get(entity)
            .is_some_and(|helper| helper.state != State::Withdrawn);
        if is_offered && reset.entities.len() < before.len() {
            sync_helpers::save(&transaction, &SyncHelper::missing(entity.clone()))?;
        }
    }
    past::forget(&transaction)?;
    check_structure(&transaction)?;
    transaction.commit()?;
    Ok(reset)
}

/// The entities to reset: those that are named, or all that the store has heard of.
pub(super) fn choose(connection: &Connection, named: &[EntityName]) -> Result<Vec<EntityName>, Error> {
    let mut known: Vec<EntityName> = sync_helpers::load(connection)?.into_keys().collect();
    known.extend(table::entities(connection)?);
    known.sort_unstable();
    known.dedup();
    if named.is_empty() {
        return Ok(known);
    }
    match named.iter().find(|entity| !known.contains(entity)) {
        Some(unknown) => Err(Error::UnknownEntity {
            entity: unknown.clone(),
        }),
        None => Ok(named.to_vec()),
    }
}

fn check_structure(connection: &Connection) -> Result<(), Error> {
    let mut statement = match connection.prepare("pragma quick_check") {
        // A constraint of the user's may need a function that only his program has.
        Err(error) if table::is_senseless(&error) => return Ok(()),
        prepared => prepared?,
    };
    let mut faults = statement.query([])?;
    while let Some(fault) = faults.next()? {
        let fault: String = fault.get(0)?;
        if fault.starts_with(STRUCTURE) {
            let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            let fault = fault.lines().nth(1).unwrap_or_default().to_owned();
            return Err(rusqlite::Error::SqliteFailure(corrupt, Some(fault)).into());
        }
    }
    Ok(())
}

/// Moves the file aside, and puts an empty store into its place.
fn begin_anew(path: &Path) -> Result<Reset, Error> {
    let moved_to = move_aside(path)?;
    if let Err(error) = open::connect(path) {
        // A missing file is as good: the next pull makes it, and says what is in its way.
        tracing::debug!(%error, "the empty store could not be made yet");
    }
    Ok(Reset {
        moved_to: Some(moved_to),
        ..Reset::default()
    })
}

/// Moves the file with its logs to a name that is free, and returns that.
fn move_aside(path: &Path) -> Result<PathBuf, Error> {
    // The file itself goes last: while it is there, SQLite takes its log for no other's.
    const PARTS: [&str; 4] = ["-journal", "-wal", "-shm", ""];
    let is_taken = |target: &Path| {
        let is_there = |path: &Path, part: &str| beside(path, part).exists();
        PARTS
            .iter()
            .any(|part| is_there(path, part) && is_there(target, part))
    };
    let mut target = beside(path, ".damaged");
    let mut number: u32 = 1;
    while is_taken(&target) {
        number += 1;
        target = beside(path, &format!(".damaged-{number}"));
    }
    for part in PARTS {
        match fs::rename(beside(path, part), beside(&target, part)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(io_error(path, "it is damaged, and cannot be moved aside", error));
            }
            _ => {}
        }
    }
    Ok(target)
}
