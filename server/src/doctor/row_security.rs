//! Where row security limits the role that serves, and whether it can serve all the same. See docs/row-security.md.

use super::Examination;
use super::Severity::{Note, Serious};
use crate::unprepared;

/// Entities whose rows are limited for a role.
const LIMITED: &str = "
    with role as (select r.* from pg_roles r where r.rolname = $1),
    limited as (
        select c.oid from pg_class c, role r
        where c.relrowsecurity and not r.rolsuper and not r.rolbypassrls
          and (c.relforcerowsecurity or not pg_has_role(r.oid, c.relowner, 'usage'))
    )
    select e.name, e.relation::regclass::text, e.scope_column is null,
        'highwater.tombstone'::regclass not in (select oid from limited)
    from highwater.entity e
    where e.relation in (select oid from limited)
    order by e.number";

/// Tables of the schema that not even their owner may write all rows of.
const FORCED: &str = "
    select c.oid::regclass::text from pg_class c
    where c.relnamespace = 'highwater'::regnamespace and c.relrowsecurity and c.relforcerowsecurity
    order by 1";

pub(super) async fn check(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let role = e.report.role.clone();
    let rows: Vec<(String, String, bool, bool)> = unprepared::query_as(LIMITED)
        .bind(&role)
        .fetch_all(&mut *e.connection)
        .await?;
    for (name, table, lacks_scope, tells_tombstones) in rows {
        if lacks_scope {
            e.found(Serious, "row_security_scope").of(&name).says(
                format!("row security limits what {role} may read of {table}, which has no scope to follow it by"),
                "A row that leaves what the role may read would stay in every store, so the entity is not served.",
                format!("highwater-server enable '{table}' --scope COLUMN\nalter role \"{role}\" bypassrls;    -- where it is to read all"),
            );
        } else if tells_tombstones {
            e.found(Serious, "row_security_tombstones").of(&name).says(
                format!("row security limits what {role} may read of {table}, and not of highwater.tombstone"),
                "The keys of all deleted rows are there, so the entity is not served.",
                format!(
                    "alter table highwater.tombstone enable row level security;\n\
                     create policy \"{role}\" on highwater.tombstone for select to \"{role}\" using (scope = '...' or scope is null);"
                ),
            );
        } else {
            e.found(Note, "row_security").of(&name).says(
                format!("row security limits what {role} may read of {table}"),
                "The server serves those rows and no others.",
                "nothing, where that is meant; see docs/row-security.md",
            );
        }
    }
    let forced: Vec<String> = unprepared::query_scalar(FORCED)
        .fetch_all(&mut *e.connection)
        .await?;
    for table in forced {
        e.found(Serious, "row_security_forced").of(&table).says(
            "row security is forced on its owner too",
            "The triggers write tombstones as the owner: every delete of the application fails or leaves none.",
            format!("alter table {table} no force row level security;"),
        );
    }
    Ok(())
}
