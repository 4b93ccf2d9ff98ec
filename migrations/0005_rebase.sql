-- After a restore or a copy this database is another than the one that gave out the ids in its
-- rows: they may lie above its own, and would then be sent again and again, or never.

-- Makes the database a source of its own kind: records what it is now, stamps every row anew and
-- has every entity begin anew. With `new_id` it is no longer the same source to any client.
--
-- The column is dropped and added with a constant, so nothing is rewritten; the index on it goes
-- with it, and `highwater-server rebase` builds it again.
create function highwater.rebase(new_id boolean default false) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    target record;
    xid xid8;
begin
    lock table highwater.entity in share row exclusive mode;
    for target in
        select e.number, e.relation from highwater.entity e join pg_class c on c.oid = e.relation order by e.number
    loop
        execute format('lock table %s in access exclusive mode', target.relation);
        xid := pg_current_xact_id();
        -- They name the column.
        perform highwater.drop_triggers(target.relation);
        execute format('alter table %s drop column if exists changed_xid, add column changed_xid xid8 not null default %L',
                       target.relation, xid);
        execute format('alter table %s alter column changed_xid set default pg_catalog.pg_current_xact_id()', target.relation);
        perform highwater.add_triggers(target.relation, target.number);
        update highwater.entity e
        set incarnation = nextval('highwater.incarnation'), began_date = clock_timestamp(), purged_xid = null, purged_date = null, purged_snapshot = null,
            forgotten_xid = null,
            values_seen = highwater.values_told_apart(e.relation)
        where e.number = target.number;
    end loop;
    delete from highwater.tombstone;
    delete from highwater.truncation;
    delete from highwater.purged;
    update highwater.source s
    set system_identifier = (select c.system_identifier from pg_control_system() c),
        database = (select d.oid from pg_database d where d.datname = current_database()),
        own_id = case when new_id then gen_random_uuid() else s.own_id end;
end
$$;

revoke execute on function highwater.rebase(boolean) from public;
