//! What a standby has seen.
//!
//! A snapshot on a standby lists no ids in flight (Postgres manual, `pg_current_snapshot` tells
//! what is *known* to be in flight there, which is kept elsewhere). So the list is made of the ids
//! between the snapshot's `xmin` and `xmax` that `pg_xact_status` calls in progress. It holds
//! subtransactions as well, which no row bears in `changed_xid`, and so they do no harm.
//!
//! A standby applies one record of the log at a time. The commit of an id is seen a moment before
//! the position says that its record was replayed. Hence the order: first the list, then the
//! position, then the snapshot of the page. The page may see more than the list says and sends it;
//! the cursor claims no more than the list, and says of the log that it may stand on the record
//! which begins at the position: only who has replayed *that* has all that was seen.

use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::cursor::Lsn;
use crate::snapshot::{Era, Snapshot, Xid};

/// What a standby has seen at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) snapshot: Snapshot,
    era: Era,
    /// How far the log had been replayed when the snapshot had been made.
    pub(crate) replayed: Lsn,
    /// When the standby was started, which tells it from others.
    started: String,
}

/// Asks what the standby has seen. What `known` has seen is not asked again where it is this standby
/// that said so: there may be millions of ids behind a writer that is open for an hour.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    known: Option<&Claim>,
) -> Result<Claim, sqlx::Error> {
    let nothing = Claim {
        snapshot: Snapshot::nothing(),
        era: Era::default(),
        replayed: Lsn(0),
        started: String::new(),
    };
    let known = known.unwrap_or(&nothing);
    let own = |xid: Xid| known.era.lowered(xid).to_string();
    let listed: Vec<String> = known.snapshot.in_flight().iter().copied().map(own).collect();
    // One message, and in it two statements, each with a snapshot of its own.
    let statements = format!(
        "begin isolation level read committed read only;
         select pg_snapshot_xmax(s)::text as xmax, array(
             select x from (
                 select unnest('{{{listed}}}'::bigint[]) as x where k.holds
                 union all
                 select generate_series(
                     greatest(pg_snapshot_xmin(s)::text::bigint, case when k.holds then {xmax} else 0 end),
                     pg_snapshot_xmax(s)::text::bigint - 1)
             ) ids
             where pg_xact_status(x::text::xid8) = 'in progress')::text as in_flight
         from pg_current_snapshot() s,
              lateral (select pg_postmaster_start_time()::text = '{started}' as holds) k;
         select (pg_last_wal_replay_lsn() - '0/0')::text as replayed, pg_postmaster_start_time()::text as started,
             (select era::text from highwater.source) as era;
         commit",
        listed = listed.join(","),
        xmax = own(known.snapshot.xmax()),
        started = known.started,
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(statements))
        .fetch_all(connection)
        .await?;
    let unreadable = || sqlx::Error::Protocol("what a standby has seen cannot be read".to_owned());
    let [seen, position] = rows.as_slice() else {
        return Err(unreadable());
    };
    let xmax: Xid = seen
        .try_get::<String, _>("xmax")?
        .parse()
        .map_err(|_| unreadable())?;
    let in_flight: String = seen.try_get("in_flight")?;
    let in_flight = in_flight
        .trim_matches(['{', '}'])
        .split(',')
        .filter(|xid| !xid.is_empty())
        .map(str::parse)
        .collect::<Result<Vec<Xid>, _>>()
        .map_err(|_| unreadable())?;
    let replayed: String = position.try_get("replayed")?;
    let era: String = position.try_get("era")?;
    let era = Era(era.parse().map_err(|_| unreadable())?);
    Ok(Claim {
        snapshot: Snapshot::new(xmax, in_flight).in_era(era),
        era,
        replayed: Lsn(replayed.parse().map_err(|_| unreadable())?),
        started: position.try_get("started")?,
    })
}
