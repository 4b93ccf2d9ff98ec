//! What the role that serves may do: read what it needs, and write nothing.

use super::Examination;
use super::Severity::{Note, Serious, Warning};
use crate::unprepared;

/// Tables that have to be read: the entities', and the schema's own.
const NEEDED: &str = "
    with needed (relation) as (
        select c.oid from highwater.entity e join pg_class c on c.oid = e.relation
        union
        select c.oid from pg_class c where c.relnamespace = 'highwater'::regnamespace and c.relkind = 'r'
    )
    select c.oid::regclass::text,
        has_schema_privilege($1, c.relnamespace, 'usage') and has_table_privilege($1, c.oid, 'select') as may_read,
        has_table_privilege($1, c.oid, 'insert, update, delete, truncate')
            or has_any_column_privilege($1, c.oid, 'insert, update') as may_write
    from needed n join pg_class c on c.oid = n.relation
    order by 1";

/// A table of the schema's own without which all can be served.
const PURGED: &str = "highwater.purged";

pub(super) async fn check(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let role = e.report.role.clone();
    let is_superuser: Option<bool> =
        unprepared::query_scalar("select rolsuper from pg_roles where rolname = $1")
            .bind(&role)
            .fetch_optional(&mut *e.connection)
            .await?;
    let grants = format!("highwater-server grants --role '{role}' | psql    # as the owner of the tables");
    let Some(is_superuser) = is_superuser else {
        e.found(Serious, "role_missing").of(&role).says(
            "there is no role of this name",
            "The server cannot log in.",
            grants,
        );
        return Ok(());
    };
    let rows: Vec<(String, bool, bool)> = unprepared::query_as(NEEDED)
        .bind(&role)
        .fetch_all(&mut *e.connection)
        .await?;
    for (table, may_read, _) in &rows {
        if !may_read && table == PURGED {
            e.found(Note, "rights_purged").of(&role).says(
                format!("it may not read {table}"),
                "Whoever was away for longer than a purge reaches back is told of no keys: the entity begins anew there.",
                format!("{grants}    # where it was not taken away on purpose, from a role that row security limits"),
            );
        } else if !may_read {
            let consequence = if table.starts_with("highwater.") {
                "The server answers with an error."
            } else {
                "The server leaves the entity out."
            };
            e.found(Serious, "rights_missing").of(&role).says(
                format!("it may not read {table}"),
                consequence,
                grants.clone(),
            );
        }
    }
    let written: Vec<&str> = rows
        .iter()
        .filter(|(_, _, may_write)| *may_write)
        .map(|(table, ..)| table.as_str())
        .collect();
    // Whoever is connected may be the owner who looks after things, and another role may serve.
    let severity = if e.options.role.is_some() { Warning } else { Note };
    let apart = format!(
        "highwater-server grants --role highwater_server | psql, and let `serve` log in as that role\n\
         highwater-server doctor --role highwater_server    # where another role than {role} serves already"
    );
    if is_superuser {
        e.found(severity, "rights_superuser").of(&role).says(
            "it is a superuser",
            "The server needs to read, and nothing else.",
            apart,
        );
    } else if !written.is_empty() {
        e.found(severity, "rights_write").of(&role).says(
            format!("it may write {}", written.join(", ")),
            "The server needs to read, and nothing else.",
            format!(
                "revoke insert, update, delete, truncate on {} from \"{role}\";    -- where they were granted to it\n{apart}",
                written.join(", ")
            ),
        );
    }
    Ok(())
}
