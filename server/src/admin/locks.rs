//! Locks on tables that are in use: waited for shortly, and again.
//!
//! A lock that is waited for stands in a queue, and whoever comes later stands behind it, readers too.
//! So nobody waits long behind a transaction that sits idle: the attempt is given up, lets the others
//! pass, and is made again.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::AdminError;
use crate::database::sqlstate;
use crate::unprepared;

/// How long one attempt waits for the lock on a table, unless another time is asked for. Writers may
/// stand behind it for that long.
pub const LOCK_WAIT: Duration = Duration::from_secs(2);

/// How often a lock is tried for.
pub const LOCK_ATTEMPTS_MAX: u32 = 30;

/// What lies between two attempts, so that others pass: this part of an attempt's wait.
const LOCK_PAUSE_PART: u32 = 2;

/// Runs a statement in a transaction that waits for locks on `table` no longer than `lock_wait` at a time, and
/// returns the row that it gives. Where it has failed too often, the error names those who hold the table.
pub(super) async fn patiently(
    connection: &mut PgConnection,
    table: &str,
    lock_wait: Option<Duration>,
    statement: String,
) -> Result<Option<PgRow>, AdminError> {
    // 0 would be no bound at all.
    let wait = lock_wait.unwrap_or(LOCK_WAIT).max(Duration::from_millis(1));
    let mut attempt = 1;
    loop {
        let mut transaction = connection.begin().await?;
        let set = format!("set local lock_timeout = {}", wait.as_millis());
        sqlx::raw_sql(AssertSqlSafe(set))
            .execute(&mut *transaction)
            .await?;
        let done = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
            .fetch_optional(&mut *transaction)
            .await;
        match done {
            Ok(done) => {
                transaction.commit().await?;
                return Ok(done);
            }
            Err(error) if !is_lock_timeout(&error) => return Err(error.into()),
            Err(_) => transaction.rollback().await?,
        }
        if attempt == LOCK_ATTEMPTS_MAX {
            let holders = holders(connection, table).await?;
            return Err(AdminError::Locked {
                table: table.to_owned(),
                holders,
            });
        }
        tracing::info!(table, attempt, "the table is in use; trying again");
        attempt += 1;
        tokio::time::sleep(wait / LOCK_PAUSE_PART).await;
    }
}

/// Who holds locks on a table, as words; the transaction that began first comes first.
async fn holders(connection: &mut PgConnection, table: &str) -> Result<String, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let holders: Option<String> = unprepared::query_scalar(
        "select string_agg(concat_ws(' ', 'pid', a.pid, a.usename, a.state, 'since', a.xact_start::timestamptz(0)), '; ' order by a.xact_start)
         from pg_stat_activity a
         where a.pid <> pg_backend_pid() and a.pid in (
             select l.pid from pg_locks l where l.relation = to_regclass($1)::oid and l.granted
                and l.database = (select d.oid from pg_database d where d.datname = current_database()))",
    )
    .bind(table)
    .fetch_one(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    Ok(holders.map(|holders| format!(" ({holders})")).unwrap_or_default())
}

/// A lock that was not had in time, or that two who wait for each other would never have had: such as a statement that builds
/// an index of the table, which a command that was interrupted may have left running.
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("55P03" | "40P01"))
}
