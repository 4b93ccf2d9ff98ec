//! `migrate`: the schema `highwater`, created or upgraded.
//!
//! The files are embedded and checked as sqlx does it, and its bookkeeping is kept; but sqlx prepares its
//! statements under names and locks by session, which a pooler would lend to others.

use std::collections::BTreeMap;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::AdminError;
use crate::unprepared;

/// Held while the schema is migrated, so that no two do it at one time.
const MIGRATION_LOCK: i64 = 0x6869_6768_7761_7465;

/// Inside the schema, so that it never meets an application's own migrations.
const BOOKKEEPING: &str = "create schema if not exists highwater;
    create table if not exists highwater.migration (
        version bigint primary key,
        description text not null,
        installed_on timestamptz not null default now(),
        success boolean not null,
        checksum bytea not null,
        execution_time bigint not null
    )";

/// Creates or upgrades the schema `highwater`, as a whole or not at all.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), AdminError> {
    let mut transaction = connection.begin().await?;
    let begin = format!(
        "set local client_min_messages = warning; select pg_advisory_xact_lock({MIGRATION_LOCK}); {BOOKKEEPING}"
    );
    sqlx::raw_sql(AssertSqlSafe(begin))
        .execute(&mut *transaction)
        .await?;
    let applied = applied(&mut transaction).await?;
    let migrator = migrator();
    if let Some(version) = applied.keys().find(|version| !migrator.version_exists(**version)) {
        return Err(MigrateError::VersionMissing(*version).into());
    }
    for migration in migrator.iter() {
        match applied.get(&migration.version) {
            Some(checksum) if *checksum == *migration.checksum => {}
            Some(_) => return Err(MigrateError::VersionMismatch(migration.version).into()),
            None => {
                sqlx::raw_sql(migration.sql.clone())
                    .execute(&mut *transaction)
                    .await
                    .map_err(|error| MigrateError::ExecuteMigration(error, migration.version))?;
                unprepared::query(
                    "insert into highwater.migration (version, description, success, checksum, execution_time)
                     values ($1, $2, true, $3, 0)",
                )
                .bind(migration.version)
                .bind(&*migration.description)
                .bind(&*migration.checksum)
                .execute(&mut *transaction)
                .await?;
            }
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// The migrations that this program brings along.
pub(crate) fn migrator() -> Migrator {
    sqlx::migrate!("./migrations")
}

/// The migrations that were run on this database: versions and checksums.
pub(crate) async fn applied(connection: &mut PgConnection) -> Result<BTreeMap<i64, Vec<u8>>, sqlx::Error> {
    let applied: Vec<(i64, Vec<u8>)> =
        unprepared::query_as("select version, checksum from highwater.migration where success")
            .fetch_all(connection)
            .await?;
    Ok(applied.into_iter().collect())
}
