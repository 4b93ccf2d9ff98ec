//! What tests wait for, and what they begin with.

use std::fmt::Display;
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgPool};

/// The longest that a condition is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often it is looked whether it holds.
const POLL: Duration = Duration::from_millis(10);

/// Waits until a condition in SQL holds. A Postgres that was just killed need not answer yet.
///
/// # Panics
///
/// When it does not come to hold within a minute.
pub async fn until(pool: &PgPool, condition: &str) {
    let holds = || sqlx::query_scalar::<_, bool>(AssertSqlSafe(condition.to_owned())).fetch_one(pool);
    let mut last = holds().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !matches!(last, Ok(true)) {
        assert!(tokio::time::Instant::now() < deadline, "{condition}: {last:?}");
        tokio::time::sleep(POLL).await;
        last = holds().await;
    }
}

/// Asks again and again until the answer is as it should be, and gives that answer.
///
/// # Panics
///
/// When there is none within a minute. It shows the last one.
pub async fn until_told<T: Display>(ask: impl AsyncFn() -> T, holds: impl Fn(&T) -> bool) -> T {
    let mut last = None;
    let asking = async {
        loop {
            let told = ask().await;
            if holds(&told) {
                return told;
            }
            last = Some(told);
            tokio::time::sleep(POLL).await;
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asking).await;
    asked.unwrap_or_else(|_| match last {
        Some(last) => panic!("told at last: {last:#}"),
        None => panic!("nothing was told"),
    })
}

/// Waits until a standby has replayed all that its primary has written by now.
///
/// # Panics
///
/// When it has not within a minute, or the primary cannot be asked.
pub async fn caught_up(primary: &PgPool, standby: &PgPool) {
    let written: String = sqlx::query_scalar("select pg_current_wal_insert_lsn()::text")
        .fetch_one(primary)
        .await
        .expect("a position in the log");
    until(
        standby,
        &format!("select pg_last_wal_replay_lsn() >= '{written}'"),
    )
    .await;
}

/// Lets a standby have all that its primary has written by now, and nothing from here on.
///
/// # Panics
///
/// When that takes more than a minute, or one of the two cannot be asked.
pub async fn cut_off(primary: &PgPool, standby: &PgPool) {
    caught_up(primary, standby).await;
    for statement in [
        "alter system set primary_conninfo = ''",
        "select pg_reload_conf()",
    ] {
        let done = sqlx::raw_sql(statement).execute(standby).await;
        done.expect("a standby of our own");
    }
    until(standby, "select not exists (select from pg_stat_wal_receiver)").await;
}

/// Makes a standby the primary.
///
/// # Panics
///
/// When it is none within a minute.
pub async fn promote(standby: &PgPool) {
    let asked = sqlx::raw_sql("select pg_promote()").execute(standby).await;
    asked.expect("a standby of our own");
    until(standby, "select not pg_is_in_recovery()").await;
}

/// The seed that `HIGHWATER_SEED` gives, else any. A test prints it, so that it can be given again.
pub fn seed() -> u64 {
    let given = std::env::var("HIGHWATER_SEED").ok();
    given
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random)
}
