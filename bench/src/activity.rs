//! What a server does in Postgres while something is measured, looked at again and again.

use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use sqlx::AssertSqlSafe;

use crate::stage::Stage;

/// How often to look.
const LOOK: Duration = Duration::from_millis(5);

/// Which of a server's connections to Postgres are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    All,
    /// Those in a transaction.
    AtWork,
}

/// Does `work`, and counts meanwhile how many connections there are at most.
pub(crate) async fn most_during<T>(
    stage: &Stage,
    which: Connections,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, u64)> {
    // One server runs at a time.
    let which = match which {
        Connections::All => "true",
        Connections::AtWork => "state <> 'idle'",
    };
    let count = format!(
        "select count(*) from pg_stat_activity where application_name = 'highwater-server' and {which}"
    );
    let mut admin = stage.admin().await?;
    let mut work = pin!(work);
    let mut most = 0;
    loop {
        tokio::select! {
            done = &mut work => return Ok((done?, most)),
            () = tokio::time::sleep(LOOK) => {
                let count = sqlx::query_scalar(AssertSqlSafe(count.as_str()));
                let count: i64 = count.fetch_one(&mut admin).await?;
                most = most.max(u64::try_from(count)?);
            }
        }
    }
}
