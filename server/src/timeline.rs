//! The timelines of a cluster's history, as its folder of log files has them. A promotion begins a timeline, and
//! leaves a file that says where the earlier ones ended (Postgres manual, "Timelines").
//!
//! A role may read these files only where it was granted `pg_read_file`.

#[cfg(test)]
mod tests;

use sqlx::PgConnection;

use crate::cursor::Lsn;
use crate::unprepared;

/// The most that is read of a history file, in bytes: some 20,000 promotions.
const HISTORY_BYTES_MAX: i64 = 1_000_000;

/// Where a timeline ended that is an earlier one of the history of `now`. `None` where it is no part of
/// that history, or where this role may not read it.
pub(crate) async fn end_of(
    connection: &mut PgConnection,
    now: u32,
    earlier: u32,
) -> Result<Option<Lsn>, sqlx::Error> {
    if !may_read(connection).await? {
        return Ok(None);
    }
    let history = read(connection, &history_file(now), HISTORY_BYTES_MAX).await?;
    Ok(history.and_then(|history| end_in(&history, earlier)))
}

/// The timeline that a standby replays, which it was `told` to be this or a later one. A standby follows a timeline
/// once it has the history of that, and keeps the files that it replays. A history alone is no proof: one that has
/// replayed more of the earlier timeline than the later one kept cannot follow. Where this role may read neither, it is
/// what was told.
pub(crate) async fn replayed(connection: &mut PgConnection, told: u32) -> Result<u32, sqlx::Error> {
    if !may_read(connection).await? {
        return Ok(told);
    }
    let (replayed, segment_bytes): (Option<i64>, i64) = unprepared::query_as(
        "select (pg_last_wal_replay_lsn() - '0/0')::bigint, pg_size_bytes(current_setting('wal_segment_size'))",
    )
    .fetch_one(&mut *connection)
    .await?;
    let Some(replayed) = replayed else {
        return Ok(told);
    };
    let replayed = Lsn(replayed.cast_unsigned());
    let (mut timeline, mut newest) = (told, told);
    // Postgres looks for a new timeline in the same way, by one number after the other.
    while exists(connection, &history_file(newest + 1)).await? {
        newest += 1;
        let segment = segment_file(newest, replayed, segment_bytes.cast_unsigned());
        if exists(connection, &segment).await? {
            timeline = newest;
        }
    }
    Ok(timeline)
}

/// Whether this role may read files of Postgres. In a statement of its own: Postgres asks for the right before it
/// looks whether a function is called.
async fn may_read(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    unprepared::query_scalar(
        "select has_function_privilege('pg_read_file(text, bigint, bigint, boolean)', 'execute')",
    )
    .fetch_one(connection)
    .await
}

/// The beginning of a file of the log; `None` where there is no such file.
async fn read(
    connection: &mut PgConnection,
    name: &str,
    bytes_max: i64,
) -> Result<Option<String>, sqlx::Error> {
    unprepared::query_scalar("select pg_read_file('pg_wal/' || $1, 0, $2, true)")
        .bind(name.to_owned())
        .bind(bytes_max)
        .fetch_one(connection)
        .await
}

async fn exists(connection: &mut PgConnection, name: &str) -> Result<bool, sqlx::Error> {
    Ok(read(connection, name, 0).await?.is_some())
}

fn history_file(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

/// The file that has the last byte before a position.
fn segment_file(timeline: u32, end: Lsn, segment_bytes: u64) -> String {
    let last = end.0.saturating_sub(1);
    let [high, low] = [last >> 32, (last & u64::from(u32::MAX)) / segment_bytes];
    format!("{timeline:08X}{high:08X}{low:08X}")
}

/// Finds a timeline in a history file: lines of its number, the position where it ended, and why.
fn end_in(history: &str, timeline: u32) -> Option<Lsn> {
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
