//! What goes on at this moment: who holds back dates, and whether the clocks agree.

use chrono::{DateTime, Utc};

use super::Examination;
use super::Severity::{Note, Serious, Warning};
use crate::snapshot::XIDS_IN_FLIGHT_MAX;
use crate::unprepared;

/// How far the clocks may lie apart.
const CLOCK_MS_MAX: i64 = 1_000;

/// How much of a statement is shown.
const QUERY_CHARACTERS_MAX: i32 = 120;

const LONG: &str = "
    select a.pid, coalesce(a.usename::text, ''), coalesce(a.datname::text, ''), coalesce(a.state, ''),
        to_char(a.xact_start, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), left(regexp_replace(a.query, '\\s+', ' ', 'g'), $2)
    from pg_stat_activity a
    where a.backend_xid is not null and a.xact_start < clock_timestamp() - make_interval(secs => $1)
      and a.pid <> pg_backend_pid()
    order by a.xact_start";

/// Each holds a lock on its own id, and on those of its savepoints. A snapshot would leave out those that lie
/// above the latest id that has completed.
const IN_FLIGHT: &str = "
    select count(distinct virtualtransaction) from pg_locks
    where locktype = 'transactionid' and mode = 'ExclusiveLock' and granted";

const PREPARED: &str = "
    select p.gid, p.owner::text, p.database::text, to_char(p.prepared, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
    from pg_prepared_xacts p
    where p.prepared < clock_timestamp() - make_interval(secs => $1)
    order by p.prepared";

pub(super) async fn check(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    clock(e).await?;
    // On a standby nobody writes, and nothing tells who does elsewhere.
    if e.is_standby {
        return Ok(());
    }
    long_transactions(e).await?;
    prepared(e).await?;
    in_flight(e).await
}

async fn clock(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let before = (e.options.clock)();
    let there: DateTime<Utc> = unprepared::query_scalar("select clock_timestamp()")
        .fetch_one(&mut *e.connection)
        .await?;
    let after = (e.options.clock)();
    // The answer was on its way for a while, and that is no difference.
    let ahead_ms = if there > after {
        (there - after).num_milliseconds()
    } else {
        (there - before).num_milliseconds().min(0)
    };
    if ahead_ms.abs() > CLOCK_MS_MAX {
        let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
        e.found(Warning, "clock").says(
            format!(
                "Postgres' clock is {} ms {way} the one of this machine",
                ahead_ms.abs()
            ),
            "Cursors need no clock. Dates that callers send, and tokens that expire, do.",
            "let both machines follow the same time (chrony, systemd-timesyncd)",
        );
    }
    Ok(())
}

async fn long_transactions(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let sees_all: bool = unprepared::query_scalar("select pg_has_role('pg_read_all_stats', 'usage')")
        .fetch_one(&mut *e.connection)
        .await?;
    if !sees_all {
        e.found(Note, "activity_hidden").says(
            "the role that is connected does not see what others are doing",
            "Transactions of other roles that hold back dates were not looked for.",
            "run it as the owner with --role, or: grant pg_read_all_stats to the role",
        );
    }
    let rows: Vec<(i32, String, String, String, String, String)> = unprepared::query_as(LONG)
        .bind(e.options.long_transaction.as_secs_f64())
        .bind(QUERY_CHARACTERS_MAX)
        .fetch_all(&mut *e.connection)
        .await?;
    for (pid, user, database, state, since, query) in rows {
        e.found(Warning, "long_transaction").of(&format!("pid {pid}")).says(
            format!("{user} has been writing in {database} since {since} ({state}): {query}"),
            "No caller's lastSyncDate passes its beginning before it ends. Cursors go on, and carry its id.",
            format!("select pg_terminate_backend({pid});    -- rolls it back"),
        );
    }
    Ok(())
}

async fn prepared(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let rows: Vec<(String, String, String, String)> = unprepared::query_as(PREPARED)
        .bind(e.options.long_prepared.as_secs_f64())
        .fetch_all(&mut *e.connection)
        .await?;
    for (gid, owner, database, since) in rows {
        let quoted = gid.replace('\'', "''");
        e.found(Warning, "prepared_transaction").of(&gid).says(
            format!("{owner} prepared a transaction in {database} at {since}, and nobody has ended it"),
            "It survives restarts. No caller's lastSyncDate passes it, and vacuum removes nothing that it may see.",
            format!("rollback prepared '{quoted}';    -- or commit prepared, in the database {database}"),
        );
    }
    Ok(())
}

async fn in_flight(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let number: i64 = unprepared::query_scalar(IN_FLIGHT)
        .fetch_one(&mut *e.connection)
        .await?;
    let number = usize::try_from(number).unwrap_or_default();
    if number < e.options.in_flight_told_min {
        return Ok(());
    }
    let severity = if number > XIDS_IN_FLIGHT_MAX {
        Serious
    } else {
        Warning
    };
    e.found(severity, "in_flight").says(
        format!("{number} transactions that write are in flight"),
        format!("Beyond {XIDS_IN_FLIGHT_MAX} callers are turned away with 503."),
        "end those that sit idle: select pid, xact_start, state, query from pg_stat_activity where backend_xid is not null order by xact_start;",
    );
    Ok(())
}
