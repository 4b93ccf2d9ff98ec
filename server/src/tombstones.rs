//! About how many tombstones there are of each entity, asked of Postgres' statistics and seldom: to count
//! them would cost as much as there are.

use std::time::Duration;

use highwater_shared::EntityName;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::node::Node;
use crate::unprepared;

/// How long an estimate is good. Postgres renews its statistics less often.
const ESTIMATE_AGE_MAX: Duration = Duration::from_secs(30);

/// How long Postgres may take to answer; after that the last estimate stands.
const ESTIMATE_WAIT_MAX: Duration = Duration::from_secs(1);

/// How the tombstones are spread over entities, as `analyze` found it. Nothing where it never ran, or where
/// row security limits this role.
const ESTIMATE: &str = "
    select e.name, (c.reltuples * coalesce(
        (select u.frequency
         from unnest(s.most_common_vals::text::integer[], s.most_common_freqs) u (number, frequency)
         where u.number = e.number), 0))::bigint as tombstones
    from highwater.entity e
    cross join pg_class c
    join pg_stats s on s.schemaname = 'highwater' and s.tablename = 'tombstone' and s.attname = 'entity'
    where e.relation is not null and c.oid = 'highwater.tombstone'::regclass and c.reltuples >= 0
    order by e.number";

/// The last estimate.
#[derive(Debug, Default)]
pub struct Tombstones(Mutex<Estimate>);

#[derive(Debug, Default)]
struct Estimate {
    asked: Option<Instant>,
    numbers: Vec<(EntityName, i64)>,
}

impl Tombstones {
    /// The numbers by entity. One question at most is under way, whoever else asks meanwhile.
    pub async fn estimate(&self, node: &Node) -> Vec<(EntityName, i64)> {
        let mut estimate = self.0.lock().await;
        if estimate
            .asked
            .is_none_or(|asked| asked.elapsed() >= ESTIMATE_AGE_MAX)
        {
            estimate.asked = Some(Instant::now());
            match timeout(ESTIMATE_WAIT_MAX, ask(node)).await {
                Ok(Ok(numbers)) => estimate.numbers = numbers,
                Ok(Err(error)) => tracing::debug!(%error, "tombstones cannot be estimated"),
                Err(_) => tracing::debug!("tombstones cannot be estimated in time"),
            }
        }
        estimate.numbers.clone()
    }
}

async fn ask(node: &Node) -> Result<Vec<(EntityName, i64)>, sqlx::Error> {
    let mut connection = node.connect().await?;
    connection.begin(&[]).await?;
    let rows: Vec<(String, i64)> = unprepared::query_as(ESTIMATE)
        .fetch_all(connection.get()?)
        .await?;
    connection.let_go().await?;
    Ok(rows
        .into_iter()
        .map(|(name, number)| (EntityName::new(name), number))
        .collect())
}
