//! A reset where the disk is full, so that SQLite cannot even write down what it is about to do.
//!
//! Only the SyncHelper rows go, which takes a page or two. The rows stay until the next pull, which
//! needs room anyway.

use std::fs;
use std::path::Path;
use std::time::Duration;

use highwater_shared::EntityName;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::open::{BUSY_SECONDS_MAX, beside};
use super::reset::{Reset, choose};
use super::{schema, sync_helpers};
use crate::error::Error;

/// Forgets how far entities are (all, where none are named).
pub(super) fn forget(path: &Path, entities: &[EntityName]) -> Result<Reset, Error> {
    if fs::metadata(path).is_ok_and(|file| file.len() == 0) {
        return Ok(Reset::default());
    }
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(Duration::from_secs(BUSY_SECONDS_MAX))?;
    connection.pragma_update(None, "locking_mode", "exclusive")?;
    drop(connection.transaction_with_behavior(TransactionBehavior::Immediate)?);
    // From here on the file is open nowhere else. The index that readers of the log share is not
    // needed then, and gives its room to the log. Where there is none, it cannot be removed.
    let _ = fs::remove_file(beside(path, "-shm"));
    match forget_with(&mut connection, entities) {
        // Without a log, pages are written in place. What would take them back is in memory only,
        // so they are as few as can be.
        Err(error) if error.is_full() => {
            connection.pragma_update(None, "journal_mode", "memory")?;
            forget_with(&mut connection, entities)
        }
        done => done,
    }
}

fn forget_with(connection: &mut Connection, entities: &[EntityName]) -> Result<Reset, Error> {
    let transaction = connection.transaction()?;
    if schema::version(&transaction)? == 0 {
        // There was not even room to make it a store.
        return Ok(Reset::default());
    }
    let chosen = choose(&transaction, entities)?;
    for entity in &chosen {
        sync_helpers::delete(&transaction, entity)?;
    }
    transaction.commit()?;
    Ok(Reset {
        entities: chosen,
        rows_stay: true,
        ..Reset::default()
    })
}
