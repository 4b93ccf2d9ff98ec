//! Whether anybody purges.

use super::Examination;
use super::Severity::Note;
use crate::unprepared;

/// How old a tombstone may become without being told of.
const TOMBSTONE_AGE: &str = "180 days";

/// Entities with older tombstones. The oldest is the first of an index.
const OLD: &str = "
    select e.name, to_char(oldest.changed_date, 'YYYY-MM-DD'), e.purged_date is null,
        (select pg_size_pretty(pg_total_relation_size('highwater.tombstone')))
    from highwater.entity e
    cross join lateral (
        select t.changed_date from highwater.tombstone t where t.entity = e.number order by t.changed_date limit 1) oldest
    where e.relation is not null and oldest.changed_date < clock_timestamp() - $1::interval
    order by e.number";

pub(super) async fn check(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let rows: Vec<(String, String, bool, String)> = unprepared::query_as(OLD)
        .bind(TOMBSTONE_AGE)
        .fetch_all(&mut *e.connection)
        .await?;
    for (name, since, never, size) in rows {
        let purged = if never {
            "nothing was ever purged"
        } else {
            "the last purge is long ago"
        };
        e.found(Note, "never_purged").of(&name).says(
            format!("its tombstones reach back to {since}, and {purged}"),
            format!("Tombstones of all entities take {size}, and grow with every delete."),
            "highwater-server purge --older-than 90d    # from cron",
        );
    }
    Ok(())
}
