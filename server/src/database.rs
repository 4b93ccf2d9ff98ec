//! One connection for one page: begun, read, and given back or closed.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Row};
use tokio::time::Instant;
use uuid::Uuid;

use crate::catalog::SIGNATURE;
use crate::cursor::{Cursor, Lsn, Source};
use crate::limit::TransactionBounds;
use crate::node::Node;
use crate::page::Probe;
use crate::snapshot::{Era, Snapshot, Xid};
use crate::standby::{self, Claim};
use crate::{timeline, unprepared};

/// How long a page may wait for tables that are being altered.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long it waits at a time, while it holds others, before it lets these go and tries again. Who alters tables in another
/// order waits for it, and is ended for a deadlock if that takes a second (`deadlock_timeout`).
const LOCK_ATTEMPT: Duration = Duration::from_millis(400);

/// Postgres' code for a lock that was not had in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// How long after the snapshot the flush of the log is waited for before it is nudged.
const FLUSH_WAIT: Duration = Duration::from_millis(2);

/// How often the flush position is read while it is waited for.
const FLUSH_POLL: Duration = Duration::from_millis(1);

/// A pooled connection that is closed, not pooled, unless it is given back: dropped in the
/// middle of a `COPY`, it would keep sending to whoever came next.
#[derive(Debug, Default)]
pub struct Connection {
    pooled: Option<PoolConnection<Postgres>>,
    in_transaction: bool,
    keeps_statements: bool,
    bounds: TransactionBounds,
}

/// What a page's transaction finds when it begins.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The database, as it is now.
    pub source: Source,
    /// What may be said to have been seen: the transaction's snapshot, or less on a standby.
    pub snapshot: Snapshot,
    /// The first id that had not been given out, as far as is known here. Rows with later ones came with a partition of
    /// another cluster.
    pub next_xid: Xid,
    /// The end of the log that was there when the snapshot was taken.
    pub log: LogEnd,
    /// Whether the database was restored or copied to where it is, and not yet rebased.
    pub moved: bool,
    /// When that was, by the clock of this server.
    pub taken: Instant,
}

/// The end of the log at one moment: the position of the first byte that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// A primary has written the log so far. All that was seen lies before that.
    Primary {
        /// Where it has been written to.
        written: Lsn,
        /// Where it was on disk.
        flushed: Lsn,
    },
    /// A standby has replayed the log so far. What was seen may stand on the record that begins there.
    Standby {
        /// Where it has been replayed to.
        replayed: Lsn,
    },
}

impl Moment {
    /// The last byte of the log that a cursor of this moment may stand on.
    pub fn stands_on(&self) -> Lsn {
        match self.log {
            LogEnd::Primary { written, .. } => Lsn(written.0.saturating_sub(1)),
            LogEnd::Standby { replayed } => replayed,
        }
    }

    /// Whether all that the cursor's holder has seen, or been promised, is there.
    pub fn has(&self, cursor: &Cursor) -> bool {
        let covers = cursor.snapshots().all(|seen| self.snapshot.covers(seen));
        match self.log {
            LogEnd::Primary { .. } => covers,
            // A standby lists subtransactions as in flight, which a primary's snapshot passes over. The
            // position tells all the same; only where replay stands at the very position it does not.
            LogEnd::Standby { replayed } if replayed > cursor.wal => true,
            // In the middle of a pull it is not enough to have what was seen: an earlier page may have been
            // read later than that, and has left out what had changed by then.
            LogEnd::Standby { replayed } => covers && (cursor.pull.is_none() || replayed == cursor.wal),
        }
    }

    /// Reads it from a row of [`MOMENT`]. `claim` is what a standby can say to have seen.
    fn read(row: &PgRow, claim: Option<Claim>) -> Result<Self, sqlx::Error> {
        let decode = |error: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(error);
        let lsn = |name: &str| Ok::<_, sqlx::Error>(Lsn(row.try_get::<i64, _>(name)?.cast_unsigned()));
        let era: i16 = row.try_get("era")?;
        let era = Era(u16::try_from(era).map_err(|e| decode(Box::new(e)))?);
        let own: String = row.try_get("snapshot")?;
        let own: Snapshot = own.parse().map_err(|error| decode(Box::new(error)))?;
        let own = own.in_era(era);
        let next_xid = own.xmax();
        let (snapshot, log) = if let Some(Claim {
            snapshot, replayed, ..
        }) = claim
        {
            (snapshot, LogEnd::Standby { replayed })
        } else {
            let log = LogEnd::Primary {
                written: lsn("written")?,
                flushed: lsn("flushed")?,
            };
            (own, log)
        };
        Ok(Self {
            snapshot,
            next_xid,
            log,
            moved: row.try_get("moved")?,
            taken: Instant::now(),
            source: Source {
                system_identifier: row.try_get::<i64, _>("system_identifier")?.cast_unsigned(),
                database_oid: u32::try_from(row.try_get::<i64, _>("database_oid")?)
                    .map_err(|e| decode(Box::new(e)))?,
                own_id: row.try_get::<Uuid, _>("own_id")?,
                timeline: u32::try_from(row.try_get::<i32, _>("timeline")?)
                    .map_err(|e| decode(Box::new(e)))?,
                era,
            },
        })
    }
}

impl Connection {
    /// Takes a connection from the pool, whose transactions are bounded so.
    pub async fn acquire(pool: &PgPool, bounds: TransactionBounds) -> Result<Self, sqlx::Error> {
        Ok(Self {
            pooled: Some(pool.acquire().await?),
            in_transaction: false,
            keeps_statements: true,
            bounds,
        })
    }

    /// Whether the statement that opens a page stays prepared. Behind a pooler it cannot.
    pub(crate) fn keeping_statements(mut self, keeps: bool) -> Self {
        self.keeps_statements = keeps;
        self
    }

    /// The connection itself.
    pub fn get(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.pooled.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// Begins the transaction of a page: first the locks, then, with the first query that
    /// follows, the snapshot. Rewriting DDL and truncate are not MVCC-safe: an older snapshot
    /// would find the table empty. Tells whether this is a standby; where not, it was a primary
    /// before the snapshot, and so it stays.
    pub async fn begin(&mut self, tables: &[&str]) -> Result<bool, sqlx::Error> {
        let until = Instant::now() + LOCK_WAIT_MAX;
        loop {
            match self.try_begin(tables).await {
                Err(error)
                    if sqlstate(&error).as_deref() == Some(LOCK_NOT_AVAILABLE) && Instant::now() < until =>
                {
                    self.end().await?;
                }
                begun => return begun,
            }
        }
    }

    /// Begins the transaction where all locks are to be had soon.
    async fn try_begin(&mut self, tables: &[&str]) -> Result<bool, sqlx::Error> {
        let TransactionBounds {
            statement_time_max,
            idle_time_max,
        } = self.bounds;
        // `show` takes no snapshot.
        let mut statements = format!(
            "begin isolation level repeatable read read only;
             show in_hot_standby;
             set local lock_timeout = {};
             set local statement_timeout = {};
             set local idle_in_transaction_session_timeout = {};{SETTINGS}",
            LOCK_ATTEMPT.as_millis(),
            statement_time_max.as_millis(),
            idle_time_max.as_millis()
        );
        // Ended by that of the role or the database, a long answer would come to its end with no attempt.
        if self.get()?.server_version_num() >= Some(TRANSACTION_TIMEOUT_SINCE) {
            statements.push_str("set local transaction_timeout = 0;");
        }
        if !tables.is_empty() {
            statements.push_str("lock table ");
            statements.push_str(&tables.join(", "));
            statements.push_str(" in access share mode;");
        }
        self.in_transaction = true;
        let shown = sqlx::raw_sql(AssertSqlSafe(statements))
            .fetch_all(self.get()?)
            .await?;
        let shown = shown.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(shown.try_get::<String, _>(0)? == "on")
    }

    /// Begins the transaction of a page as [`Connection::begin`] does, on a primary or a standby.
    /// Returns what a standby can claim to have seen.
    pub(crate) async fn begin_on(
        &mut self,
        node: &Node,
        tables: &[&str],
    ) -> Result<Option<Claim>, sqlx::Error> {
        // A claim comes before the snapshot. So the first time a standby is met, it is begun on twice.
        let mut claim = None;
        if node.is_standby() {
            claim = Some(self.claim(node).await?);
        }
        let mut is_standby = self.begin(tables).await?;
        if is_standby && claim.is_none() {
            self.end().await?;
            claim = Some(self.claim(node).await?);
            is_standby = self.begin(tables).await?;
        }
        if !is_standby {
            node.remember(None);
        }
        Ok(claim.filter(|_| is_standby))
    }

    /// Asks a standby what it has seen.
    pub(crate) async fn claim(&mut self, node: &Node) -> Result<Claim, sqlx::Error> {
        let claim = standby::claim(self.get()?, node.last_claim().as_ref()).await?;
        node.remember(Some(claim.clone()));
        Ok(claim)
    }

    /// Takes the transaction's snapshot, and reads what belongs to it, with the signature of the
    /// catalog, and in the same statement what `probe` selects, a column `number` first.
    pub(crate) async fn open(
        &mut self,
        claim: Option<Claim>,
        probe: &Probe,
    ) -> Result<(Moment, String, Vec<PgRow>), sqlx::Error> {
        let statement = format!(
            "select * from ({MOMENT}) moment cross join (select ({SIGNATURE}) as signature) catalog left join ({}) probe on true",
            probe.text
        );
        let mut query = sqlx::query(AssertSqlSafe(statement))
            .persistent(self.keeps_statements)
            .bind(&probe.xids)
            .bind(&probe.bound);
        for scopes in &probe.scopes {
            query = query.bind(scopes);
        }
        let rows = query.fetch_all(self.get()?).await?;
        let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let mut moment = Moment::read(first, claim)?;
        if first.try_get("timeline_is_doubtful")? {
            let told = moment.source.timeline;
            moment.source.timeline = timeline::replayed(self.get()?, told).await?;
        }
        Ok((moment, first.try_get("signature")?, rows))
    }

    /// Ends the transaction, if one was begun.
    pub async fn end(&mut self) -> Result<(), sqlx::Error> {
        if self.in_transaction {
            sqlx::raw_sql("rollback").execute(self.get()?).await?;
            self.in_transaction = false;
        }
        Ok(())
    }

    /// Waits until all is on disk that was seen at `moment`. A crash forgets what was not, and gives
    /// its ids to others. A writer that sits idle in its transaction can delay the flush by many
    /// seconds, so after a while an empty message is committed, which flushes all before it. What
    /// a standby has replayed is on disk, there and where it came from.
    pub async fn flushed(&mut self, moment: &Moment) -> Result<(), sqlx::Error> {
        let LogEnd::Primary { written, flushed } = moment.log else {
            return Ok(());
        };
        if flushed >= written {
            return Ok(());
        }
        loop {
            // In one message, since this is in no transaction: a pooler may hand out another connection
            // to Postgres between two.
            let row = sqlx::raw_sql("select (pg_current_wal_flush_lsn() - '0/0')::text as flushed")
                .fetch_one(self.get()?)
                .await?;
            let flushed: String = row.try_get("flushed")?;
            let flushed: u64 = flushed
                .parse()
                .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
            if flushed >= written.0 {
                return Ok(());
            }
            if moment.taken.elapsed() >= FLUSH_WAIT {
                break;
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

    /// Ends the transaction, and gives the connection back.
    pub async fn let_go(mut self) -> Result<(), sqlx::Error> {
        self.end().await?;
        self.give_back();
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(connection) = self.pooled.take() {
            drop(connection.detach());
        }
    }
}

/// The code with which Postgres refused ("SQLSTATE", Postgres manual, appendix A); `None` where it was not
/// Postgres that did.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error().and_then(DatabaseError::code)
}

/// Whether Postgres could not read a value. The columns and their types are there: the table is locked.
pub(crate) fn is_no_value(error: &sqlx::Error) -> bool {
    let classes = ["22", "23", "42", "54"];
    sqlstate(error).is_some_and(|code| classes.iter().any(|class| code.starts_with(class)))
}

/// The own id of the source; `None` where the database was restored or copied to where it is, and
/// not yet rebased.
pub async fn own_id(node: &Node) -> Result<Option<Uuid>, sqlx::Error> {
    let mut connection = node.connect().await?;
    connection.begin(&[]).await?;
    let (own_id, moved): (Uuid, bool) =
        unprepared::query_as("select s.own_id, highwater.is_moved() from highwater.source s")
            .fetch_one(connection.get()?)
            .await?;
    connection.let_go().await?;
    let own_id = (!moved).then_some(own_id);
    if let Some(own_id) = own_id {
        node.meets(own_id);
    }
    Ok(own_id)
}

/// What belongs to a snapshot. The position in the log is read after it. A standby cannot ask which
/// timeline it replays; of those that it is told the latest is taken. Only the process that receives log knows in
/// time, and it tells a role with the rights of `pg_read_all_stats`; without it the timeline is doubtful.
const MOMENT: &str = "
    select pg_current_snapshot()::text as snapshot, s.era, s.own_id, p.system_identifier, p.database::bigint as database_oid,
        (s.system_identifier, s.database, s.schema) <> (p.system_identifier, p.database, p.schema) as moved,
        case when not pg_is_in_recovery() then (pg_current_wal_insert_lsn() - '0/0')::bigint end as written,
        case when not pg_is_in_recovery() then (pg_current_wal_flush_lsn() - '0/0')::bigint end as flushed,
        case when pg_is_in_recovery() then (
            select greatest(
                (select timeline_id from pg_control_checkpoint()),
                (select min_recovery_end_timeline from pg_control_recovery()),
                receiver.received_tli)
        ) else ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int end as timeline,
        pg_is_in_recovery() and receiver.received_tli is null as timeline_is_doubtful
    from highwater.source s cross join highwater.place p
    left join (select received_tli from pg_stat_wal_receiver where pg_is_in_recovery()) receiver on true";

/// The version of Postgres that brought `transaction_timeout`.
const TRANSACTION_TIMEOUT_SINCE: u32 = 170_000;

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
    set local array_nulls = on;
    set local quote_all_identifiers = off;
    set local standard_conforming_strings = on;
    set local enable_seqscan = off;
    set local enable_bitmapscan = off;
    set local enable_hashjoin = off;
    set local enable_mergejoin = off;
    set local plan_cache_mode = force_generic_plan;
    set local jit = off;
    set local max_parallel_workers_per_gather = 0;";
