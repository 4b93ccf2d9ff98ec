//! `purge`: old tombstones and flagged rows go, in small transactions.

use std::time::Duration;

use chrono::{DateTime, Utc};
use highwater_shared::EntityName;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::AdminError;
use crate::database::sqlstate;
use crate::entity::{self, Table};
use crate::unprepared;

/// The most rows of each kind that one transaction of a purge removes.
const PURGE_BATCH_ROWS: i32 = 5_000;

/// Postgres' code for a row that others refer to.
const FOREIGN_KEY: &str = "23503";

/// What to purge.
#[derive(Clone, Copy, Debug)]
pub struct PurgeOptions {
    /// What was deleted longer ago than this is removed.
    pub older_than: Duration,
    /// How many keys of what was removed are kept of each entity, the latest: who has not seen the deletions is told
    /// of these in place of all rows anew.
    pub keys_max: u32,
    /// Whether nothing is removed, and only counted.
    pub dry_run: bool,
}

impl PurgeOptions {
    /// How many keys are kept where nothing else is asked for: some megabytes of each entity.
    pub const KEYS_MAX: u32 = 100_000;

    /// Removes what was deleted longer ago than this.
    pub fn older_than(older_than: Duration) -> Self {
        Self {
            older_than,
            keys_max: Self::KEYS_MAX,
            dry_run: false,
        }
    }
}

/// What `purge` would remove, or has removed, of one entity.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Purged {
    /// The entity.
    pub entity: EntityName,
    /// Tombstones, truncations and flagged rows.
    pub removed: u64,
    /// Why not all could be removed: other rows refer to flagged ones, or a trigger of the application's failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// Removes what has been deleted for longer than `older_than`, entity by entity, in small
/// transactions: it can be interrupted at any time, and run again. With `dry_run` it only counts.
///
/// Where rows of another table refer to flagged ones, the others come first: those may be entities whose
/// rows are to go as well.
pub async fn purge(connection: &mut PgConnection, options: &PurgeOptions) -> Result<Vec<Purged>, AdminError> {
    let PurgeOptions {
        older_than,
        keys_max,
        dry_run,
    } = *options;
    let seconds = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX);
    // One bound for all, by the clock that stamps.
    let mut transaction = connection.begin().await?;
    let before: DateTime<Utc> =
        unprepared::query_scalar("select clock_timestamp() - make_interval(secs => $1::double precision)")
            .bind(seconds)
            .fetch_one(&mut *transaction)
            .await?;
    let tables = entity::tables(&mut transaction).await?;
    transaction.rollback().await?;
    if dry_run {
        let mut due = Vec::new();
        for table in tables {
            let removed = count(connection, &table, before).await?;
            due.push(Purged::new(&table, removed));
        }
        return Ok(due);
    }
    let begun = tables.into_iter().map(|table| {
        let purged = Purged::new(&table, 0);
        (table, purged)
    });
    let (mut pending, mut done): (Vec<_>, Vec<_>) = (begun.collect(), Vec::new());
    loop {
        let (mut stopped, mut removed_now) = (Vec::new(), 0);
        for (table, mut purged) in pending {
            let (removed, reason) = remove(connection, &table, before, keys_max).await?;
            removed_now += removed;
            purged.removed += removed;
            purged.stopped = reason;
            let ended = if purged.stopped.is_some() {
                &mut stopped
            } else {
                &mut done
            };
            ended.push((table, purged));
        }
        pending = stopped;
        if pending.is_empty() || removed_now == 0 {
            break;
        }
    }
    done.extend(pending);
    done.sort_by_key(|(table, _)| table.number);
    Ok(done.into_iter().map(|(_, purged)| purged).collect())
}

impl Purged {
    fn new(table: &Table, removed: u64) -> Self {
        Self {
            entity: table.name.clone(),
            removed,
            stopped: None,
        }
    }
}

async fn count(
    connection: &mut PgConnection,
    table: &Table,
    before: DateTime<Utc>,
) -> Result<u64, AdminError> {
    let mut transaction = connection.begin().await?;
    let count: i64 = unprepared::query_scalar(AssertSqlSafe(format!(
        "select (select count(*) from highwater.tombstone t where t.entity = $1 and t.changed_date < $2)
              + (select count(*) from highwater.truncation t where t.entity = $1 and t.changed_date < $2)
              + (select count(*) from {} t where t.deleted and t.changed_date < $2)",
        table.table
    )))
    .bind(table.number)
    .bind(before)
    .fetch_one(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    Ok(count.unsigned_abs())
}

/// Removes what is due of one entity, and tells how much that was, and what it was stopped by.
async fn remove(
    connection: &mut PgConnection,
    table: &Table,
    before: DateTime<Utc>,
    keys_max: u32,
) -> Result<(u64, Option<String>), AdminError> {
    let mut removed = 0;
    loop {
        match batch(connection, table, before, keys_max).await {
            Ok(0) => return Ok((removed, None)),
            Ok(batch) => removed += batch,
            Err(error) => {
                let reason = refused(&error).ok_or(AdminError::Postgres(error))?;
                return Ok((removed, Some(reason)));
            }
        }
    }
}

/// Why rows of one entity could not be removed, which need not stop the others: `None` where Postgres went away.
fn refused(error: &sqlx::Error) -> Option<String> {
    let refusal = error.as_database_error()?;
    let what_to_do = match sqlstate(error).as_deref() {
        Some(FOREIGN_KEY) => "flag or delete the rows that refer to these, and purge again",
        _ => "it may be a trigger of the table that failed; mend that, and purge again",
    };
    Some(format!("{}; {what_to_do}", refusal.message()))
}

async fn batch(
    connection: &mut PgConnection,
    table: &Table,
    before: DateTime<Utc>,
    keys_max: u32,
) -> Result<u64, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let batch: i32 = unprepared::query_scalar("select highwater.purge($1, $2, $3, $4)")
        .bind(table.number)
        .bind(before)
        .bind(PURGE_BATCH_ROWS)
        .bind(i32::try_from(keys_max).unwrap_or(i32::MAX))
        .fetch_one(&mut *transaction)
        .await?;
    // A constraint may be deferred until here.
    transaction.commit().await?;
    Ok(u64::from(batch.unsigned_abs()))
}
