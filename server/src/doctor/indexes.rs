//! Whether a page finds the indexes that it walks: those of each entity, and those of the tombstones.

use super::Examination;
use super::Severity::{Note, Serious, Warning};
use crate::admin::INDEXES;
use crate::unprepared;

/// An entity must be that old before an index that nobody uses means anything.
const UNUSED_AGE: &str = "1 day";

/// A table must be that large.
const UNUSED_ROWS_MIN: i64 = 1_000;

/// Indexes of entities that are missing, invalid, or lack partitions.
const OF_ENTITIES: &str = "
    select e.name, e.relation::regclass::text, kind,
        case when i.indexrelid is null then 'is missing'
             when c.relkind = 'p' then 'does not have all partitions'
             else 'is invalid: building it was broken off' end
    from highwater.entity e
    join pg_class c on c.oid = e.relation
    cross join unnest($1::text[]) kind
    left join pg_class ic on ic.relname = highwater.index_name(e.number, kind) and ic.relnamespace = c.relnamespace
    left join pg_index i on i.indexrelid = ic.oid and i.indrelid = c.oid
    where highwater.index_definition(e.number, kind) is not null and i.indisvalid is not true
    order by e.number, kind";

/// Entities of some size that no page has ever walked the index of.
const UNUSED: &str = "
    select e.name, e.relation::regclass::text, sum(u.seq_scan)::bigint
    from highwater.entity e
    cross join lateral (select relid from pg_partition_tree(e.relation) union select e.relation) p (relid)
    join pg_stat_user_tables u on u.relid = p.relid
    left join pg_class c on c.oid = p.relid
    where e.began_date < clock_timestamp() - $1::interval
    group by e.number, e.name, e.relation
    having sum(greatest(c.reltuples, 0)) >= $2 and not exists (
        select from pg_stat_user_indexes x
        where x.relid in (select relid from pg_partition_tree(e.relation) union select e.relation)
          and x.idx_scan > 0 and (
              x.indexrelname like 'highwater\\_' || e.number || '\\_%'
              or exists (select from pg_partition_ancestors(x.indexrelid) a join pg_class ac on ac.oid = a.relid
                         where ac.relname like 'highwater\\_' || e.number || '\\_%')))
    order by e.number";

/// The indexes of the schema's own tables, as the migrations make them.
const OWN: [(&str, &str); 5] = [
    (
        "tombstone_xid",
        "highwater.tombstone (entity, changed_xid, number)",
    ),
    (
        "tombstone_date",
        "highwater.tombstone (entity, changed_date, number)",
    ),
    (
        "tombstone_scope_xid",
        "highwater.tombstone ((entity::bigint), scope, changed_xid, number) where scope is not null",
    ),
    (
        "tombstone_scope_date",
        "highwater.tombstone ((entity::bigint), scope, changed_date, number) where scope is not null",
    ),
    ("truncation_xid", "highwater.truncation (entity, changed_xid)"),
];

pub(super) async fn check(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let rows: Vec<(String, String, String, String)> = unprepared::query_as(OF_ENTITIES)
        .bind(&INDEXES[..])
        .fetch_all(&mut *e.connection)
        .await?;
    for (name, table, kind, what) in rows {
        let (severity, why) = match kind.as_str() {
            "xid" => (Serious, "Every pull sorts the whole table."),
            "scope_xid" => (
                Serious,
                "Every pull of a caller with a scope reads what changed in all others.",
            ),
            "deleted" => (Warning, "A purge reads the whole table."),
            _ => (Warning, "A caller who sends a date has the whole table read."),
        };
        e.found(severity, "index").of(&name).says(
            format!(
                "the index of {table} for {} {what}",
                kind.replace("scope_", "scopes and ")
            ),
            why,
            format!("highwater-server enable '{table}'"),
        );
    }

    let valid: Vec<String> = unprepared::query_scalar(
        "select c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid
         where c.relnamespace = 'highwater'::regnamespace and i.indisvalid",
    )
    .fetch_all(&mut *e.connection)
    .await?;
    for (index, definition) in OWN {
        if !valid.iter().any(|valid| valid == index) {
            e.found(Serious, "index").of("highwater").says(
                format!("the index highwater.{index} is missing or invalid"),
                "Pages read all tombstones to find those that are new.",
                format!(
                    "drop index concurrently if exists highwater.{index};\ncreate index concurrently {index} on {definition};"
                ),
            );
        }
    }

    let rows: Vec<(String, String, i64)> = unprepared::query_as(UNUSED)
        .bind(UNUSED_AGE)
        .bind(UNUSED_ROWS_MIN)
        .fetch_all(&mut *e.connection)
        .await?;
    for (name, table, scans) in rows {
        e.found(Note, "index_unused").of(&name).says(
            format!("no page has walked an index of {table} since Postgres' statistics began ({scans} sequential scans)"),
            "Nobody seems to pull it, and each write pays for its indexes.",
            format!("highwater-server disable '{table}'    # where nobody needs it"),
        );
    }
    Ok(())
}
