//! The rights of the role that serves: to read, and nothing else.

use std::fmt::Write as _;

use sqlx::{Connection as _, PgConnection};

use super::AdminError;
use crate::entity;
use crate::quoting::identifier;
use crate::unprepared;

/// The SQL that lets `role` serve all entities that there are now, for the owner of the tables to run. It may
/// be run again. Nothing is changed by printing it.
pub async fn grants(connection: &mut PgConnection, role: &str) -> Result<String, AdminError> {
    let mut transaction = connection.begin().await?;
    let (database, exists): (String, bool) = unprepared::query_as(
        "select current_database()::text, exists (select from pg_roles where rolname = $1)",
    )
    .bind(role)
    .fetch_one(&mut *transaction)
    .await?;
    let schemas: Vec<String> = unprepared::query_scalar(
        "select distinct n.nspname::text
         from highwater.entity e
         join pg_class c on c.oid = e.relation
         join pg_namespace n on n.oid = c.relnamespace
         order by 1",
    )
    .fetch_all(&mut *transaction)
    .await?;
    let tables = entity::tables(&mut transaction).await?;
    transaction.rollback().await?;

    let role = identifier(role);
    let mut script = String::new();
    if !exists {
        let _ = writeln!(
            script,
            "-- In psql, \\password {role} gives it a password.\ncreate role {role} login;"
        );
    }
    let _ = writeln!(
        script,
        "grant connect on database {} to {role};\n\
         -- What Highwater remembers; it holds keys of deleted rows, and no other values but scopes.\n\
         grant usage on schema highwater to {role};\n\
         grant select on all tables in schema highwater to {role};",
        identifier(&database)
    );
    for schema in schemas {
        let _ = writeln!(script, "grant usage on schema {} to {role};", identifier(&schema));
    }
    if tables.is_empty() {
        script.push_str("-- There are no entities yet. Print this again after `highwater-server enable`.\n");
    } else {
        script.push_str("-- Each entity as a whole: a page locks its table in access share mode.\n");
    }
    for table in tables {
        let _ = writeln!(script, "grant select on {} to {role};", table.table);
    }
    let _ = write!(
        script,
        "-- Optional, by a superuser: after a promotion clients go on, or compare what was written since alone\n\
         -- (docs/restore-and-failover.md).\n\
         -- grant execute on function pg_read_file(text, bigint, bigint, boolean) to {role};\n\
         -- Optional: the same of standbys that receive log, and `highwater-server doctor` as this role sees what\n\
         -- others are doing.\n\
         -- grant pg_read_all_stats to {role};\n"
    );
    Ok(script)
}

/// The roles that may read what Highwater remembers, as those do that serve, and not this table.
pub async fn without_rights(connection: &mut PgConnection, table: &str) -> Result<Vec<String>, AdminError> {
    let mut transaction = connection.begin().await?;
    let roles = unprepared::query_scalar(
        "select r.rolname::text
         from pg_class c, pg_roles r
         where c.oid = $1::text::regclass and r.rolcanlogin and not r.rolsuper
           and has_schema_privilege(r.oid, 'highwater', 'usage') and has_table_privilege(r.oid, 'highwater.tombstone', 'select')
           and not (has_schema_privilege(r.oid, c.relnamespace, 'usage') and has_table_privilege(r.oid, c.oid, 'select'))
         order by 1",
    )
    .bind(table)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    Ok(roles)
}
