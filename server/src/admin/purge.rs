//! `purge`: old tombstones and flagged rows go, in small transactions.

use std::time::Duration;

use chrono::{DateTime, Utc};
use highwater_shared::EntityName;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::AdminError;
use crate::entity;
use crate::unprepared;

/// The most rows of each kind that one transaction of a purge removes.
const PURGE_BATCH_ROWS: i32 = 5_000;

/// What `purge` would remove, or has removed, of one entity.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Purged {
    /// The entity.
    pub entity: EntityName,
    /// Tombstones, truncations and flagged rows.
    pub removed: u64,
}

/// Removes what has been deleted for longer than `older_than`, entity by entity, in small
/// transactions: it can be interrupted at any time, and run again. With `dry_run` it only counts.
pub async fn purge(
    connection: &mut PgConnection,
    older_than: Duration,
    dry_run: bool,
) -> Result<Vec<Purged>, AdminError> {
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
    let mut purged = Vec::new();
    for table in tables {
        let mut removed = 0;
        if dry_run {
            let mut transaction = connection.begin().await?;
            removed = unprepared::query_scalar(AssertSqlSafe(format!(
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
        } else {
            loop {
                let mut transaction = connection.begin().await?;
                let batch: i32 = unprepared::query_scalar("select highwater.purge($1, $2, $3)")
                    .bind(table.number)
                    .bind(before)
                    .bind(PURGE_BATCH_ROWS)
                    .fetch_one(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                if batch == 0 {
                    break;
                }
                removed += i64::from(batch);
            }
        }
        purged.push(Purged {
            entity: table.name,
            removed: removed.unsigned_abs(),
        });
    }
    Ok(purged)
}
