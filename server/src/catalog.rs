//! What is known of the entities, kept for as long as Postgres' own catalog says the same.
//!
//! To describe the entities anew costs more than most pages do. So every page asks, in its own
//! transaction and after its locks, for the signature of all that descriptions are made of, and
//! where that is not the one they were read with, they are read again.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cursor::Covered;
use crate::database::Connection;
use crate::entity::{self, Entity, Fault};
use crate::lineage::Lineage;
use crate::unprepared;

/// The entities, as they were described last.
#[derive(Debug, Default)]
pub struct Catalog(Mutex<Option<Arc<Described>>>);

/// The entities at one moment.
#[derive(Clone, Debug)]
pub struct Described {
    /// All of them, by number.
    pub entities: Vec<Entity>,
    /// Where their rows come from.
    pub(crate) lineage: Lineage,
    /// Changes with all that the descriptions are made of.
    pub signature: String,
}

/// Changes with all that an entity's description is made of: the transactions that last wrote the
/// rows of the catalog, and what no row of the table's own tells, such as the name of a type.
pub(crate) const SIGNATURE: &str = "
select encode(sha256(convert_to(concat_ws(' ', row_security_active('highwater.purged'::regclass),
    has_table_privilege('highwater.purged', 'select'), string_agg(
    concat_ws(' ', e.number, e.xmin, c.xmin, n.xmin, i.xmin, columns.signature, partitions.signature, security.signature,
              has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'),
              c.relhassubclass and exists (select from pg_inherits h where h.inhparent = c.oid)), ';'
    order by e.number)), 'UTF8')), 'hex')
from highwater.entity e
join pg_class c on c.oid = e.relation
join pg_namespace n on n.oid = c.relnamespace
left join pg_index i on i.indrelid = c.oid and i.indisprimary
cross join lateral (
    select string_agg(concat_ws(' ', a.attnum, a.xmin, format_type(a.atttypid, a.atttypmod),
               case when t.typtype = 'd' then format_type(highwater.base_type(t.oid), null) end), ',' order by a.attnum)
           as signature
    from pg_attribute a join pg_type t on t.oid = a.atttypid
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
) columns
cross join lateral (
    select case c.relkind when 'p' then (
        select string_agg(concat_ws(' ', l.oid, l.xmin, h.xmin, exists (
                   select from pg_trigger g where g.tgrelid = l.oid and g.tgname = '~~highwater_truncate'
                       and g.tgargs = convert_to(e.number::text, 'UTF8') || '\\x00')), ',' order by l.oid)
        from pg_partition_tree(e.relation) p join pg_class l on l.oid = p.relid
        left join pg_inherits h on h.inhrelid = l.oid and h.inhparent = p.parentrelid)
    end as signature
) partitions
cross join lateral (
    select case when c.relrowsecurity then concat_ws(' ', row_security_active(c.oid),
        row_security_active('highwater.tombstone'::regclass),
        (select string_agg(concat_ws(' ', p.oid, p.xmin), ',' order by p.oid)
         from pg_policy p where p.polrelid in (c.oid, 'highwater.tombstone'::regclass)))
    end as signature
) security";

impl Catalog {
    /// The entities as they were described last.
    pub(crate) fn known(&self) -> Option<Arc<Described>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Describes the entities as they are now, and remembers them.
    pub(crate) async fn read(&self, connection: &mut Connection) -> Result<Arc<Described>, sqlx::Error> {
        // With the settings of a page: how a type prints, and so the signature, depends on them.
        connection.begin(&[]).await?;
        let signature = unprepared::query_scalar(SIGNATURE)
            .fetch_one(connection.get()?)
            .await?;
        let entities = entity::read(connection.get()?).await?;
        let lineage = Lineage::read(connection.get()?).await?;
        connection.end().await?;
        let described = Arc::new(Described {
            entities,
            lineage,
            signature,
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&described));
        Ok(described)
    }

    /// Leaves an entity out for what was found when it was read, until it is described anew.
    pub(crate) fn leave_out(&self, covered: &Covered, fault: &Fault) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entities = known
            .as_mut()
            .map(|described| &mut Arc::make_mut(described).entities);
        let mut entities = entities.into_iter().flatten();
        if let Some(entity) = entities.find(|entity| entity.covered == *covered) {
            entity.fault = Some(fault.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::{self, EnableOptions};
    use crate::node::Node;

    /// Whatever changes a description has to change the signature, or an old one is served.
    #[tokio::test]
    async fn the_signature_changes_with_all_that_a_description_is_made_of() {
        let database = highwater_testbed::Database::create("catalog").await.unwrap();
        let mut connection = database.connect().await.unwrap();
        admin::migrate(&mut connection).await.unwrap();
        let tables = "create schema shop; create type shop.mood as enum ('calm'); create type shop.side as enum ('left');
            create domain shop.way as shop.side;
            create table product (id int primary key, name varchar(10), mood shop.mood, moods shop.mood[], way shop.way);
            create table parted (id int primary key) partition by range (id);
            create table part_one partition of parted for values from (0) to (100);
            create table other (id int primary key)";
        sqlx::raw_sql(tables).execute(&mut connection).await.unwrap();
        for table in ["product", "parted"] {
            admin::enable(&mut connection, table, &EnableOptions::default())
                .await
                .unwrap();
        }
        let node = Node::new(database.pool().await.unwrap());
        let mut page = node.connect().await.unwrap();
        let mut last = node.catalog.read(&mut page).await.unwrap();
        for change in [
            "alter table product add column size int",
            "alter table product rename column size to breadth",
            "alter table product alter column breadth type bigint",
            "alter table product alter column name type varchar(20)",
            "alter table product drop column breadth",
            "alter type shop.mood rename to temper",
            "alter type shop.side rename to hand",
            "alter type shop.temper set schema public",
            "alter table product rename to article",
            "alter table article set schema shop",
            "alter schema shop rename to store",
            "alter table store.article drop constraint product_pkey, add primary key (id, name)",
            "create table part_two partition of parted for values from (100) to (200)",
            "truncate part_two",
            "alter table parted detach partition part_two",
            "select highwater.enable('other')",
            "select highwater.touch('other')",
            "insert into other values (1); delete from other;
             select highwater.purge(number, now() + interval '1 day', 10, 0) from highwater.entity where name = 'other'",
            "select highwater.disable('other')",
            "alter table store.article enable row level security",
            "create policy own on store.article using (true)",
            "alter policy own on store.article using (false)",
            "create policy own on highwater.tombstone using (true)",
            "drop table store.article",
        ] {
            sqlx::raw_sql(change).execute(&mut connection).await.unwrap();
            let now = node.catalog.read(&mut page).await.unwrap();
            assert_ne!(now.signature, last.signature, "{change}");
            last = now;
        }
        for no_change in ["insert into parted values (1)", "analyze parted", "vacuum parted"] {
            sqlx::raw_sql(no_change).execute(&mut connection).await.unwrap();
            let now = node.catalog.read(&mut page).await.unwrap();
            assert_eq!(now.signature, last.signature, "{no_change}");
        }
        page.give_back();
    }
}
