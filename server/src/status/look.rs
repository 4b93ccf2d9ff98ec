//! What Postgres is asked for the status: its own statistics, which cost it little whatever the tables hold.

use std::collections::HashMap;

use highwater_shared::status::{Prepared, Writer};
use highwater_shared::{EntityName, Timestamp};

use crate::database::Connection;
use crate::entity::{self, Entity};
use crate::node::Node;
use crate::unprepared;

/// The table of each entity, and the rows that were written in it since Postgres began to count. What was rolled back counts too.
const TABLES: &str = "
    select e.name, e.relation::regclass::text, coalesce(
        (select sum(pg_stat_get_tuples_inserted(p.relid) + pg_stat_get_tuples_updated(p.relid)
                    + pg_stat_get_tuples_deleted(p.relid))
         from pg_partition_tree(e.relation) p where p.isleaf),
        pg_stat_get_tuples_inserted(e.relation) + pg_stat_get_tuples_updated(e.relation)
            + pg_stat_get_tuples_deleted(e.relation))::bigint as changes
    from highwater.entity e
    where e.relation is not null";

/// The transaction that has been writing for longest, as far as this role may see it.
const WRITER: &str = "
    select (extract(epoch from a.xact_start) * 1000000)::bigint, a.pid, coalesce(a.application_name, ''),
        coalesce(a.usename::text, ''), coalesce(a.state, '')
    from pg_stat_activity a
    where a.backend_xid is not null and a.xact_start is not null and a.pid <> pg_backend_pid()
    order by a.xact_start
    limit 1";

/// As many as [`highwater_shared::status::SourceStatus`] tells of.
const PREPARED: &str = "
    select p.gid, (extract(epoch from p.prepared) * 1000000)::bigint, p.owner::text, p.database::text
    from pg_prepared_xacts p
    order by p.prepared
    limit 8";

/// Bytes of the table and of its indexes, with those of its partitions.
const SIZES: &str = "
    select e.name,
        coalesce((select sum(pg_table_size(p.relid)) from pg_partition_tree(e.relation) p where p.isleaf),
                 pg_table_size(e.relation))::bigint,
        coalesce((select sum(pg_indexes_size(p.relid)) from pg_partition_tree(e.relation) p where p.isleaf),
                 pg_indexes_size(e.relation))::bigint
    from highwater.entity e
    where e.relation is not null";

/// Bytes of an entity's table and of its indexes.
pub(super) type Sizes = HashMap<EntityName, [u64; 2]>;

/// What a look has shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Looked {
    pub(super) entities: Vec<Entity>,
    pub(super) is_standby: bool,
    /// The table of each entity, as people write it.
    pub(super) tables: HashMap<EntityName, String>,
    /// Counts of Postgres', by entity; none on a standby, which counts nothing of it.
    pub(super) changes: HashMap<EntityName, i64>,
    pub(super) writer: Option<Writer>,
    pub(super) prepared: Vec<Prepared>,
}

/// Looks once.
pub(super) async fn look(node: &Node) -> Result<Looked, sqlx::Error> {
    let mut looked = Looked {
        entities: entity::list(node).await?,
        ..Looked::default()
    };
    let mut connection = node.connect().await?;
    connection.begin(&[]).await?;
    looked.is_standby = unprepared::query_scalar("select pg_is_in_recovery()")
        .fetch_one(connection.get()?)
        .await?;
    let tables: Vec<(String, String, Option<i64>)> =
        unprepared::query_as(TABLES).fetch_all(connection.get()?).await?;
    for (name, table, changes) in tables {
        let name = EntityName::new(name);
        if let Some(changes) = changes.filter(|_| !looked.is_standby) {
            looked.changes.insert(name.clone(), changes);
        }
        looked.tables.insert(name, table);
    }
    if !looked.is_standby {
        look_at_writers(&mut connection, &mut looked).await?;
    }
    connection.let_go().await?;
    Ok(looked)
}

async fn look_at_writers(connection: &mut Connection, looked: &mut Looked) -> Result<(), sqlx::Error> {
    let writer: Option<(i64, i32, String, String, String)> = unprepared::query_as(WRITER)
        .fetch_optional(connection.get()?)
        .await?;
    looked.writer = writer.map(|(since, pid, application, user, state)| Writer {
        since: Timestamp::from_micros(since),
        pid: Some(pid),
        application: Some(application),
        user: Some(user),
        state: Some(state),
    });
    let prepared: Vec<(String, i64, String, String)> = unprepared::query_as(PREPARED)
        .fetch_all(connection.get()?)
        .await?;
    looked.prepared = prepared
        .into_iter()
        .map(|(gid, since, user, database)| Prepared {
            gid,
            since: Timestamp::from_micros(since),
            user,
            database,
        })
        .collect();
    Ok(())
}

/// Sizes on disk. It waits for whoever holds a table in access exclusive mode.
pub(super) async fn sizes(node: &Node) -> Result<Sizes, sqlx::Error> {
    let mut connection = node.connect().await?;
    connection.begin(&[]).await?;
    let rows: Vec<(String, Option<i64>, Option<i64>)> =
        unprepared::query_as(SIZES).fetch_all(connection.get()?).await?;
    connection.let_go().await?;
    let bytes = |bytes: Option<i64>| u64::try_from(bytes?).ok();
    Ok(rows
        .into_iter()
        .filter_map(|(name, table, indexes)| Some((EntityName::new(name), [bytes(table)?, bytes(indexes)?])))
        .collect())
}
