-- After a restore or a copy this database is another than the one that gave out the ids in its
-- rows: they may lie above its own, and would then be sent again and again, or never.

-- What an entity publishes. Arrays are parallel: names, types as the wire has them. The fingerprint changes whenever columns,
-- types or key change; the numbers are Postgres' own of the columns.
create function highwater.published_columns(entity highwater.entity)
returns table (names text[], types text[], numbers text, fingerprint text)
language sql stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
    select array_agg(a.attname::text order by a.attnum),
           array_agg(format_type(highwater.base_type(a.atttypid), null) order by a.attnum),
           string_agg(a.attnum::text, ',' order by a.attnum),
           left(encode(sha256(convert_to(string_agg(
               format('%L %s %s', a.attname, format_type(a.atttypid, a.atttypmod),
                      array_position((entity).key_columns, a.attname::text)), E'\n' order by a.attnum), 'UTF8')), 'hex'), 16)
    from pg_attribute a
    where a.attrelid = (entity).relation and a.attnum > 0 and not a.attisdropped
      and a.attname not in ('changed_xid', 'changed_date', 'deleted')
      and ((entity).chosen_columns is null or a.attname = any ((entity).chosen_columns))
      and ((entity).excluded_columns is null or a.attname <> all ((entity).excluded_columns))
$$;

-- An entity's incarnation as cursors have it: with whatever else changes rows that no trigger has stamped.
--
-- A new column, also under the name of one that is gone, brings values. So does a partition that is attached; one that was
-- detached and attached again is another one: each attachment writes a row of its own to the catalog. A partition that joined
-- after `enable` has no trigger that notes a truncate, since those are not inherited: there the file that holds it tells, which
-- a truncate replaces. Where row security limits the role that asks, the role and the policies belong to it: with others it
-- would read other rows, none of which was written.
create function highwater.incarnation_of(entity highwater.entity) returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select hashtextextended(concat_ws(':', (entity).incarnation, published.fingerprint, published.numbers, (
        select a.attnum from pg_attribute a
        where a.attrelid = c.oid and a.attname = (entity).scope_column and not a.attisdropped
    ), case c.relkind
        when 'p' then array(
            select concat_ws('/', l.oid, h.xmin, case when not exists (
                select from pg_trigger g where g.tgrelid = l.oid and g.tgname = '~~highwater_truncate'
                    and g.tgargs = convert_to((entity).number::text, 'UTF8') || '\x00') then l.relfilenode end)
            from pg_partition_tree((entity).relation) p join pg_class l on l.oid = p.relid
            left join pg_inherits h on h.inhrelid = l.oid and h.inhparent = p.parentrelid order by l.oid)::text
    end, case when row_security_active(c.oid) then (
            select concat_ws(' ', current_user, string_agg(concat_ws('/', p.oid, p.xmin), ',' order by p.oid))
            from pg_policy p where p.polrelid in (c.oid, 'highwater.tombstone'::regclass))
    end), 0)
    from highwater.published_columns(entity) published
    left join pg_class c on c.oid = (entity).relation
$$;

-- The same as far as a dump and a restore leave it as it was. They number columns and partitions anew.
create function highwater.shape(entity highwater.entity) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select concat_ws(' ', (entity).incarnation, published.fingerprint, (entity).scope_column, c.relkind, case c.relkind
        when 'p' then (
            select string_agg(concat_ws(' ', l.relname, pg_get_expr(l.relpartbound, l.oid)), ', ' order by l.relname collate "C")
            from pg_partition_tree((entity).relation) p join pg_class l on l.oid = p.relid)
    end)
    from highwater.published_columns(entity) published
    left join pg_class c on c.oid = (entity).relation
$$;

-- Notes how far this database has come, for a dump that is taken next. Who restores that dump can then tell which cursors it
-- has all of.
create function highwater.mark() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    now_timeline integer := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer;
begin
    if highwater.is_moved() then
        raise exception 'this database was restored or copied from another'
            using hint = 'highwater-server rebase, or rebase --new-id where the other lives on';
    end if;
    -- One after the other, so that the later one is what stays.
    lock table highwater.mark in share row exclusive mode;
    delete from highwater.mark m using highwater.source s
    where (m.system_identifier, m.database, m.era, m.timeline) = (s.system_identifier, s.database, s.era, now_timeline);
    -- The commit of this lies behind the position: a history that has it has all that the log had before.
    insert into highwater.mark (system_identifier, database, era, timeline, entity, position, snapshot, shape, incarnation)
    select s.system_identifier, s.database, s.era, now_timeline, e.number, pg_current_wal_insert_lsn(), highwater.current_snapshot(),
           highwater.shape(e), highwater.incarnation_of(e)
    from highwater.source s, highwater.entity e join pg_class c on c.oid = e.relation;
end
$$;

-- Whether all rows of an entity are as a dump has brought them, and nothing was written since. A dump fills a table before it
-- makes its key, and so what is younger than the key was written here.
create function highwater.is_as_dumped(entity highwater.entity) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    own_age integer := (select age(k.xmin) from pg_constraint k where k.conrelid = 'highwater.entity'::regclass and k.contype = 'p');
    -- A key may have been made again since, Highwater's own has not.
    key_age integer := (select greatest(own_age, age(k.xmin)) from pg_constraint k where k.conrelid = entity.relation and k.contype = 'p');
    was_written boolean;
begin
    -- A dump leaves out columns that were dropped. Of a partition that was detached for a while rows may be gone without a trace.
    if row_security_active(entity.relation)
       or exists (select from highwater.entity e where e.number = entity.number and age(e.xmin) < own_age)
       or exists (select from highwater.tombstone t where t.entity = entity.number and age(t.xmin) < own_age)
       or exists (select from highwater.truncation t where t.entity = entity.number and age(t.xmin) < own_age)
       or exists (select from pg_partition_tree(entity.relation) p join pg_attribute a on a.attrelid = p.relid and a.attisdropped)
       or exists (select from pg_partition_tree(entity.relation) p join pg_inherits h on h.inhrelid = p.relid and age(h.xmin) < own_age)
       or exists (select from pg_attribute a where a.attrelid = entity.relation and a.attisdropped) then
        return false;
    end if;
    execute format('select exists (select from %s t where age(t.xmin) < $1)', entity.relation) into was_written using key_age;
    return not was_written;
end
$$;

-- Makes the database a source of its own kind: records what it is now, and begins an era. With `new_id` it is no longer the same
-- source to any client.
--
-- An entity that is as a dump has brought it keeps its ids: they are those of an earlier era. Where rows may have been stamped
-- here before this, or the database was not dumped but put back, their ids mean nothing any more: every row is stamped
-- anew, and the entity begins anew. Then the column is dropped and added with a constant, so that nothing is rewritten; the
-- index on it goes with it, and `highwater-server rebase` builds it again.
-- Returns the names of the entities that begin anew, and whether clients can tell that they had all of the others.
create function highwater.rebase(new_id boolean default false, out anew text[], out is_marked boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    before highwater.source;
    target highwater.entity;
    was_moved boolean := highwater.is_moved();
    goes_on boolean;
    gone_on integer[] := '{}';
begin
    lock table highwater.entity in share row exclusive mode;
    select s.* into before from highwater.source s;
    update highwater.source s
    set system_identifier = p.system_identifier, database = p.database, schema = p.schema, era = s.era + 1,
        own_id = case when new_id then gen_random_uuid() else s.own_id end
    from highwater.place p;
    perform highwater.write_stamp_insert();
    for target in
        select e.* from highwater.entity e join pg_class c on c.oid = e.relation order by e.number
    loop
        execute format('lock table %s in access exclusive mode', target.relation);
        goes_on := was_moved and highwater.is_as_dumped(target);
        -- They name the column.
        perform highwater.drop_triggers(target.relation);
        if goes_on then
            gone_on := gone_on || target.number;
        else
            execute format('alter table %s drop column if exists changed_xid, add column changed_xid xid8 not null default %L',
                           target.relation, highwater.current_xid());
            update highwater.entity e
            set incarnation = nextval('highwater.incarnation'), purged_xid = null, purged_date = null, purged_snapshot = null,
                forgotten_xid = null
            where e.number = target.number;
        end if;
        execute format('alter table %s alter column changed_xid set default %s', target.relation, highwater.xid_expression());
        perform highwater.write_trigger_functions(target);
        perform highwater.add_triggers(target.relation, target.number);
        -- Dates from before may be later than the dump.
        update highwater.entity e set began_date = clock_timestamp(), values_seen = highwater.values_told_apart(e.relation)
        where e.number = target.number;
    end loop;
    delete from highwater.tombstone t where t.entity <> all (gone_on);
    delete from highwater.truncation t where t.entity <> all (gone_on);
    delete from highwater.purged p where p.entity <> all (gone_on);
    -- What is left are the marks of the database that was dumped, for entities that are what they were.
    delete from highwater.mark m
    where new_id or (m.system_identifier, m.database, m.era) <> (before.system_identifier, before.database, before.era)
       or m.entity <> all (gone_on)
       or m.shape is distinct from (select highwater.shape(e) from highwater.entity e where e.number = m.entity);
    update highwater.entity e set rebased_as = case when e.number = any (gone_on) then highwater.incarnation_of(e) end;
    anew := array(select e.name from highwater.entity e join pg_class c on c.oid = e.relation
                  where e.number <> all (gone_on) order by e.name);
    is_marked := exists (select from highwater.mark);
end
$$;

revoke execute on function highwater.mark() from public;
revoke execute on function highwater.is_as_dumped(highwater.entity) from public;
revoke execute on function highwater.rebase(boolean) from public;
