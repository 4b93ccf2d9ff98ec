//! Whether the schema `highwater` is there, is that of this program, and belongs to this database.

use std::collections::BTreeMap;

use super::Examination;
use super::Severity::Serious;
use crate::admin::{applied, migrator};
use crate::unprepared;

const MIGRATE: &str = "highwater-server migrate";

/// False where nothing further can be looked at.
pub(super) async fn check(e: &mut Examination<'_>) -> Result<bool, sqlx::Error> {
    let there: bool =
        unprepared::query_scalar("select exists (select from pg_namespace where nspname = 'highwater')")
            .fetch_one(&mut *e.connection)
            .await?;
    if !there {
        e.found(Serious, "schema_missing").of("highwater").says(
            "the schema highwater is missing",
            "It holds the entities and their tombstones. Is this the right database?",
            MIGRATE,
        );
        return Ok(false);
    }
    let readable: bool = unprepared::query_scalar(
        "select has_schema_privilege('highwater', 'usage') and coalesce(bool_and(
             has_table_privilege(c.oid, 'select')), false)
         from pg_class c where c.relnamespace = 'highwater'::regnamespace and c.relkind = 'r' and c.relname <> 'purged'",
    )
    .fetch_one(&mut *e.connection)
    .await?;
    if !readable {
        let role = e.report.role.clone();
        e.found(Serious, "rights_missing").of(&role).says(
            "the role that is connected may not read the schema highwater",
            "Nothing can be served, and nothing further was looked at.",
            format!("highwater-server grants --role {role} | psql    # as the owner of the tables"),
        );
        return Ok(false);
    }
    if !version(e).await? {
        return Ok(false);
    }
    moved(e).await?;
    e.report.entities = unprepared::query_scalar(
        "select name from highwater.entity where relation is not null order by name",
    )
    .fetch_all(&mut *e.connection)
    .await?;
    Ok(true)
}

async fn version(e: &mut Examination<'_>) -> Result<bool, sqlx::Error> {
    let applied = applied(&mut *e.connection).await?;
    let migrator = migrator();
    let own: BTreeMap<i64, &[u8]> = migrator
        .iter()
        .map(|migration| (migration.version, migration.checksum.as_ref()))
        .collect();
    let why = "The program and the schema do not understand each other, and entities cannot be looked at.";
    if let Some(version) = applied.keys().find(|version| !own.contains_key(version)) {
        e.found(Serious, "schema_newer").of("highwater").says(
            format!("the schema highwater is newer than this program: it has the migration {version}"),
            why,
            "install the highwater-server that made it, or a newer one",
        );
        return Ok(false);
    }
    if let Some(version) = own.keys().find(|version| !applied.contains_key(version)) {
        e.found(Serious, "schema_older").of("highwater").says(
            format!("the schema highwater is older than this program: it lacks the migration {version}"),
            why,
            MIGRATE,
        );
        return Ok(false);
    }
    let other = applied
        .iter()
        .find(|(version, checksum)| own.get(version).is_some_and(|own| *own != checksum.as_slice()));
    if let Some((version, _)) = other {
        e.found(Serious, "schema_other").of("highwater").says(
            format!("the migration {version} of the schema highwater is not the one that this program has"),
            why,
            "install the highwater-server that made it",
        );
        return Ok(false);
    }
    Ok(true)
}

async fn moved(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let moved: bool = unprepared::query_scalar("select highwater.is_moved()")
        .fetch_one(&mut *e.connection)
        .await?;
    if moved {
        e.found(Serious, "moved").says(
            "the database was restored or copied to where it is",
            "The ids in its rows are those of another cluster, so it is not served.",
            "highwater-server rebase             # it takes the place of the original\n\
             highwater-server rebase --new-id    # it is a copy that goes its own way",
        );
    }
    Ok(())
}
