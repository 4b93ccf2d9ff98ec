//! The indexes of an entity, built without holding up its writers.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row};

use super::AdminError;
use super::locks::patiently;
use crate::quoting::identifier;
use crate::unprepared;

/// A statement that builds an index, or a part of one.
#[derive(Debug)]
pub(super) enum IndexStatement {
    /// Waits for others and holds nobody up, outside of transactions.
    Concurrent(String),
    /// Locks the table for a moment.
    Locking(String),
}

/// Builds one of an entity's indexes `concurrently`: on a partitioned table on each partition,
/// which is then attached. One that a failed attempt left invalid is built anew.
pub(super) async fn build(
    connection: &mut PgConnection,
    table: &str,
    number: i32,
    kind: &str,
    lock_wait: Option<Duration>,
) -> Result<(), AdminError> {
    let mut transaction = connection.begin().await?;
    let statements = statements(&mut transaction, table, number, kind).await?;
    transaction.rollback().await?;
    for statement in statements {
        match statement {
            IndexStatement::Concurrent(sql) => {
                sqlx::raw_sql(AssertSqlSafe(sql))
                    .execute(&mut *connection)
                    .await?;
            }
            IndexStatement::Locking(sql) => {
                patiently(connection, table, lock_wait, sql).await?;
            }
        }
    }
    Ok(())
}

/// The statements that build an index, in their order; none where the entity needs none of this kind.
pub(super) async fn statements(
    connection: &mut PgConnection,
    table: &str,
    number: i32,
    kind: &str,
) -> Result<Vec<IndexStatement>, sqlx::Error> {
    let definition: Option<String> = unprepared::query_scalar("select highwater.index_definition($1, $2)")
        .bind(number)
        .bind(kind)
        .fetch_one(&mut *connection)
        .await?;
    let Some(definition) = definition else {
        return Ok(Vec::new());
    };
    // From the root down: each relation with its index's name, and that of its parent's index. One that a
    // new partition got from Postgres has another name, and is attached from the start.
    let relations = unprepared::query(
        "select n.nspname::text as schema, c.relname::text as relation, p.isleaf or c.relkind = 'r' as leaf,
             name.index, pn.nspname::text as parent_schema, p.level,
             highwater.index_name($2, $3) || case when p.level > 1 then '_' || p.parentrelid::oid else '' end as parent,
             (select i.indisvalid from pg_index i join pg_class ic on ic.oid = i.indexrelid
              where i.indrelid = c.oid and ic.relname = name.index) as valid,
             exists (select from pg_index i, pg_partition_ancestors(i.indexrelid) a
                     join pg_class ic on ic.oid = a.relid
                     where i.indrelid = c.oid and p.level > 0 and (i.indisvalid or not p.isleaf)
                       and ic.relname = highwater.index_name($2, $3)) as attached
         from (select relid, parentrelid, isleaf, level from pg_partition_tree($1::text::regclass)
               union select $1::text::regclass, null, true, 0
               where not exists (select from pg_partition_tree($1::text::regclass))) p
         join pg_class c on c.oid = p.relid
         join pg_namespace n on n.oid = c.relnamespace
         left join pg_class pc on pc.oid = p.parentrelid
         left join pg_namespace pn on pn.oid = pc.relnamespace
         cross join lateral (
             select highwater.index_name($2, $3) || case when p.level > 0 then '_' || c.oid else '' end as index) name
         order by p.level",
    )
    .bind(table)
    .bind(number)
    .bind(kind)
    .fetch_all(&mut *connection)
    .await?;
    let (mut built, mut attached) = (Vec::new(), Vec::new());
    for row in &relations {
        let name = |column: &str| row.try_get::<String, _>(column).map(|name| identifier(&name));
        let (schema, relation, index) = (name("schema")?, name("relation")?, name("index")?);
        let valid: Option<bool> = row.try_get("valid")?;
        if row.try_get("attached")? {
            continue;
        }
        if row.try_get("leaf")? {
            if valid == Some(false) {
                let sql = format!("drop index concurrently if exists {schema}.{index}");
                built.push(IndexStatement::Concurrent(sql));
            }
            if valid != Some(true) {
                built.push(IndexStatement::Concurrent(format!(
                    "create index concurrently if not exists {index} on {schema}.{relation} {definition}"
                )));
            }
        } else if valid.is_none() {
            built.push(IndexStatement::Locking(format!(
                "create index if not exists {index} on only {schema}.{relation} {definition}"
            )));
        }
        if row.try_get::<i32, _>("level")? > 0 {
            let (parent_schema, parent) = (name("parent_schema")?, name("parent")?);
            attached.push(IndexStatement::Locking(format!(
                "alter index {parent_schema}.{parent} attach partition {schema}.{index}"
            )));
        }
    }
    built.extend(attached.into_iter().rev());
    Ok(built)
}
