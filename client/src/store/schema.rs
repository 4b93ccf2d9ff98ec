//! The store's own tables, and the ladder that brings an older store up to this version.

use rusqlite::{Connection, TransactionBehavior};

use crate::error::Error;

/// Marks a file as a Highwater store: `HiWa`.
pub(super) const APPLICATION_ID: i32 = 0x4869_5761;

/// One step for each version; `user_version` counts those that were taken. A step that was
/// released is never changed again.
const STEPS: &[&str] = &["
    -- Never synchronised. A missing row means that the entity was never pulled, or was reset.
    create table sync_helper (
        entity text not null primary key,
        last_sync_date text not null default '1970-01-01T00:00:00Z',
        cursor text,
        state text not null default 'waiting',
        complete integer not null default 0,
        covers text not null default '[]',
        sequence integer not null default 0,
        began integer not null default 0,
        source text,
        pulled_at text
    ) strict;

    -- The tables that are Highwater's, so that one of the user's is never taken for one. They
    -- outlive their SyncHelper row: a reset keeps the table, and the indexes on it.
    create table highwater_table (
        name text not null primary key,
        entity text not null,
        -- 'rows', or 'renewal' for the hidden table that an entity begins anew in.
        purpose text not null,
        columns text not null,
        fingerprint text not null,
        keeps_deleted integer not null default 0,
        unique (entity, purpose)
    ) strict;
"];

/// The version that this program writes.
pub(super) fn newest() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// Takes the steps that the store has not taken, all or none.
pub(super) fn upgrade(connection: &mut Connection) -> Result<(), Error> {
    if version(connection)? == newest() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let taken = usize::try_from(version(&transaction)?).unwrap_or(0);
    for step in STEPS.iter().skip(taken) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", newest())?;
    transaction.commit()?;
    Ok(())
}

/// The version of the store in a file; 0 for an empty one.
pub(super) fn version(connection: &Connection) -> Result<i64, Error> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// The program that the file says it belongs to; 0 for none.
pub(super) fn application(connection: &Connection) -> Result<i32, Error> {
    Ok(connection.pragma_query_value(None, "application_id", |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(connection: &Connection) -> Vec<(String, String)> {
        connection
            .prepare("select name, coalesce(sql, '') from sqlite_schema order by name")
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect()
            })
            .expect("a schema")
    }

    #[test]
    fn a_store_upgraded_from_any_version_equals_a_fresh_one() {
        let mut fresh = Connection::open_in_memory().expect("memory");
        upgrade(&mut fresh).expect("upgrade");
        for taken in 0..=STEPS.len() {
            let mut old = Connection::open_in_memory().expect("memory");
            for step in &STEPS[..taken] {
                old.execute_batch(step).expect("step");
            }
            old.pragma_update(None, "user_version", i64::try_from(taken).expect("small"))
                .expect("pragma");
            upgrade(&mut old).expect("upgrade");
            assert_eq!(schema(&old), schema(&fresh), "from version {taken}");
            assert_eq!(version(&old).expect("version"), newest());
        }
    }

    #[test]
    fn an_upgrade_happens_once() {
        let mut store = Connection::open_in_memory().expect("memory");
        upgrade(&mut store).expect("upgrade");
        upgrade(&mut store).expect("again");
        assert_eq!(application(&store).expect("id"), APPLICATION_ID);
    }
}
