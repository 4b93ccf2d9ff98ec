//! The end of a renewal: the rows of the hidden table become the entity's, all at once.
//!
//! Rows that are the same stay untouched, so that a renewal costs readers, triggers and backups
//! of the file no more than what differs. Only where the columns changed is the table replaced,
//! and the user's indexes and triggers are made again on the new one. Those that no longer make
//! sense are dropped, since they would stand in the way of every page; views stay as they are.

use highwater_shared::block::BLOCK_VERSION;
use highwater_shared::{BlockHeader, BlockKind, Column, ColumnRole, EntityName};
use rusqlite::{Connection, params};

use super::objects;
use super::status;
use super::table::{Purpose, Table};
use super::table_sql::{deleted_column, list, quoted};
use super::unique_index;
use super::views::Views;
use crate::error::Error;

/// What a renewal changed for readers.
#[derive(Debug, Default)]
pub(super) struct Renewed {
    pub(super) upserts: u64,
    pub(super) deletes: u64,
    /// Indexes, triggers and columns of the user's that do not fit the new table, and are gone.
    pub(super) dropped: Vec<String>,
    /// Views of the user's that could be read before, and no longer can.
    pub(super) broken: Vec<String>,
}

/// Makes the rows of `renewal` those of `rows`, and removes `renewal`.
pub(super) fn finish(
    connection: &Connection,
    entity: &EntityName,
    rows: &Table,
    renewal: &Table,
    keep_deleted: bool,
) -> Result<Renewed, Error> {
    if rows.columns != renewal.columns {
        let mut renewal = renewal.clone();
        if keep_deleted && rows.keeps_deleted {
            carry_over(connection, entity, rows, &mut renewal)?;
        }
        return replace(connection, entity, rows, &renewal);
    }
    let renewed = merge(connection, entity, rows, renewal, keep_deleted)?;
    connection.execute(
        "update highwater_table set fingerprint = ?2 where name = ?1",
        params![rows.name, renewal.fingerprint],
    )?;
    renewal.remove(connection)?;
    Ok(renewed)
}

/// Keeps the rows that did not come again, flagged as deleted, with what they hold in the columns that are the same. Not
/// where the key is another, or where the flag's name was taken.
fn carry_over(
    connection: &Connection,
    entity: &EntityName,
    rows: &Table,
    renewal: &mut Table,
) -> Result<(), Error> {
    let stays = |column: &&Column| renewal.columns.contains(column);
    let mut with_role = rows.columns.iter().filter(|column| column.role.is_some());
    let is_same_key = with_role.all(|column| stays(&column)) && rows.key().count() == renewal.key().count();
    if !is_same_key || renewal.has_deleted_of_its_own() {
        return Ok(());
    }
    let columns = list(rows.columns.iter().filter(stays), "");
    renewal.keep_deleted(connection, entity)?;
    connection.execute_batch(&format!(
        "insert into main.{target} ({columns}, {deleted}) select {columns}, 1 from main.{rows} as kept
         where not exists (select 1 from main.{target} as fresh where {same_key})",
        target = quoted(&renewal.name),
        rows = quoted(&rows.name),
        deleted = deleted_column(),
        same_key = equal(rows.key()),
    ))?;
    Ok(())
}

/// Puts the table `renewal`, which has other columns, in the place of `rows`.
pub(super) fn replace(
    connection: &Connection,
    entity: &EntityName,
    rows: &Table,
    renewal: &Table,
) -> Result<Renewed, Error> {
    let views = Views::that_work(connection)?;
    let neighbours = objects::neighbours(connection, entity)?;
    let objects = objects::on(connection, rows)?;
    let columns = objects::columns(connection, rows)?;
    rows.remove(connection)?;
    // The modern form of rename reads every view and trigger of the file, and fails on those
    // that speak of the table which is gone for a moment.
    connection.pragma_update(None, "legacy_alter_table", true)?;
    let renamed = connection.execute_batch(&format!(
        "alter table main.{} rename to {}",
        quoted(&renewal.name),
        quoted(&rows.name)
    ));
    connection.pragma_update(None, "legacy_alter_table", false)?;
    renamed?;
    connection.execute(
        "update highwater_table set name = ?2, purpose = 'rows' where name = ?1",
        params![renewal.name, rows.name],
    )?;
    let mut table = Table {
        name: rows.name.clone(),
        ..renewal.clone()
    };
    if rows.keeps_deleted && !table.keeps_deleted && !table.has_deleted_of_its_own() {
        table.keep_deleted(connection, entity)?;
    }
    let mut dropped = objects::recreate(connection, entity, &table, objects)?;
    dropped.extend(columns);
    for (neighbour, table) in neighbours {
        dropped.extend(objects::mend(connection, &neighbour, &table)?);
    }
    Ok(Renewed {
        upserts: status::count(connection, &table)?,
        deletes: 0,
        dropped,
        broken: views.broken(connection)?,
    })
}

/// Puts an empty table, as it should be, in the place of `rows`.
pub(super) fn rebuild(connection: &Connection, entity: &EntityName, rows: &Table) -> Result<Renewed, Error> {
    let header = BlockHeader {
        version: BLOCK_VERSION,
        entity: entity.clone(),
        kind: BlockKind::Reset,
        columns: rows.columns.clone(),
        fingerprint: rows.fingerprint.clone(),
        values: Vec::new(),
    };
    let renewal = Table::create(connection, &header, Purpose::Renewal, false)?;
    replace(connection, entity, rows, &renewal)
}

fn merge(
    connection: &Connection,
    entity: &EntityName,
    rows: &Table,
    renewal: &Table,
    keep_deleted: bool,
) -> Result<Renewed, Error> {
    let target = format!("main.{} as kept", quoted(&rows.name));
    let fresh = format!("main.{} as fresh", quoted(&renewal.name));
    let same_key = equal(rows.key());
    let columns = list(rows.columns.iter(), "");
    let differs = differs(rows, "fresh");
    let removed = if keep_deleted && rows.keeps_deleted {
        format!(
            "update {target} set {deleted} = 1 where {deleted} = 0 and not exists (select 1 from {fresh} where {same_key})",
            deleted = deleted_column()
        )
    } else {
        format!("delete from {target} where not exists (select 1 from {fresh} where {same_key})")
    };
    let deletes = connection.execute(&removed, [])?;

    connection.execute_batch("savepoint merge")?;
    let in_place = format!(
        "insert into {target} ({columns}) select {columns} from {fresh} where true {} where {}",
        rows.on_conflict_sql(),
        self::differs(rows, "excluded")
    );
    let upserts = match connection.execute(&in_place, []) {
        Ok(changed) => changed,
        Err(error) if unique_index::is_violated(&error) => {
            // A unique index of the user's may hold between whole states and not between rows.
            connection.execute_batch("rollback to merge")?;
            let taken_out = format!(
                "delete from {target} where exists (select 1 from {fresh} where {same_key} and ({differs}))"
            );
            connection.execute(&taken_out, [])?;
            let put_back = format!(
                "insert into main.{} ({columns}) select {columns} from {fresh}
                 where not exists (select 1 from {target} where {same_key})",
                quoted(&rows.name)
            );
            connection
                .execute(&put_back, [])
                .map_err(|error| unique_index::explain(connection, entity, &rows.name, error))?
        }
        Err(error) => return Err(error.into()),
    };
    connection.execute_batch("release merge")?;
    Ok(Renewed {
        upserts: upserts as u64,
        deletes: deletes as u64,
        ..Renewed::default()
    })
}

/// `kept` and `fresh` are the same row.
fn equal<'a>(key: impl Iterator<Item = &'a Column>) -> String {
    let terms: Vec<String> = key
        .map(|column| format!("fresh.{0} = kept.{0}", quoted(&column.name)))
        .collect();
    terms.join(" and ")
}

/// The row `kept` holds other values than the row of the same key in `other`.
fn differs(rows: &Table, other: &str) -> String {
    let values = || {
        rows.columns
            .iter()
            .filter(|column| column.role != Some(ColumnRole::Key))
    };
    let values_differ = format!(
        "({}) is not ({})",
        list(values(), "kept."),
        list(values(), &format!("{other}."))
    );
    if rows.keeps_deleted {
        format!("{values_differ} or kept.{} <> 0", deleted_column())
    } else {
        values_differ
    }
}
