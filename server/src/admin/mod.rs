//! What the commands other than `serve` do to the database.

use std::time::Duration;

use chrono::{DateTime, Utc};
use highwater_shared::EntityName;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row};

use crate::database::sqlstate;
use crate::entity;
use crate::quoting::identifier;

/// How long one attempt waits for the lock on a table. While it waits, others queue behind it.
const LOCK_WAIT: &str = "2s";

/// How often the lock is tried for.
const LOCK_ATTEMPTS_MAX: u32 = 30;

/// What lies between two attempts.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// The indexes of an entity: for changes since a snapshot, since a date, for flagged rows, and for
/// changes in a scope.
const INDEXES: [&str; 5] = ["xid", "date", "deleted", "scope_xid", "scope_date"];

/// The most rows of each kind that one transaction of a purge removes.
const PURGE_BATCH_ROWS: i32 = 5_000;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The table stayed locked by others.
    #[error("{table} was in use by other transactions for too long; end those that sit idle, and try again")]
    Locked {
        /// The table, as it was named.
        table: String,
    },
    /// A function of the schema refused; Postgres' own words, with the hint.
    #[error("{message}")]
    Refused {
        /// What was wrong and what to do.
        message: String,
    },
    /// The schema is not there.
    #[error("the schema highwater is missing; run `highwater-server migrate` on this database first")]
    NotMigrated,
    /// The migrations could not be run.
    #[error("cannot migrate")]
    Migrate(#[from] MigrateError),
    /// Postgres refused or went away.
    #[error("cannot use the database")]
    Postgres(#[source] sqlx::Error),
}

impl From<sqlx::Error> for AdminError {
    fn from(error: sqlx::Error) -> Self {
        let Some(refusal) = error.as_database_error() else {
            return Self::Postgres(error);
        };
        match refusal.code().as_deref() {
            Some("3F000" | "42P01") if refusal.message().contains("\"highwater") => Self::NotMigrated,
            _ => {
                let hint = refusal
                    .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                    .and_then(sqlx::postgres::PgDatabaseError::hint)
                    .map(|hint| format!("; {hint}"))
                    .unwrap_or_default();
                Self::Refused {
                    message: format!("{}{hint}", refusal.message()),
                }
            }
        }
    }
}

/// How a table is to become an entity. What is absent stays as it was, at first: all columns,
/// no scope, the table's own name.
#[derive(Clone, Debug, Default)]
pub struct EnableOptions {
    /// The public name.
    pub name: Option<String>,
    /// The scope column.
    pub scope: Option<String>,
    /// The columns to publish.
    pub columns: Option<Vec<String>>,
    /// The columns to hide.
    pub exclude: Option<Vec<String>>,
    /// The application's column that the deleted flag follows.
    pub deleted_column: Option<String>,
}

/// An entity as `highwater-server entities` lists it.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedEntity {
    /// The public name.
    pub name: EntityName,
    /// The table, as SQL names it; absent where it was dropped.
    pub table: Option<String>,
    /// The key's columns.
    pub key: Vec<String>,
    /// The published columns, where they were chosen.
    pub columns: Option<Vec<String>>,
    /// The hidden columns.
    pub exclude: Vec<String>,
    /// The scope column.
    pub scope: Option<String>,
    /// The application's column that the deleted flag follows.
    pub deleted_column: Option<String>,
    /// Rows by Postgres' statistics.
    pub estimated_rows: Option<i64>,
    /// Whether all indexes are there and valid.
    pub indexed: bool,
}

/// Creates or upgrades the schema `highwater`. Its bookkeeping lives inside the schema, so that
/// it never meets an application's own migrations.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), AdminError> {
    let mut migrator: Migrator = sqlx::migrate!("./migrations");
    migrator.create_schema("highwater");
    migrator.dangerous_set_table_name("highwater.migration");
    migrator.run(connection).await?;
    Ok(())
}

/// Makes a table an entity, and builds its indexes without holding up its writers.
pub async fn enable(
    connection: &mut PgConnection,
    table: &str,
    options: &EnableOptions,
) -> Result<(), AdminError> {
    let mut attempt = 1;
    let number = loop {
        match enable_once(connection, table, options).await {
            Err(error) if is_lock_timeout(&error) && attempt < LOCK_ATTEMPTS_MAX => attempt += 1,
            Err(error) if is_lock_timeout(&error) => {
                return Err(AdminError::Locked {
                    table: table.to_owned(),
                });
            }
            other => break other?,
        }
        tracing::info!(table, attempt, "the table is in use; trying again");
        tokio::time::sleep(LOCK_PAUSE).await;
    };
    // One statement of its own, so that the table is not locked meanwhile.
    sqlx::query("select highwater.flag_deleted($1::text::regclass)")
        .bind(table)
        .execute(&mut *connection)
        .await?;
    for kind in INDEXES {
        build_index(connection, table, number, kind).await?;
    }
    Ok(())
}

async fn enable_once(
    connection: &mut PgConnection,
    table: &str,
    options: &EnableOptions,
) -> Result<i32, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query("select set_config('lock_timeout', $1, true)")
        .bind(LOCK_WAIT)
        .execute(&mut *transaction)
        .await?;
    let number = sqlx::query_scalar("select highwater.enable($1::text::regclass, $2, $3, $4, $5, $6, false)")
        .bind(table)
        .bind(&options.name)
        .bind(&options.scope)
        .bind(&options.columns)
        .bind(&options.exclude)
        .bind(&options.deleted_column)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(number)
}

/// Builds one of an entity's indexes `concurrently`: on a partitioned table on each partition,
/// which is then attached. One that a failed attempt left invalid is built anew.
async fn build_index(
    connection: &mut PgConnection,
    table: &str,
    number: i32,
    kind: &str,
) -> Result<(), AdminError> {
    let definition: Option<String> = sqlx::query_scalar("select highwater.index_definition($1, $2)")
        .bind(number)
        .bind(kind)
        .fetch_one(&mut *connection)
        .await?;
    let Some(definition) = definition else {
        return Ok(());
    };
    // From the root down: each relation with its index's name, and that of its parent's index.
    let relations = sqlx::query(
        "select n.nspname::text as schema, c.relname::text as relation, p.isleaf or c.relkind = 'r' as leaf,
             highwater.index_name($2, $3) || case when p.level > 0 then '_' || c.oid else '' end as index,
             highwater.index_name($2, $3) || case when p.level > 1 then '_' || p.parentrelid::oid else '' end as parent,
             pn.nspname::text as parent_schema, p.level,
             (select not i.indisvalid from pg_index i join pg_class ic on ic.oid = i.indexrelid
              where i.indrelid = c.oid
                and ic.relname = highwater.index_name($2, $3) || case when p.level > 0 then '_' || c.oid else '' end) as invalid
         from (select relid, parentrelid, isleaf, level from pg_partition_tree($1::text::regclass)
               union select $1::text::regclass, null, true, 0
               where not exists (select from pg_partition_tree($1::text::regclass))) p
         join pg_class c on c.oid = p.relid
         join pg_namespace n on n.oid = c.relnamespace
         left join pg_class pc on pc.oid = p.parentrelid
         left join pg_namespace pn on pn.oid = pc.relnamespace
         order by p.level",
    )
    .bind(table)
    .bind(number)
    .bind(kind)
    .fetch_all(&mut *connection)
    .await?;
    for row in &relations {
        let name = |column: &str| row.try_get::<String, _>(column).map(|name| identifier(&name));
        let (schema, relation, index) = (name("schema")?, name("relation")?, name("index")?);
        let leaf: bool = row.try_get("leaf")?;
        if leaf && row.try_get::<Option<bool>, _>("invalid")?.unwrap_or(false) {
            run(
                connection,
                format!("drop index concurrently if exists {schema}.{index}"),
            )
            .await?;
        }
        let (how, only) = if leaf { ("concurrently", "") } else { ("", "only ") };
        run(
            connection,
            format!("create index {how} if not exists {index} on {only}{schema}.{relation} {definition}"),
        )
        .await?;
    }
    for row in relations.iter().rev() {
        if row.try_get::<i32, _>("level")? == 0 {
            continue;
        }
        let name = |column: &str| row.try_get::<String, _>(column).map(|name| identifier(&name));
        let (parent_schema, parent, schema, index) = (
            name("parent_schema")?,
            name("parent")?,
            name("schema")?,
            name("index")?,
        );
        run(
            connection,
            format!("alter index {parent_schema}.{parent} attach partition {schema}.{index}"),
        )
        .await?;
    }
    Ok(())
}

/// Undoes `enable`. False where the table was no entity.
pub async fn disable(
    connection: &mut PgConnection,
    table: &str,
    drop_columns: bool,
) -> Result<bool, AdminError> {
    let was = sqlx::query_scalar("select highwater.disable($1::text::regclass, $2)")
        .bind(table)
        .bind(drop_columns)
        .fetch_one(connection)
        .await?;
    Ok(was)
}

/// All entities, by name.
pub async fn entities(connection: &mut PgConnection) -> Result<Vec<ListedEntity>, AdminError> {
    let rows = sqlx::query(
        "select e.name, case when c.oid is not null then e.relation::text end as table_name, e.key_columns,
             e.chosen_columns, coalesce(e.excluded_columns, '{}') as excluded, e.scope_column, e.deleted_column,
             nullif(c.reltuples, -1)::bigint as estimated_rows,
             (select count(*) = (select count(highwater.index_definition(e.number, kind)) from unnest($1::text[]) kind)
              from pg_index i join pg_class ic on ic.oid = i.indexrelid
              where i.indrelid = c.oid and i.indisvalid
                and ic.relname in (select highwater.index_name(e.number, kind) from unnest($1::text[]) kind)) as indexed
         from highwater.entity e left join pg_class c on c.oid = e.relation
         where e.relation is not null
         order by e.name",
    )
    .bind(&INDEXES[..])
    .fetch_all(connection)
    .await?;
    let listed = |row: &sqlx::postgres::PgRow| {
        Ok(ListedEntity {
            name: EntityName::new(row.try_get::<String, _>("name")?),
            table: row.try_get("table_name")?,
            key: row.try_get("key_columns")?,
            columns: row.try_get("chosen_columns")?,
            exclude: row.try_get("excluded")?,
            scope: row.try_get("scope_column")?,
            deleted_column: row.try_get("deleted_column")?,
            estimated_rows: row.try_get("estimated_rows")?,
            indexed: row.try_get::<Option<bool>, _>("indexed")?.unwrap_or(false),
        })
    };
    rows.iter().map(listed).collect()
}

/// What `purge` would remove, or has removed, of one entity.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Purged {
    /// The entity.
    pub entity: EntityName,
    /// Tombstones, truncations and flagged rows.
    pub removed: u64,
}

/// Removes what has been deleted for longer than `older_than`, entity by entity, in small
/// transactions: it can be interrupted at any time, and run again. With `dry_run` it only counts.
pub async fn purge(
    connection: &mut PgConnection,
    older_than: Duration,
    dry_run: bool,
) -> Result<Vec<Purged>, AdminError> {
    let seconds = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX);
    // One bound for all, by the clock that stamps.
    let before: DateTime<Utc> =
        sqlx::query_scalar("select clock_timestamp() - make_interval(secs => $1::double precision)")
            .bind(seconds)
            .fetch_one(&mut *connection)
            .await?;
    let mut purged = Vec::new();
    for table in entity::tables(connection).await? {
        let mut removed = 0;
        if dry_run {
            removed = sqlx::query_scalar(AssertSqlSafe(format!(
                "select (select count(*) from highwater.tombstone t where t.entity = $1 and t.changed_date < $2)
                      + (select count(*) from highwater.truncation t where t.entity = $1 and t.changed_date < $2)
                      + (select count(*) from {} t where t.deleted and t.changed_date < $2)",
                table.table
            )))
            .bind(table.number)
            .bind(before)
            .fetch_one(&mut *connection)
            .await?;
        } else {
            loop {
                let batch: i32 = sqlx::query_scalar("select highwater.purge($1, $2, $3)")
                    .bind(table.number)
                    .bind(before)
                    .bind(PURGE_BATCH_ROWS)
                    .fetch_one(&mut *connection)
                    .await?;
                if batch == 0 {
                    break;
                }
                removed += i64::from(batch);
            }
        }
        purged.push(Purged {
            entity: table.name,
            removed: removed.unsigned_abs(),
        });
    }
    Ok(purged)
}

/// Makes every client fetch an entity anew. False where the table is no entity.
pub async fn touch(connection: &mut PgConnection, table: &str) -> Result<bool, AdminError> {
    let was = sqlx::query_scalar("select highwater.touch($1::text::regclass)")
        .bind(table)
        .fetch_one(connection)
        .await?;
    Ok(was)
}

/// Makes a restored or copied database a source that can be served: every row is stamped anew, and
/// every client begins anew. With `new_id` it is another source to all clients.
pub async fn rebase(connection: &mut PgConnection, new_id: bool) -> Result<(), AdminError> {
    sqlx::query("select highwater.rebase($1)")
        .bind(new_id)
        .execute(&mut *connection)
        .await?;
    for table in entity::tables(connection).await? {
        build_index(connection, &table.table, table.number, "xid").await?;
    }
    Ok(())
}

async fn run(connection: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await?;
    Ok(())
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("55P03")
}
