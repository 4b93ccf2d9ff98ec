//! One connection for one page: begun, read, and given back or closed.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Row};
use uuid::Uuid;

use crate::cursor::{Lsn, Source};
use crate::snapshot::Snapshot;

/// How long a page may wait for a table that is being altered, in milliseconds.
pub const LOCK_WAIT_MS_MAX: u64 = 5_000;

/// How long a page's transaction may stand still while its reader is slow, in milliseconds.
pub const IDLE_IN_TRANSACTION_MS_MAX: u64 = 120_000;

/// How long the flush of the log is waited for before it is nudged.
const FLUSH_WAIT: Duration = Duration::from_millis(2);

/// How often the flush position is read while it is waited for.
const FLUSH_POLL: Duration = Duration::from_millis(1);

/// A pooled connection that is closed, not pooled, unless it is given back: dropped in the
/// middle of a `COPY`, it would keep sending to whoever came next.
#[derive(Debug, Default)]
pub struct Connection {
    pooled: Option<PoolConnection<Postgres>>,
    in_transaction: bool,
}

/// What a page's transaction finds when it begins.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The database, as it is now.
    pub source: Source,
    /// The transaction's snapshot.
    pub snapshot: Snapshot,
    /// Where the log ended after the snapshot was taken.
    pub wal: Lsn,
    /// How much of the log was on disk then.
    pub flushed: Lsn,
    /// Whether the database was restored or copied to where it is, and not yet rebased.
    pub moved: bool,
}

impl Connection {
    /// Takes a connection from the pool.
    pub async fn acquire(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self {
            pooled: Some(pool.acquire().await?),
            in_transaction: false,
        })
    }

    /// The connection itself.
    pub fn get(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.pooled.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// Begins the transaction of a page: first the locks, then, with the first query that
    /// follows, the snapshot. Rewriting DDL and truncate are not MVCC-safe: an older snapshot
    /// would find the table empty.
    pub async fn begin(&mut self, tables: &[&str]) -> Result<(), sqlx::Error> {
        let mut statements = format!(
            "begin isolation level repeatable read read only;
             set local lock_timeout = {LOCK_WAIT_MS_MAX};
             set local idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS_MAX};{SETTINGS}"
        );
        if !tables.is_empty() {
            statements.push_str("lock table ");
            statements.push_str(&tables.join(", "));
            statements.push_str(" in access share mode;");
        }
        self.in_transaction = true;
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(self.get()?)
            .await?;
        Ok(())
    }

    /// Takes the transaction's snapshot, and reads what belongs to it. `None` on a standby.
    pub async fn moment(&mut self) -> Result<Option<Moment>, sqlx::Error> {
        let row = sqlx::query(
            "select pg_current_snapshot()::text as snapshot, p.*, s.own_id,
                 c.system_identifier, d.oid::bigint as database_oid,
                 (s.system_identifier, s.database) <> (c.system_identifier, d.oid) as moved
             from highwater.source s, pg_control_system() c, pg_database d,
             lateral (
                 select pg_is_in_recovery() as standby,
                     case when not pg_is_in_recovery() then (pg_current_wal_insert_lsn() - '0/0')::bigint end as wal,
                     case when not pg_is_in_recovery() then (pg_current_wal_flush_lsn() - '0/0')::bigint end as flushed,
                     case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) end as timeline
             ) p
             where d.datname = current_database()",
        )
        .fetch_one(self.get()?)
        .await?;
        if row.try_get("standby")? {
            return Ok(None);
        }
        let decode = |error: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(error);
        let snapshot: String = row.try_get("snapshot")?;
        let timeline: String = row.try_get("timeline")?;
        Ok(Some(Moment {
            moved: row.try_get("moved")?,
            snapshot: snapshot.parse().map_err(|error| decode(Box::new(error)))?,
            wal: Lsn(row.try_get::<i64, _>("wal")?.cast_unsigned()),
            flushed: Lsn(row.try_get::<i64, _>("flushed")?.cast_unsigned()),
            source: Source {
                system_identifier: row.try_get::<i64, _>("system_identifier")?.cast_unsigned(),
                database_oid: u32::try_from(row.try_get::<i64, _>("database_oid")?)
                    .map_err(|e| decode(Box::new(e)))?,
                own_id: row.try_get::<Uuid, _>("own_id")?,
                timeline: u32::from_str_radix(&timeline, 16).map_err(|e| decode(Box::new(e)))?,
            },
        }))
    }

    /// Ends the transaction, if one was begun.
    pub async fn end(&mut self) -> Result<(), sqlx::Error> {
        if self.in_transaction {
            sqlx::raw_sql("rollback").execute(self.get()?).await?;
            self.in_transaction = false;
        }
        Ok(())
    }

    /// Where an earlier timeline of this cluster's history ended. `None` where it is no part of
    /// that history, or where this role may not read the history file.
    pub async fn end_of_timeline(&mut self, now: u32, earlier: u32) -> Result<Option<Lsn>, sqlx::Error> {
        let history: Option<String> = sqlx::query_scalar(
            "select case when has_function_privilege('pg_read_file(text, bigint, bigint, boolean)', 'execute')
                 then pg_read_file('pg_wal/' || $1 || '.history', 0, 1000000, true) end",
        )
        .bind(format!("{now:08X}"))
        .fetch_one(self.get()?)
        .await?;
        Ok(history.and_then(|history| end_of_timeline(&history, earlier)))
    }

    /// Waits until the log is on disk up to `wal`. A crash forgets what was not, and gives its
    /// ids to others. A writer that sits idle in its transaction can delay the flush by many
    /// seconds, so after a moment an empty message is committed, which flushes all before it.
    pub async fn flushed(&mut self, wal: Lsn) -> Result<(), sqlx::Error> {
        let nudge_at = tokio::time::Instant::now() + FLUSH_WAIT;
        while tokio::time::Instant::now() < nudge_at {
            let flushed: i64 = sqlx::query_scalar("select (pg_current_wal_flush_lsn() - '0/0')::bigint")
                .fetch_one(self.get()?)
                .await?;
            if flushed.cast_unsigned() >= wal.0 {
                return Ok(());
            }
            tokio::time::sleep(FLUSH_POLL).await;
        }
        sqlx::raw_sql(
            "begin read write; set local synchronous_commit = local;
             select pg_logical_emit_message(true, 'highwater', ''); commit",
        )
        .execute(self.get()?)
        .await?;
        Ok(())
    }

    /// Gives the connection back to the pool. It must not be in the middle of anything.
    pub fn give_back(mut self) {
        drop(self.pooled.take());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(connection) = self.pooled.take() {
            drop(connection.detach());
        }
    }
}

/// The own id of the source; `None` where the database was restored or copied to where it is, and
/// not yet rebased.
pub async fn own_id(pool: &PgPool) -> Result<Option<Uuid>, sqlx::Error> {
    let (own_id, moved): (Uuid, bool) = sqlx::query_as(
        "select s.own_id, (s.system_identifier, s.database) <> (c.system_identifier, d.oid)
         from highwater.source s, pg_control_system() c, pg_database d where d.datname = current_database()",
    )
    .fetch_one(pool)
    .await?;
    Ok((!moved).then_some(own_id))
}

/// Finds a timeline in a history file: lines of its number, the position where it ended, and why.
fn end_of_timeline(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        if fields.next()?.parse() != Ok(timeline) {
            return None;
        }
        let (high, low) = fields.next()?.split_once('/')?;
        let half = |text| u64::from_str_radix(text, 16).ok();
        Some(Lsn(half(high)? << 32 | half(low)?))
    })
}

/// How values print, whatever the database, the role or the session says; and that statements
/// walk indexes: their cost must grow with what changed, also where statistics are missing or
/// the table is small today.
const SETTINGS: &str = "
    set local search_path = pg_catalog;
    set local timezone = 'UTC';
    set local datestyle = 'ISO, YMD';
    set local intervalstyle = 'postgres';
    set local extra_float_digits = 1;
    set local bytea_output = 'hex';
    set local lc_monetary = 'C';
    set local xmloption = 'content';
    set local enable_seqscan = off;
    set local enable_bitmapscan = off;
    set local enable_hashjoin = off;
    set local enable_mergejoin = off;
    set local jit = off;
    set local max_parallel_workers_per_gather = 0;";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_says_where_a_timeline_ended() {
        let history = "1\t0/3000148\tno recovery target specified\n\n2\tA/B\tother\n# 3\n";
        assert_eq!(end_of_timeline(history, 1), Some(Lsn(0x0300_0148)));
        assert_eq!(end_of_timeline(history, 2), Some(Lsn(0xA_0000_000B)));
        assert_eq!(end_of_timeline(history, 3), None);
        assert_eq!(end_of_timeline("nonsense", 1), None);
    }
}
