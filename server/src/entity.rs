//! Entities as Postgres' catalog and Highwater's own tables describe them.
//!
//! See [`crate::catalog`] for when they are read.

mod fault;

use highwater_shared::{AnewReason, Column, ColumnRole, EntityDescription, EntityName, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

pub use self::fault::Fault;
use crate::cursor::{Covered, Seen};
use crate::node::Node;
use crate::quoting::identifier;
use crate::snapshot::{Snapshot, Xid};
use crate::unprepared;

/// A table that is an entity, by name only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The entity's number.
    pub number: i32,
    /// The entity's public name.
    pub name: EntityName,
    /// The table, qualified and quoted.
    pub table: String,
}

/// An entity as it is in one snapshot.
#[derive(Clone, Debug)]
pub struct Entity {
    /// Its number and incarnation. The incarnation includes the fingerprint, Postgres' own numbers
    /// of the columns and the set of partitions, since a new column, also under the name of one that
    /// is gone, and an attached partition bring values that no trigger has stamped.
    pub covered: Covered,
    /// Its public name.
    pub name: EntityName,
    /// Its table, qualified and quoted; empty where that was dropped.
    pub table: String,
    /// The published columns, in the order of the table.
    pub columns: Vec<Column>,
    /// The key's columns, in the order of the key.
    pub key: Vec<KeyColumn>,
    /// The column that limits which rows a caller may see.
    pub scope: Option<ScopeColumn>,
    /// Changes whenever columns, types or key change.
    pub fingerprint: String,
    /// Rows by Postgres' statistics.
    pub estimated_rows: Option<u64>,
    /// Whether row security limits what this server's role may read of it.
    pub is_row_secured: bool,
    /// When its incarnation began.
    pub began_date: Timestamp,
    /// How far a purge has removed what was deleted.
    pub purged: Option<Purged>,
    /// Why it cannot be served, and what to do.
    pub fault: Option<Fault>,
}

/// How far purges have removed what was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purged {
    /// The highest id of a deletion that was removed.
    pub xid: Xid,
    /// The latest date of one.
    pub date: Timestamp,
    /// What the last purge has seen; it removed nothing else.
    pub snapshot: Snapshot,
    /// The highest id of a deletion whose key was not kept, or may not be read.
    pub forgotten: Option<Xid>,
}

/// How a caller is told of deletions that were purged before it saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PurgedAs {
    /// The entity begins anew.
    #[default]
    Reset,
    /// By their keys, as of other deletions, as long as these are kept.
    Keys,
}

/// Ids of deletions that may have been removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// This one.
    Xid(Xid),
    /// This one and all later ones.
    From(Xid),
}

/// A column of a key.
#[derive(Clone, Debug)]
pub struct KeyColumn {
    /// Its name, unquoted.
    pub name: String,
    /// Its type beneath all domains, to cast text to. The modifier is part of it: a key of type
    /// `char(4)` has its blanks only with that.
    pub cast: String,
    /// Its type, as the wire names it.
    pub type_name: String,
}

/// The column of a scope.
#[derive(Clone, Debug)]
pub struct ScopeColumn {
    /// Its name, unquoted.
    pub column: String,
    /// Its type, to cast text to.
    pub cast: String,
    /// That type beneath all domains and without a length, which cuts no value short.
    pub whole: String,
    /// Whether a store can tell by its rows in which scope they lie: the column is published, and two values are the
    /// same where they print alike.
    pub is_told: bool,
}

impl Entity {
    /// Whether a caller that has seen this of the entity must begin anew: what it lacks can no
    /// longer be told from the table and its tombstones. So must one that has not seen a truncate.
    pub fn begins_anew(&self, seen: &Seen, covered: &[Covered], purged: PurgedAs) -> bool {
        self.anew_reason(seen, covered, purged).is_some()
    }

    /// Why such a caller must begin anew; `None` where it need not.
    pub(crate) fn anew_reason(&self, seen: &Seen, covered: &[Covered], told: PurgedAs) -> Option<AnewReason> {
        let (is_renewed, is_purged) = match seen {
            Seen::Snapshot(snapshot) => {
                let number = self.covered.number;
                let is_renewed = !covered.contains(&self.covered);
                if is_renewed && covered.iter().all(|covered| covered.number != number) {
                    return Some(AnewReason::NotCovered);
                }
                let is_purged = self.purged.as_ref().is_some_and(|purged| match told {
                    PurgedAs::Reset => purged.may_hide_from(snapshot),
                    PurgedAs::Keys => purged.has_forgotten(snapshot),
                });
                (is_renewed, is_purged)
            }
            Seen::Date(date) => {
                let is_purged = self.purged.as_ref().is_some_and(|purged| *date <= purged.date);
                (*date < self.began_date, is_purged)
            }
        };
        match (is_renewed, is_purged) {
            (true, _) => Some(AnewReason::Renewed),
            (false, true) => Some(AnewReason::Purged),
            (false, false) => None,
        }
    }

    /// Whether there is no table of it any more.
    pub(crate) fn is_dropped(&self) -> bool {
        self.table.is_empty()
    }

    /// What `GET /entities` says of it.
    pub fn describe(&self) -> EntityDescription {
        EntityDescription {
            name: self.name.clone(),
            columns: self.columns.clone(),
            key: self.key.iter().map(|column| column.name.clone()).collect(),
            fingerprint: self.fingerprint.clone(),
            estimated_rows: self.estimated_rows,
        }
    }
}

impl Purged {
    /// Whether a deletion that this has not seen may have been removed.
    pub(crate) fn may_hide_from(&self, seen: &Snapshot) -> bool {
        self.removed_up_to(self.xid, seen).next().is_some()
    }

    /// Whether any keys are kept of what was removed.
    pub(crate) fn has_keys(&self) -> bool {
        self.forgotten < Some(self.xid)
    }

    /// Whether such a deletion may have been removed without its key being kept.
    fn has_forgotten(&self, seen: &Snapshot) -> bool {
        let forgotten = self.forgotten;
        forgotten.is_some_and(|xid| self.removed_up_to(xid, seen).next().is_some())
    }

    /// The ids that this has not seen and whose deletions may have been removed: single ones, and from where on all
    /// are.
    pub(crate) fn hidden_from(&self, seen: &Snapshot) -> Vec<Hidden> {
        self.removed_up_to(self.xid, seen).collect()
    }

    /// The same of ids up to `last`. What was in flight when it was taken, and still was at the last purge, was not
    /// removed.
    fn removed_up_to(&self, last: Xid, seen: &Snapshot) -> impl Iterator<Item = Hidden> {
        let was_removed = move |xid: &Xid| *xid <= last && self.snapshot.sees(*xid);
        let single = seen
            .in_flight()
            .iter()
            .copied()
            .filter(was_removed)
            .map(Hidden::Xid);
        let later = (seen.xmax() <= last).then(|| Hidden::From(seen.xmax()));
        single.chain(later)
    }
}

/// The tables of all entities, by number.
pub async fn tables(connection: &mut PgConnection) -> Result<Vec<Table>, sqlx::Error> {
    let rows = unprepared::query(
        "select e.number, e.name, n.nspname::text as schema, c.relname::text as relation
         from highwater.entity e
         join pg_class c on c.oid = e.relation
         join pg_namespace n on n.oid = c.relnamespace
         order by e.number",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Table {
                number: row.try_get("number")?,
                name: EntityName::new(row.try_get::<String, _>("name")?),
                table: qualified(row)?,
            })
        })
        .collect()
}

/// All entities as they are now, by number.
pub async fn list(node: &Node) -> Result<Vec<Entity>, sqlx::Error> {
    let mut connection = node.connect().await?;
    let described = node.catalog.read(&mut connection).await?;
    connection.give_back();
    Ok(described.entities.clone())
}

/// All entities as the transaction's snapshot has them, by number.
pub(crate) async fn read(connection: &mut PgConnection) -> Result<Vec<Entity>, sqlx::Error> {
    let rows = unprepared::query(DESCRIBE).fetch_all(connection).await?;
    rows.iter().map(entity).collect()
}

/// One row an entity. Arrays are parallel: names, types as the wire has them, types to cast to.
const DESCRIBE: &str = "
select e.number, e.name, n.nspname::text as schema, c.relname::text as relation,
    highwater.incarnation_of(e) as incarnation,
    coalesce(has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'), false) as readable,
    coalesce(row_security_active(c.oid), false) as row_secured, row_security_active('highwater.tombstone'::regclass) as tombstones_secured,
    (extract(epoch from e.began_date) * 1000000)::bigint as began_date,
    e.indexed, e.purged_xid::text as purged_xid, e.purged_snapshot::text as purged_snapshot,
    case when row_security_active(c.oid) or row_security_active('highwater.purged'::regclass)
              or not has_table_privilege('highwater.purged', 'select')
         then e.purged_xid else e.forgotten_xid end::text as forgotten_xid,
    (extract(epoch from e.purged_date) * 1000000)::bigint as purged_date,
    case when c.relkind = 'p' then (
        select nullif(sum(greatest(l.reltuples, 0)), 0)::bigint
        from pg_partition_tree(e.relation) p join pg_class l on l.oid = p.relid and p.isleaf)
    else nullif(greatest(c.reltuples, -1), -1)::bigint end as estimated_rows,
    e.scope_column, (select format_type(a.atttypid, a.atttypmod) from pg_attribute a
                     where a.attrelid = c.oid and a.attname = e.scope_column and not a.attisdropped) as scope_cast,
    (select format_type(highwater.base_type(a.atttypid), -1) from pg_attribute a
     where a.attrelid = c.oid and a.attname = e.scope_column and not a.attisdropped) as scope_whole,
    exists (select from pg_attribute a left join pg_collation l on l.oid = a.attcollation
            where a.attrelid = c.oid and a.attname = e.scope_column and not a.attisdropped
              and highwater.base_type(a.atttypid) = any ('{smallint,integer,bigint,uuid,text,varchar}'::regtype[])
              and coalesce(l.collisdeterministic, true)) as scope_is_plain,
    c.relkind = 'r' and exists (select from pg_inherits i where i.inhparent = c.oid) as has_heirs,
    c.relpersistence = 'u' or exists (
        select from pg_partition_tree(e.relation) p join pg_class l on l.oid = p.relid where l.relpersistence = 'u') as is_unlogged,
    highwater.wrongly_kept(e) <> '{}' as generated_changed,
    published.names, published.types, coalesce(published.fingerprint, '') as fingerprint,
    key.names as key_names, key.types as key_types, key.casts as key_casts,
    e.key_columns is distinct from key.names or e.key_types is distinct from key.types as key_changed,
    array(select x from unnest(e.excluded_columns || e.chosen_columns || array_remove(array[e.scope_column, e.deleted_column], null)) x
          where not exists (select from pg_attribute a
                            where a.attrelid = c.oid and a.attname = x and not a.attisdropped)) as lost
from highwater.entity e
left join pg_class c on c.oid = e.relation
left join pg_namespace n on n.oid = c.relnamespace
cross join lateral highwater.published_columns(e) published
left join lateral (
    select array_agg(a.attname::text order by k.place) as names,
           array_agg(format_type(highwater.base_type(a.atttypid), null) order by k.place) as types,
           array_agg(beneath.type order by k.place) as casts
    from pg_index i
    cross join unnest(i.indkey::int2[]) with ordinality k (attnum, place)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    cross join lateral (
        with recursive beneath (oid, typmod) as (
            select a.atttypid, a.atttypmod
            union all
            select t.typbasetype, t.typtypmod from beneath b join pg_type t on t.oid = b.oid where t.typtype = 'd'
        )
        select format_type(b.oid, b.typmod) as type
        from beneath b join pg_type t on t.oid = b.oid where t.typtype <> 'd'
    ) beneath
    where i.indrelid = c.oid and i.indisprimary and k.place <= i.indnkeyatts
) key on true
where e.relation is not null
order by e.number";

fn qualified(row: &PgRow) -> Result<String, sqlx::Error> {
    let schema: String = row.try_get("schema")?;
    let relation: String = row.try_get("relation")?;
    Ok(format!("{}.{}", identifier(&schema), identifier(&relation)))
}

fn purged(row: &PgRow) -> Result<Option<Purged>, sqlx::Error> {
    let xid: Option<String> = row.try_get("purged_xid")?;
    let date: Option<i64> = row.try_get("purged_date")?;
    let snapshot: Option<String> = row.try_get("purged_snapshot")?;
    let forgotten: Option<String> = row.try_get("forgotten_xid")?;
    let purged = xid.zip(date).zip(snapshot).map(|((xid, date), snapshot)| {
        Some(Purged {
            xid: xid.parse().ok()?,
            date: Timestamp::from_micros(date),
            snapshot: snapshot.parse().ok()?,
            forgotten: forgotten.map(|xid| xid.parse()).transpose().ok()?,
        })
    });
    let unread = || sqlx::Error::Decode("how far a purge has gone cannot be read".into());
    purged.map(|purged| purged.ok_or_else(unread)).transpose()
}

fn entity(row: &PgRow) -> Result<Entity, sqlx::Error> {
    let name = EntityName::new(row.try_get::<String, _>("name")?);
    let is_dropped = row.try_get::<Option<String>, _>("relation")?.is_none();
    let table = if is_dropped {
        String::new()
    } else {
        qualified(row)?
    };
    let names: Vec<String> = row.try_get::<Option<_>, _>("names")?.unwrap_or_default();
    let types: Vec<String> = row.try_get::<Option<_>, _>("types")?.unwrap_or_default();
    let key_names: Vec<String> = row.try_get::<Option<_>, _>("key_names")?.unwrap_or_default();
    let key_types: Vec<String> = row.try_get::<Option<_>, _>("key_types")?.unwrap_or_default();
    let key_casts: Vec<String> = row.try_get::<Option<_>, _>("key_casts")?.unwrap_or_default();
    let is_plain: bool = row.try_get("scope_is_plain")?;
    let scope = row
        .try_get::<Option<String>, _>("scope_column")?
        .zip(row.try_get::<Option<_>, _>("scope_cast")?)
        .zip(row.try_get::<Option<_>, _>("scope_whole")?)
        .map(|((column, cast), whole)| ScopeColumn {
            is_told: names.contains(&column) && is_plain,
            column,
            cast,
            whole,
        });
    let fault = Fault::of(row, &name, &table, &names)?;
    Ok(Entity {
        covered: Covered {
            number: row.try_get("number")?,
            incarnation: row.try_get::<i64, _>("incarnation")?.cast_unsigned(),
        },
        name,
        columns: names
            .into_iter()
            .zip(types)
            .map(|(name, type_name)| Column {
                role: key_names.contains(&name).then_some(ColumnRole::Key),
                place: (1..)
                    .zip(&key_names)
                    .find_map(|(place, key)| (*key == name).then_some(place)),
                name,
                type_name,
            })
            .collect(),
        key: key_names
            .into_iter()
            .zip(key_types)
            .zip(key_casts)
            .map(|((name, type_name), cast)| KeyColumn {
                name,
                cast,
                type_name,
            })
            .collect(),
        table,
        scope,
        fingerprint: row.try_get("fingerprint")?,
        estimated_rows: row
            .try_get::<Option<i64>, _>("estimated_rows")?
            .and_then(|rows| rows.try_into().ok()),
        is_row_secured: row.try_get("row_secured")?,
        began_date: Timestamp::from_micros(row.try_get("began_date")?),
        purged: purged(row)?,
        fault,
    })
}
