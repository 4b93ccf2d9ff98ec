//! Whether every write is stamped: each trigger there, enabled always, with its function, fired last.

use super::Examination;
use super::Severity::{Note, Serious, Warning};
use crate::unprepared;

/// The triggers that each relation of an entity should have, with what is wrong. The truncate triggers of
/// partitions that came later are missing by right: there the file tells.
const TRIGGERS: &str = "
    select e.name, e.relation::regclass::text, p.relid::regclass::text, w.name,
        case when t.oid is null then 'missing'
             when t.tgenabled = 'D' then 'disabled'
             when t.tgenabled <> 'A' then 'not always'
             else 'function' end
    from highwater.entity e
    join pg_class c on c.oid = e.relation
    cross join unnest(highwater.trigger_names(e.deleted_column is not null)) w (name)
    cross join lateral (select relid from pg_partition_tree(e.relation) union select e.relation) p (relid)
    left join pg_trigger t on t.tgrelid = p.relid and t.tgname = w.name
    left join pg_proc f on f.oid = t.tgfoid and f.pronamespace = 'highwater'::regnamespace
    where (t.tgenabled = 'A' and f.proname = case w.name
               when '~~highwater_flag' then 'flag_' || e.number
               when '~~highwater_insert' then 'stamp_insert'
               when '~~highwater_update' then 'stamp_' || e.number
               when '~~highwater_truncate' then 'note_truncate'
               else 'bury_' || e.number end) is not true
      and not (w.name = '~~highwater_truncate' and p.relid <> e.relation and t.oid is null)
    order by e.number, p.relid, w.name";

/// Triggers of the application's that fire after the stamp.
const LATER: &str = "
    select e.name, e.relation::regclass::text, t.tgname::text, p.relid::regclass::text
    from highwater.entity e
    join pg_class c on c.oid = e.relation
    cross join lateral (select relid from pg_partition_tree(e.relation) union select e.relation) p (relid)
    join pg_trigger t on t.tgrelid = p.relid and not t.tgisinternal and t.tgtype & 3 = 3
    where t.tgname collate \"C\" > '~~highwater_' and t.tgname not like '~~highwater\\_%' and t.tgparentid = 0
    order by e.number, t.tgname";

/// Functions that are not as `enable` would write them now.
const FUNCTIONS: &str = "
    select e.name, e.relation::regclass::text, f.name, p.oid is null
    from highwater.entity e
    join pg_class c on c.oid = e.relation
    cross join lateral highwater.trigger_functions(e) f
    left join pg_proc p on p.pronamespace = 'highwater'::regnamespace and p.proname = f.name
    where (p.prosrc = f.body and p.prosecdef = (f.settings like 'security definer%')) is not true
    order by e.number, f.name";

/// Owners of partitioned tables who may not make triggers that call these functions, as new partitions get them.
const OWNERS: &str = "
    select distinct e.name, e.relation::regclass::text, pg_get_userbyid(c.relowner)::text
    from highwater.entity e
    join pg_class c on c.oid = e.relation and c.relkind = 'p'
    join pg_proc p on p.pronamespace = 'highwater'::regnamespace and p.proname in ('bury_' || e.number, 'note_truncate')
    where not has_function_privilege(c.relowner, p.oid, 'execute')
    order by 1";

const REPLICA: &str = "
    select case when s.setrole = 0 then 'the database ' || d.datname
                when s.setdatabase = 0 then 'the role ' || r.rolname
                else format('the role %s in the database %s', r.rolname, d.datname) end,
        format('alter %s%s reset session_replication_role;',
               case when s.setrole = 0 then format('database %I', d.datname) else format('role %I', r.rolname) end,
               case when s.setrole <> 0 and s.setdatabase <> 0 then format(' in database %I', d.datname) else '' end)
    from pg_db_role_setting s
    left join pg_database d on d.oid = s.setdatabase
    left join pg_roles r on r.oid = s.setrole
    where 'session_replication_role=replica' = any (s.setconfig)
      and (s.setdatabase = 0 or d.datname = current_database())
    order by 1";

pub(super) async fn check(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let rows: Vec<(String, String, String, String, String)> = unprepared::query_as(TRIGGERS)
        .fetch_all(&mut *e.connection)
        .await?;
    for (name, table, relation, trigger, fault) in rows {
        let (severity, check, what) = match fault.as_str() {
            "missing" => (Serious, "trigger_missing", "is missing"),
            "disabled" => (Serious, "trigger_disabled", "is disabled"),
            "not always" => (
                Serious,
                "trigger_not_always",
                "does not fire for what replication writes",
            ),
            _ => (
                Serious,
                "trigger_function",
                "calls another function than Highwater's",
            ),
        };
        e.found(severity, check).of(&name).says(
            format!("the trigger {trigger} on {relation} {what}"),
            "What is written past it comes to no client, and what was written so far has to be fetched anew.",
            format!("highwater-server enable '{table}'\nhighwater-server touch '{table}'"),
        );
    }

    let rows: Vec<(String, String, String, String)> =
        unprepared::query_as(LATER).fetch_all(&mut *e.connection).await?;
    for (name, table, trigger, relation) in rows {
        e.found(Serious, "trigger_order").of(&name).says(
            format!("the trigger {trigger} on {relation} fires after Highwater's own"),
            "What it changes in a row goes unstamped.",
            format!(
                "alter trigger \"{trigger}\" on {relation} rename to \"{}\";\nhighwater-server touch '{table}'",
                trigger.trim_start_matches('~')
            ),
        );
    }

    let rows: Vec<(String, String, String, bool)> = unprepared::query_as(FUNCTIONS)
        .fetch_all(&mut *e.connection)
        .await?;
    for (name, table, function, is_missing) in rows {
        let (severity, what) = if is_missing {
            (Serious, "is missing")
        } else {
            (Warning, "is not as `enable` would write it now")
        };
        e.found(severity, "trigger_function_outdated").of(&name).says(
            format!("the function highwater.{function} {what}"),
            "Columns were altered since, or the function was: what counts as a change is no longer what was chosen.",
            format!("highwater-server enable '{table}'"),
        );
    }

    let rows: Vec<(String, String, String)> =
        unprepared::query_as(OWNERS).fetch_all(&mut *e.connection).await?;
    for (name, table, owner) in rows {
        e.found(Warning, "trigger_owner").of(&name).says(
            format!("{table} belongs to {owner} since it was enabled"),
            "That role can make no new partition: its triggers would call functions which are the former owner's.",
            format!("highwater-server enable '{table}'"),
        );
    }

    let rows: Vec<(String, String)> = unprepared::query_as(REPLICA)
        .fetch_all(&mut *e.connection)
        .await?;
    for (holder, remedy) in rows {
        e.found(Note, "session_replication_role").of(&holder).says(
            "session_replication_role is replica",
            "Highwater's triggers fire all the same. Those of the application and foreign keys do not.",
            remedy,
        );
    }
    Ok(())
}
