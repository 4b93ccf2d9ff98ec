//! The store's own tables, and the ladder that brings an older store up to this version.

use rusqlite::{Connection, TransactionBehavior};

use super::table::object_kind;
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
", "
    -- Cursors that the whole store stood at, the newest last, each with what it covers and what pages have written
    -- after it, up to the next: a line for each row, with the entity and the key as `COPY` text.
    create table highwater_past (
        id integer primary key,
        cursor text not null,
        covers text not null,
        keys text not null default ''
    ) strict;
", "
    -- Whether no row is kept that does not come again: what the caller may see has changed since the rows came.
    alter table sync_helper add column forgets integer not null default 0;
"];

/// The pages of a store's file. A change that stands alone writes a whole one, into the log and then into the
/// file. Half of SQLite's own size makes that cheaper, and a first pull a little dearer.
pub(super) const PAGE_BYTES: i64 = 2048;

/// The store's own tables, each with the version that it came with.
const OWN_TABLES: [(&str, i64); 3] = [("sync_helper", 1), ("highwater_table", 1), ("highwater_past", 2)];

/// The version from which on a SyncHelper row has the column `forgets`.
pub(super) const FORGETS_SINCE: i64 = 3;

/// The version that this program writes.
pub(super) fn newest() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// Chooses the pages of a file that is still empty; others keep theirs.
pub(super) fn choose_pages(connection: &Connection) -> Result<(), Error> {
    Ok(connection.pragma_update(None, "page_size", PAGE_BYTES)?)
}

/// Takes the steps that the store has not taken, all or none.
pub(super) fn upgrade(connection: &mut Connection) -> Result<(), Error> {
    climb(connection, STEPS)
}

fn climb(connection: &mut Connection, steps: &[&str]) -> Result<(), Error> {
    let top = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if version(connection)? == top {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let taken = usize::try_from(version(&transaction)?).unwrap_or(0);
    for step in steps.iter().skip(taken) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", top)?;
    transaction.commit()?;
    Ok(())
}

/// One of the store's own tables that somebody has removed.
pub(super) fn missing_table(connection: &Connection) -> Result<Option<&'static str>, Error> {
    let version = version(connection)?;
    for (table, _) in OWN_TABLES.into_iter().filter(|(_, since)| *since <= version) {
        if object_kind(connection, table)?.as_deref() != Some("table") {
            return Ok(Some(table));
        }
    }
    Ok(None)
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

    /// For each version what a store of it may hold, in every column that came with it.
    const HELD: &[&str] = &["
        insert into sync_helper values
            ('product', '2026-11-22T10:00:00.000000Z', 'c1', 'current', 1, '[\"product\"]', 7, 3, 's', '2026-11-22T10:00:01.000000Z'),
            ('tax', '1970-01-01T00:00:00Z', null, 'waiting', 0, '[]', 0, 0, null, null);
        insert into highwater_table values
            ('product', 'product', 'rows', '[]', 'f1', 1), ('highwater_renew_1', 'product', 'renewal', '[]', 'f2', 0);
        create table product (id integer primary key, name text) strict;
        insert into product values (1, 'Chair'), (2, 'Table');
        create table mine (note text); insert into mine values ('kept');
        create view names as select name from product;
    ", "
        insert into highwater_past values (4, 'c0', '[\"product\"]', 'product\t1\n'), (5, 'c1', '[]', '');
    ", "
        update sync_helper set forgets = 1 where entity = 'tax';
    "];

    /// Steps that a later version might take.
    const LATER: [&str; 2] = [
        "alter table sync_helper add column seed text; create index by_state on sync_helper (state)",
        "create table sync_log (what text) strict; insert into sync_log select entity from sync_helper",
    ];

    fn with_later<'a>(later: &[&'a str]) -> Vec<&'a str> {
        STEPS.iter().chain(later).copied().collect()
    }

    /// A store as the version that takes these steps leaves it, with all that it may hold.
    fn held_by(version: usize, steps: &[&str]) -> Connection {
        let mut store = Connection::open_in_memory().expect("memory");
        for taken in 1..=version {
            climb(&mut store, &steps[..taken]).expect("steps");
            store.execute_batch(HELD[taken - 1]).expect("content");
        }
        store
    }

    fn texts(connection: &Connection, sql: &str) -> Vec<String> {
        let mut statement = connection.prepare(sql).expect(sql);
        let rows = statement.query_map([], |row| row.get(0)).expect(sql);
        rows.map(|row| row.expect(sql)).collect()
    }

    fn schema(connection: &Connection) -> Vec<String> {
        texts(
            connection,
            "select type || ' ' || name || coalesce(sql, '') from sqlite_schema order by type, name",
        )
    }

    /// Every value of some tables, in the columns that are named.
    fn values(connection: &Connection, columns: &[(String, String)]) -> Vec<String> {
        columns
            .iter()
            .flat_map(|(table, column)| {
                let sql = format!(
                    "select '{table}.{column}=' || coalesce(\"{column}\", 'null') from \"{table}\" order by 1"
                );
                texts(connection, &sql)
            })
            .collect()
    }

    fn columns(connection: &Connection) -> Vec<(String, String)> {
        let tables = texts(
            connection,
            "select name from sqlite_schema where type in ('table', 'view')",
        );
        let of = |table: String| {
            let sql = format!("select name from pragma_table_info('{table}')");
            let columns = texts(connection, &sql).into_iter();
            columns.map(|column| (table.clone(), column)).collect::<Vec<_>>()
        };
        tables.into_iter().flat_map(of).collect()
    }

    #[test]
    fn every_version_has_content_to_be_tested_with() {
        assert_eq!(HELD.len(), STEPS.len());
    }

    #[test]
    fn a_store_upgraded_from_any_version_equals_a_fresh_one() {
        for later in 0..=LATER.len() {
            let steps = with_later(&LATER[..later]);
            let mut fresh = Connection::open_in_memory().expect("memory");
            climb(&mut fresh, &steps).expect("steps");
            for taken in 0..=steps.len() {
                let mut old = Connection::open_in_memory().expect("memory");
                climb(&mut old, &steps[..taken]).expect("steps");
                climb(&mut old, &steps).expect("an upgrade");
                assert_eq!(schema(&old), schema(&fresh), "from version {taken}");
                let reached = usize::try_from(version(&old).expect("version"));
                assert_eq!(reached, Ok(steps.len()), "from version {taken}");
                assert_eq!(application(&old).expect("id"), APPLICATION_ID);
            }
        }
    }

    #[test]
    fn an_upgrade_keeps_what_the_store_holds() {
        let steps = with_later(&LATER);
        for version in 1..=STEPS.len() {
            let mut store = held_by(version, &steps);
            let columns = columns(&store);
            let before = values(&store, &columns);
            assert!(before.contains(&"mine.note=kept".to_owned()), "{before:?}");
            climb(&mut store, &steps).expect("an upgrade");
            assert_eq!(values(&store, &columns), before, "from version {version}");
            // A later step may fill what is new from what is there.
            let log = texts(&store, "select what from sync_log order by what");
            assert_eq!(log, ["product", "tax"]);
        }
    }

    #[test]
    fn an_upgrade_that_fails_leaves_the_store_as_it_was() {
        let steps = with_later(&[LATER[0], "insert into nowhere values (1)"]);
        for taken in 0..=STEPS.len() {
            let mut store = held_by(taken, &steps);
            let (columns, before) = (columns(&store), schema(&store));
            let held = values(&store, &columns);
            let stood = (
                version(&store).expect("version"),
                application(&store).expect("id"),
            );
            climb(&mut store, &steps).expect_err("a step that fails");
            assert_eq!(schema(&store), before);
            assert_eq!(values(&store, &columns), held);
            let stands = (
                version(&store).expect("version"),
                application(&store).expect("id"),
            );
            assert_eq!(stands, stood);
        }
    }

    #[test]
    fn an_upgrade_happens_once() {
        let mut store = held_by(STEPS.len(), STEPS);
        let changes: i64 = store.total_changes().try_into().expect("small");
        upgrade(&mut store).expect("again");
        assert_eq!(i64::try_from(store.total_changes()), Ok(changes));
        assert_eq!(missing_table(&store).expect("a look"), None);
    }
}
