//! Whether the table of each entity is the one that `enable` saw: its key, Highwater's own columns, its values.

use super::Examination;
use super::Severity::{Serious, Warning};
use crate::unprepared;

/// Highwater's own columns as they are. `nulls` is asked for where the column may be null.
const OWN: &str = "
    select e.name, c.oid::regclass::text, w.name as column_name,
        case when a.attname is null then 'missing'
             when format_type(a.atttypid, null) <> w.type or a.attgenerated <> '' or a.attidentity <> '' then 'type'
             when not a.attnotnull then 'nullable'
             when pg_get_expr(d.adbin, d.adrelid) is distinct from w.standard then 'default' end as fault
    from highwater.entity e
    join pg_class c on c.oid = e.relation
    cross join (values ('changed_xid', 'xid8', 'pg_current_xact_id()'),
                       ('changed_date', 'timestamp with time zone', 'clock_timestamp()'),
                       ('deleted', 'boolean', 'false')) w (name, type, standard)
    left join pg_attribute a on a.attrelid = c.oid and a.attname = w.name and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    order by e.number, w.name";

/// Why an entity is left out: its table is gone, its key is another, a column that was named is gone.
const SHAPE: &str = "
    select e.name, coalesce(c.oid::regclass::text, ''), c.oid is null as dropped,
        c.oid is not null and (e.key_columns, e.key_types) is distinct from (key.names, key.types) as key_changed,
        coalesce((select string_agg(x, ', ') from unnest(e.excluded_columns || e.chosen_columns
                      || array_remove(array[e.scope_column, e.deleted_column], null)) x
                  where c.oid is not null and not exists (
                      select from pg_attribute a where a.attrelid = c.oid and a.attname = x and not a.attisdropped)), '') as lost
    from highwater.entity e
    left join pg_class c on c.oid = e.relation
    left join lateral (
        select array_agg(a.attname::text order by k.place) as names,
               array_agg(format_type(highwater.base_type(a.atttypid), null) order by k.place) as types
        from pg_index i
        cross join unnest(i.indkey::int2[]) with ordinality k (attnum, place)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisprimary and k.place <= i.indnkeyatts
    ) key on true
    where e.relation is not null
    order by e.number";

/// Entities whose values may have changed without a write since their incarnation began.
const VALUES: &str = "
    select e.name, e.relation::regclass::text,
        coalesce((select string_agg(format('%s is now %s', seen.value #>> '{}', now.label), ', ')
                  from jsonb_each(e.values_seen -> 'labels') seen
                  join lateral (select v.labels ->> seen.key as label) now on now.label is distinct from seen.value #>> '{}'
                  where now.label is not null), '') as labels,
        case when e.values_seen ->> 'files' is distinct from v.files then coalesce((
            select string_agg(seen.key, ', ' order by seen.key)
            from jsonb_each_text(e.values_seen -> 'columns') seen
            where v.columns ->> seen.key is distinct from seen.value), '') else '' end as rewritten
    from highwater.entity e
    join pg_class c on c.oid = e.relation
    cross join lateral (
        select t -> 'labels' as labels, t ->> 'files' as files, t -> 'columns' as columns
        from highwater.values_told_apart(e.relation) t) v
    where e.values_seen is not null
    order by e.number";

pub(super) async fn check(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    shape(e).await?;
    own(e).await?;
    values(e).await
}

async fn shape(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let rows: Vec<(String, String, bool, bool, String)> =
        unprepared::query_as(SHAPE).fetch_all(&mut *e.connection).await?;
    let why = "The entity is not served; its rows in the stores stand still.";
    for (name, table, is_dropped, key_changed, lost) in rows {
        if is_dropped {
            e.found(Serious, "table_missing").of(&name).says(
                "its table was dropped",
                why,
                format!(
                    "highwater-server enable TABLE --name '{name}'    # where a new table takes its place\n\
                     update highwater.entity set relation = null where name = '{}';    -- where none does",
                    name.replace('\'', "''")
                ),
            );
        }
        if key_changed {
            e.found(Serious, "key_changed").of(&name).says(
                format!("the primary key of {table} is not the one that `enable` saw"),
                why,
                format!("highwater-server enable '{table}'"),
            );
        }
        if !lost.is_empty() {
            e.found(Serious, "column_lost").of(&name).says(
                format!("{table} no longer has {lost}, which `enable` was told of"),
                why,
                format!(
                    "highwater-server enable '{table}' with the columns' new names (--columns, --exclude, --scope, --deleted-column)"
                ),
            );
        }
    }
    Ok(())
}

async fn own(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let rows: Vec<(String, String, String, Option<String>)> =
        unprepared::query_as(OWN).fetch_all(&mut *e.connection).await?;
    for (name, table, column, fault) in rows {
        let Some(fault) = fault else { continue };
        let enable = format!("highwater-server enable '{table}'");
        match fault.as_str() {
            "missing" => e.found(Serious, "own_column_missing").of(&name).says(
                format!("{table} has no column {column}"),
                "The entity cannot be served, and the application's writes fail.",
                enable,
            ),
            "type" => e.found(Serious, "own_column_type").of(&name).says(
                format!("the column {column} of {table} is not the plain column that `enable` made"),
                "Rows cannot be stamped as they have to be.",
                format!("alter table {table} rename column {column} to {column}_other;\n{enable}"),
            ),
            "nullable" => e.found(Serious, "own_column_nullable").of(&name).says(
                format!("the column {column} of {table} may be null"),
                "A row without a stamp comes to no client.",
                format!("update {table} set {column} = default where {column} is null;\n{enable}"),
            ),
            _ => e.found(Warning, "own_column_default").of(&name).says(
                format!("the default of the column {column} of {table} is not the one that `enable` gave it"),
                "Inserts are stamped all the same, by a trigger, and cost more.",
                enable,
            ),
        }
    }
    Ok(())
}

async fn values(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let rows: Vec<(String, String, String, String)> =
        unprepared::query_as(VALUES).fetch_all(&mut *e.connection).await?;
    for (name, table, labels, rewritten) in rows {
        let touch = format!("highwater-server touch '{table}'");
        if !labels.is_empty() {
            e.found(Serious, "values_changed").of(&name).says(
                format!("labels of an enum of {table} were renamed: {labels}"),
                "No row was written, so the stores keep the old values.",
                touch,
            );
        } else if !rewritten.is_empty() {
            e.found(Warning, "values_rewritten").of(&name).says(
                format!("{table} was rewritten, and its columns {rewritten} were altered"),
                "If that changed values under the same type (`alter column ... using`), the stores keep the old ones.",
                touch,
            );
        }
    }
    Ok(())
}
