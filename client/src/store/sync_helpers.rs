//! Reads and writes the SyncHelper rows. They change in the transaction of the page only.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_shared::{EntityName, Timestamp};
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::schema;
use crate::error::Error;
use crate::sync_helper::{Cursor, SourceId, SyncHelper};

/// Every SyncHelper of the store, by entity.
pub(super) fn load(connection: &Connection) -> Result<BTreeMap<EntityName, SyncHelper>, Error> {
    // A store of an earlier version is looked at as it is.
    let forgets = if schema::version(connection)? < schema::FORGETS_SINCE {
        "0"
    } else {
        "forgets"
    };
    let mut statement = connection.prepare_cached(&format!(
        "select entity, last_sync_date, cursor, state, complete, covers, sequence, began, source, pulled_at, {forgets}
         from sync_helper",
    ))?;
    let helpers = statement.query_map([], read)?;
    let mut by_entity = BTreeMap::new();
    let mut covers: Arc<[EntityName]> = Arc::default();
    for helper in helpers {
        let mut helper = helper?;
        // Most stand at the same cursor: together they need no more memory for it than one.
        if helper.covers == covers {
            helper.covers = Arc::clone(&covers);
        } else {
            covers = Arc::clone(&helper.covers);
        }
        by_entity.insert(helper.entity.clone(), helper);
    }
    Ok(by_entity)
}

/// Writes one SyncHelper, new or changed.
pub(super) fn save(connection: &Connection, helper: &SyncHelper) -> Result<(), Error> {
    connection
        .prepare_cached(
            "insert into sync_helper
               (entity, last_sync_date, cursor, state, complete, covers, sequence, began, source, pulled_at, forgets)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             on conflict (entity) do update set
               last_sync_date = excluded.last_sync_date, cursor = excluded.cursor, state = excluded.state,
               complete = excluded.complete, covers = excluded.covers, sequence = excluded.sequence,
               began = excluded.began, source = excluded.source, pulled_at = excluded.pulled_at, forgets = excluded.forgets",
        )?
        .execute(params![
            helper.entity.as_str(),
            helper.last_sync_date.to_string(),
            helper.cursor.as_ref().map(Cursor::as_str),
            helper.state.as_str(),
            helper.complete,
            list_of(&helper.covers),
            helper.sequence,
            helper.began,
            helper.source.as_ref().map(SourceId::as_str),
            helper.pulled_at.map(|date| date.to_string()),
            helper.forgets,
        ])?;
    Ok(())
}

/// Forgets an entity, so that its next pull is a full one.
pub(super) fn delete(connection: &Connection, entity: &EntityName) -> Result<(), Error> {
    connection.execute("delete from sync_helper where entity = ?1", [entity.as_str()])?;
    Ok(())
}

/// The entities that a cursor covers, as they are written.
pub(super) fn list_of(covers: &[EntityName]) -> String {
    let names: Vec<&str> = covers.iter().map(EntityName::as_str).collect();
    serde_json::Value::from(names).to_string()
}

/// The entities that a cursor covers, from a column.
pub(super) fn covers(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<EntityName>> {
    let covers: String = row.get(column)?;
    serde_json::from_str(&covers).map_err(|error| unreadable(column, error))
}

fn read(row: &Row<'_>) -> rusqlite::Result<SyncHelper> {
    let pulled_at: Option<String> = row.get(9)?;
    Ok(SyncHelper {
        entity: EntityName::new(row.get::<_, String>(0)?),
        last_sync_date: date(1, &row.get::<_, String>(1)?)?,
        cursor: row.get::<_, Option<String>>(2)?.map(Cursor::new),
        state: row
            .get::<_, String>(3)?
            .parse()
            .map_err(|error: String| unreadable(3, error))?,
        complete: row.get(4)?,
        covers: covers(row, 5)?.into(),
        sequence: row.get(6)?,
        began: row.get(7)?,
        source: row.get::<_, Option<String>>(8)?.map(SourceId::new),
        pulled_at: pulled_at.map(|text| date(9, &text)).transpose()?,
        forgets: row.get(10)?,
    })
}

fn date(column: usize, text: &str) -> rusqlite::Result<Timestamp> {
    text.parse()
        .map_err(|error: highwater_shared::timestamp::TimestampError| unreadable(column, error))
}

fn unreadable(
    column: usize,
    error: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}
