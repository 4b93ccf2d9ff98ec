//! Whether the table of each entity is the one that `enable` saw: its key, Highwater's own columns, its values.

use super::Examination;
use super::Severity::{Serious, Warning};
use crate::entity::{self, Fault};
use crate::unprepared;

/// Highwater's own columns as they are. `nulls` is asked for where the column may be null.
const OWN: &str = "
    select e.name, c.oid::regclass::text, w.name as column_name,
        case when a.attname is null then 'missing'
             when format_type(a.atttypid, null) <> w.type or a.attgenerated <> '' or a.attidentity <> '' then 'type'
             when not a.attnotnull then 'nullable'
             when (pg_get_expr(d.adbin, d.adrelid) like w.standard) is not true then 'default' end as fault
    from highwater.entity e
    join pg_class c on c.oid = e.relation
    cross join (values ('changed_xid', 'xid8', case highwater.era_start() when 0 then 'pg_current_xact_id()'
                                                   else format('%%pg_current_xact_id()%%%s%%', highwater.era_start()) end),
                       ('changed_date', 'timestamp with time zone', 'clock_timestamp()'),
                       ('deleted', 'boolean', 'false')) w (name, type, standard)
    left join pg_attribute a on a.attrelid = c.oid and a.attname = w.name and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    order by e.number, w.name";

/// Entities whose values may have changed without a write since their incarnation began.
const VALUES: &str = "
    select e.name, e.relation::regclass::text,
        coalesce((select string_agg(format('%s is now %s', seen.value #>> '{}', now.label), ', ')
                  from jsonb_each(e.values_seen -> 'labels') seen
                  join lateral (select v.labels ->> seen.key as label) now on now.label is distinct from seen.value #>> '{}'
                  where now.label is not null), '') as labels,
        coalesce((select string_agg(format('%s is now (%s)', seen.key::regtype, now.attributes), ', ')
                  from jsonb_each_text(e.values_seen -> 'attributes') seen
                  join lateral (select v.attributes ->> seen.key as attributes) now on now.attributes <> seen.value), '') as attributes,
        case when e.values_seen ->> 'files' is distinct from v.files then coalesce((
            select string_agg(seen.key, ', ' order by seen.key)
            from jsonb_each_text(e.values_seen -> 'columns') seen
            where v.columns ->> seen.key is distinct from seen.value), '') else '' end as rewritten
    from highwater.entity e
    join pg_class c on c.oid = e.relation
    cross join lateral (
        select t -> 'labels' as labels, t -> 'attributes' as attributes, t ->> 'files' as files, t -> 'columns' as columns
        from highwater.values_told_apart(e.relation) t) v
    where e.values_seen is not null
    order by e.number";

pub(super) async fn check(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    shape(e).await?;
    own(e).await?;
    values(e).await
}

/// Why entities are left out, but for the rights of the role that serves, which have a check of their own.
async fn shape(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let why = "The entity is not served; its rows in the stores stand still.";
    for entity in entity::read(&mut *e.connection).await? {
        let name = entity.name.as_str();
        let mut says =
            |check, what: String, remedy: String| e.found(Serious, check).of(name).says(what, why, remedy);
        match entity.fault {
            None
            | Some(
                Fault::NoRights { .. }
                | Fault::NotIndexed { .. }
                | Fault::RowSecured { .. }
                | Fault::TombstonesOpen { .. }
                // No description tells it.
                | Fault::TombstoneUnread { .. },
            ) => {}
            Some(Fault::Dropped { .. }) => says(
                "table_missing",
                "its table was dropped".to_owned(),
                format!(
                    "highwater-server enable TABLE --name '{name}'    # where a new table takes its place\n\
                     highwater-server disable '{name}'    # where none does"
                ),
            ),
            Some(Fault::ColumnsAlike { table, one, other }) => says(
                "columns_alike",
                format!(
                    "the columns {one} and {other} of {table} differ only by case, which no store can hold"
                ),
                format!("highwater-server enable '{table}' --exclude {one}    # or rename one of them"),
            ),
            Some(Fault::HasHeirs { table }) => says(
                "inherited",
                format!("other tables inherit from {table}, and what is written to them is not stamped"),
                format!("alter table ... no inherit {table}"),
            ),
            Some(Fault::Unlogged { table }) => says(
                "unlogged",
                format!("{table} is unlogged, and a crash would empty it without a trace"),
                format!("alter table {table} set logged;\nhighwater-server touch '{table}'"),
            ),
            Some(Fault::GeneratedChanged { table }) => says(
                "generated_changed",
                format!("a generated column of {table} has become a plain one, or is made of a hidden one"),
                format!("highwater-server enable '{table}'"),
            ),
            Some(Fault::KeyChanged { table }) => says(
                "key_changed",
                format!("the primary key of {table} is not the one that `enable` saw"),
                format!("highwater-server enable '{table}'"),
            ),
            Some(Fault::ColumnsLost { table, lost }) => says(
                "column_lost",
                format!("{table} no longer has {lost}, which `enable` was told of"),
                format!(
                    "highwater-server enable '{table}' with the columns' new names (--columns, --exclude, --scope, --deleted-column)"
                ),
            ),
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
    let rows: Vec<(String, String, String, String, String)> =
        unprepared::query_as(VALUES).fetch_all(&mut *e.connection).await?;
    for (name, table, labels, attributes, rewritten) in rows {
        let touch = format!("highwater-server touch '{table}'");
        if !labels.is_empty() {
            e.found(Serious, "values_changed").of(&name).says(
                format!("labels of an enum of {table} were renamed: {labels}"),
                "No row was written, so the stores keep the old values.",
                touch,
            );
        } else if !attributes.is_empty() {
            e.found(Serious, "values_changed").of(&name).says(
                format!("a composite type of {table} was altered: {attributes}"),
                "No row was written, so the stores keep what the old one printed.",
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
