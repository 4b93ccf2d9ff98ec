-- `enable` and `disable`: a table becomes an entity, and ceases to be one.

-- Why a column cannot be part of a key, or null. Two spellings of one value would be one key in
-- Postgres and two in SQLite.
create function highwater.key_column_fault(relation oid, attnum smallint) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive type (oid, typmod, coll) as (
        select a.atttypid, a.atttypmod, a.attcollation
        from pg_attribute a where a.attrelid = key_column_fault.relation and a.attnum = key_column_fault.attnum
        union all
        -- A domain carries its modifier; an array, a range and a composite contain others.
        select inner_type.oid, inner_type.typmod, coalesce(nullif(inner_type.coll, 0), type.coll)
        from type
        join pg_type t on t.oid = type.oid
        cross join lateral (
            select t.typbasetype, t.typtypmod, 0::oid where t.typtype = 'd'
            union all
            select t.typelem, type.typmod, 0 where t.typcategory = 'A' and t.typelem <> 0
            union all
            select r.rngsubtype, -1, r.rngcollation from pg_range r where r.rngtypid = t.oid or r.rngmultitypid = t.oid
            union all
            select a.atttypid, a.atttypmod, a.attcollation from pg_attribute a
            where a.attrelid = t.typrelid and t.typrelid <> 0 and a.attnum > 0 and not a.attisdropped
        ) inner_type (oid, typmod, coll)
    )
    select case
        when t.typname in ('float4', 'float8', 'interval', 'jsonb', 'tsquery', 'citext') and (n.nspname = 'pg_catalog' or t.typname = 'citext')
            then format('equal values of type %s can be written in two ways', t.typname)
        when t.oid = 'numeric'::regtype and type.typmod = -1
            then 'numeric without a fixed scale writes equal values in two ways (1.0 and 1.00)'
        when t.oid = 'bpchar'::regtype and type.typmod = -1
            then 'bpchar without a length writes equal values in two ways'
        when n.nspname = 'pg_catalog' and t.typname ~ '^reg' and t.typtype = 'b' and t.typelem = 0
            then format('values of type %s are printed as what they name is called, which may be renamed', t.typname)
        when n.nspname <> 'pg_catalog' and t.typtype = 'b' and t.typelem = 0
            then format('the type %s is an extension''s, whose operators the server does not use', t.typname)
        when c.oid is not null and not c.collisdeterministic
            then format('its collation %I is nondeterministic, so equal values can be written in two ways', c.collname)
        end
    from type
    join pg_type t on t.oid = type.oid
    join pg_namespace n on n.oid = t.typnamespace
    left join pg_collation c on c.oid = type.coll
    order by 1 nulls last
    limit 1
$$;

-- Refuses a relation that cannot be an entity at all, with the reason and the remedy.
create function highwater.check_relation(relation regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    class pg_class;
    schema text;
begin
    select c.* into class from pg_class c where c.oid = relation;
    if not found then
        raise exception 'there is no table with the id %', relation::oid;
    end if;
    select n.nspname into schema from pg_namespace n where n.oid = class.relnamespace;
    if schema in ('highwater', 'information_schema') or schema like 'pg\_%' and class.relpersistence <> 't' then
        raise exception '% is in the schema %, whose tables cannot be entities', relation, schema
            using hint = 'enable a table of the application';
    elsif class.relkind in ('v', 'm') then
        raise exception '% is a view', relation using hint = 'enable the tables beneath it';
    elsif class.relkind = 'f' then
        raise exception '% is a foreign table', relation using hint = 'enable it in the database where it is stored';
    elsif class.relkind not in ('r', 'p') then
        raise exception '% is not a table', relation using hint = 'enable a table';
    elsif class.relpersistence = 't' then
        raise exception '% is a temporary table', relation using hint = 'enable a table that lasts';
    elsif class.relpersistence = 'u' then
        raise exception '% is unlogged: a crash would empty it without a trace', relation
            using hint = format('alter table %s set logged', relation);
    elsif class.relispartition then
        raise exception '% is a partition', relation using hint = 'enable the partitioned table that it belongs to';
    elsif class.relkind = 'r' and exists (select from pg_inherits i where relation in (i.inhparent, i.inhrelid)) then
        raise exception '% takes part in table inheritance', relation
            using hint = 'enable tables without inheritance; partitioned tables can be enabled';
    elsif not exists (select from pg_index i where i.indrelid = relation and i.indisprimary) then
        raise exception '% has no primary key', relation
            using hint = format('alter table %s add primary key (...)', relation);
    end if;
end
$$;

-- Refuses a name that an entity cannot have.
create function highwater.check_name(relation regclass, name text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    holder text;
begin
    if name = '' or name ~ '[[:cntrl:],]' then
        raise exception 'an entity cannot be called %', quote_literal(name)
            using hint = 'choose a name without commas and control characters: --name';
    elsif lower(name collate "C") ~ '^(sync_helper$|sqlite_|highwater_|pragma_)' then
        raise exception 'the name % is reserved in the offline store', quote_ident(name)
            using hint = 'choose another one: --name';
    end if;
    select e.relation::text into holder from highwater.entity e
    where lower(e.name collate "C") = lower(check_name.name collate "C") and e.relation is not null and e.relation <> check_name.relation
      and exists (select from pg_class c where c.oid = e.relation);
    if found then
        raise exception 'the name % is taken by % (names that differ only by case are one in SQLite)', quote_ident(name), holder
            using hint = 'choose another one: --name';
    end if;
end
$$;

-- Refuses columns that cannot be published, keyed or stamped.
create function highwater.check_columns(
    relation regclass, key_columns text[], chosen text[], excluded text[], scope text, deleted_column text
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    fault record;
    own constant text[] := array['changed_xid', 'changed_date', 'deleted'];
    known text[] := (select array_agg(attname::text) from pg_attribute
                     where attrelid = relation and attnum > 0 and not attisdropped);
begin
    if chosen is not null and excluded is not null then
        raise exception 'columns can be chosen or excluded, not both' using hint = 'give --columns or --exclude';
    end if;
    select c as name into fault from unnest(chosen || excluded || scope || deleted_column) c where c <> all (known || own);
    if found then
        raise exception '% has no column %', relation, quote_ident(fault.name) using hint = 'check the spelling and the case';
    end if;
    select c as name into fault from unnest(chosen || excluded || deleted_column) c where c = any (own);
    if found then
        raise exception 'the column % is Highwater''s own and goes with every row', quote_ident(fault.name)
            using hint = 'leave it out of the list';
    end if;
    select a.attname as name into fault from pg_attribute a
    where a.attrelid = relation and a.attname = deleted_column
      and (a.attgenerated <> '' or a.attnotnull and highwater.base_type(a.atttypid) <> 'boolean'::regtype);
    if found then
        raise exception 'the column % of % cannot say whether a row is deleted', quote_ident(fault.name), relation
            using hint = 'name a column that is null in live rows, or a boolean; it must not be generated';
    end if;
    select k as name into fault from unnest(key_columns) k
    where k = any (excluded) or chosen is not null and k <> all (chosen);
    if found then
        raise exception 'the key column % must be published', quote_ident(fault.name)
            using hint = 'choose it, or do not exclude it';
    end if;

    select a.attname as name, highwater.key_column_fault(relation, a.attnum) as reason into fault
    from pg_attribute a
    where a.attrelid = relation and a.attname = any (key_columns)
      and highwater.key_column_fault(relation, a.attnum) is not null;
    if found then
        raise exception 'the key column % of % cannot be a key of an entity: %', quote_ident(fault.name), relation, fault.reason
            using hint = 'give the table a primary key of another type, such as bigint, text or uuid';
    end if;

    select a.attname as name, highwater.key_column_fault(relation, a.attnum) as reason into fault
    from pg_attribute a
    where a.attrelid = relation and a.attname = scope and highwater.key_column_fault(relation, a.attnum) is not null;
    if found then
        raise exception 'the column % of % cannot be a scope: %', quote_ident(fault.name), relation, fault.reason
            using hint = 'name a column of another type, such as bigint, text or uuid';
    end if;

    select a.attname as name, format_type(highwater.base_type(a.atttypid), null) as type,
           t.typcategory = 'A' as is_array into fault
    from pg_attribute a join pg_type t on t.oid = highwater.base_type(a.atttypid)
    where a.attrelid = relation and a.attname = scope;
    if found and fault.is_array then
        raise exception 'the column % of % cannot be a scope: it is an array', quote_ident(fault.name), relation
            using hint = 'name a column of another type, such as bigint, text or uuid';
    elsif found then
        begin
            execute format('select from (select null::%s as value) v order by value', fault.type);
        exception when undefined_function then
            raise exception 'the column % of % cannot be a scope: values of type % have no order, and no index',
                quote_ident(fault.name), relation, fault.type
                using hint = 'name a column of another type, such as bigint, text or uuid';
        end;
    end if;

    -- Together with the columns that are added.
    select min(c.name) as one, max(c.name) as other into fault
    from (select a.attname::text from pg_attribute a
          where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
            and (chosen is null or a.attname = any (chosen)) and a.attname <> all (coalesce(excluded, '{}'))
          union select unnest(own)) c (name)
    group by lower(c.name collate "C") having count(*) > 1;
    if found then
        raise exception 'the columns % and % differ only by case, SQLite cannot hold both', quote_ident(fault.one), quote_ident(fault.other)
            using hint = 'exclude or rename one of them';
    end if;

    select a.attname as name, format_type(a.atttypid, null) as type, w.type as wanted into fault
    from pg_attribute a
    join (values ('changed_xid', 'xid8'), ('changed_date', 'timestamp with time zone'), ('deleted', 'boolean')) w (name, type)
      on w.name = a.attname
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
      and (format_type(a.atttypid, null) <> w.type or a.attgenerated <> '' or a.attidentity <> '');
    if found then
        raise exception '% has a column % of type %; Highwater needs it as a plain column of type %', relation, quote_ident(fault.name), fault.type, fault.wanted
            using hint = format('alter table %s rename column %I to something else', relation, fault.name);
    end if;

    select t.tgname as name into fault from pg_trigger t
    where t.tgrelid = relation and not t.tgisinternal and t.tgtype & 3 = 3
      and t.tgname collate "C" > '~~highwater_' and t.tgname not like '~~highwater\_%';
    if found then
        raise exception 'the trigger % of % fires after Highwater''s own, so what it changes would not be stamped', quote_ident(fault.name), relation
            using hint = format('alter trigger %I on %s rename to a name that sorts before ~~highwater', fault.name, relation);
    end if;
end
$$;

-- Adds the three columns with constants, so that nothing is rewritten, and the lasting defaults.
create function highwater.add_columns(relation regclass, xid xid8, now timestamptz) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    own record;
    empty boolean;
    -- Ids that a table brings with it may be those of another cluster, and lie above all that are given out here.
    strange boolean := not exists (select from highwater.entity e where e.relation = add_columns.relation)
        and exists (select from pg_attribute a where a.attrelid = relation and a.attname = 'changed_xid' and not a.attisdropped);
begin
    if strange then
        perform highwater.run(format('alter table %s drop column changed_xid', relation));
    end if;
    for own in
        select w.*, a.attname is null or strange and w.name = 'changed_xid' as missing, not coalesce(a.attnotnull, false) as nullable
        from (values ('changed_xid', 'xid8', quote_literal(xid), highwater.xid_expression()),
                     ('changed_date', 'timestamptz', quote_literal(now), 'pg_catalog.clock_timestamp()'),
                     ('deleted', 'boolean', 'false', 'false')) w (name, type, constant, lasting)
        left join pg_attribute a on a.attrelid = relation and a.attname = w.name and not a.attisdropped
    loop
        if own.missing then
            perform highwater.run(format('alter table %s add column %I %s not null default %s', relation, own.name, own.type, own.constant));
        elsif own.nullable then
            execute format('select exists (select from %s where %I is null)', relation, own.name) into empty;
            if empty then
                raise exception 'the column % of % is null in some rows', quote_ident(own.name), relation
                    using hint = format('update %s set %I = %s where %I is null', relation, own.name, own.constant, own.name);
            end if;
            perform highwater.run(format('alter table %s alter column %I set not null', relation, own.name));
        end if;
        perform highwater.run(format('alter table %s alter column %I set default %s', relation, own.name, own.lasting));
    end loop;
end
$$;

-- Puts the triggers on the table and its partitions. `enable always`: rows that replication
-- writes are changes too. Truncate triggers are not inherited by partitions, the others are.
--
-- Of the BEFORE triggers of one event the one whose name sorts first fires first: the flag, then
-- the stamp, then the burial of rows that the stamp found to have moved.
create function highwater.add_triggers(relation regclass, number integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    part regclass;
    follows boolean := (select e.deleted_column is not null from highwater.entity e where e.number = add_triggers.number);
    names text[] := highwater.trigger_names(follows);
    -- On a partition, Postgres 14 takes the triggers that came with the table for its own, which only a superuser may set.
    -- There they fire but for sessions that replicate; those of partitions that are attached later always do.
    own text[] := case when current_setting('server_version_num')::integer < 150000
                            and not (select rolsuper from pg_roles where rolname = current_user)
                       then '{~~highwater_truncate}' else names end;
begin
    perform highwater.drop_triggers(relation);
    if follows then
        perform highwater.run(format('create trigger "~~highwater_flag" before insert or update on %s for each row execute function highwater.%I()', relation, 'flag_' || number));
    end if;
    -- What the defaults gave needs no function. A date that was given by hand may be that much
    -- older than the row's id: the server's samples stay as far behind.
    perform highwater.run(format('create trigger "~~highwater_insert" before insert on %s for each row
        when ((new.changed_xid = %s and new.deleted is not null
               and new.changed_date between clock_timestamp() - interval ''10 milliseconds'' and clock_timestamp()) is not true)
        execute function highwater.stamp_insert()', relation, highwater.xid_expression()));
    perform highwater.run(format('create trigger "~~highwater_update" before update on %s for each row execute function highwater.%I()', relation, 'stamp_' || number));
    perform highwater.run(format('create trigger "~~highwater_update_moved" before update on %s for each row when (new.changed_xid is null) execute function highwater.%I()', relation, 'bury_' || number));
    perform highwater.run(format('create trigger "~~highwater_delete" after delete on %s for each row execute function highwater.%I()', relation, 'bury_' || number));
    for part in select relid from pg_partition_tree(relation) union select relation loop
        perform highwater.run(format('create trigger "~~highwater_truncate" after truncate on %s for each statement execute function highwater.note_truncate(%L)', part, number));
        perform highwater.run(format('alter table only %s ', part) || (
            select string_agg(format('enable always trigger %I', t), ', ')
            from unnest(case when part = relation then names else own end) t));
    end loop;
end
$$;

-- The triggers of an entity.
create function highwater.trigger_names(follows boolean) returns text[]
language sql immutable
as $$
    select case when follows then array['~~highwater_flag'] else '{}' end
        || array['~~highwater_insert', '~~highwater_update', '~~highwater_update_moved', '~~highwater_delete', '~~highwater_truncate']
$$;

create function highwater.drop_triggers(relation regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    trigger record;
begin
    -- Those of a partition go with those of the partitioned table, except those of its own.
    for trigger in
        select t.tgname as name, p.relid from (select relid from pg_partition_tree(drop_triggers.relation) union select drop_triggers.relation) p (relid)
        join pg_trigger t on t.tgrelid = p.relid and t.tgname like '~~highwater\_%' and t.tgparentid = 0
    loop
        perform highwater.run(format('drop trigger %I on %s', trigger.name, trigger.relid::regclass));
    end loop;
end
$$;

create function highwater.index_name(number integer, kind text) returns text
language sql immutable
as $$ select pg_catalog.format('highwater_%s_%s', number, kind) $$;

-- What one of an entity's indexes is over: `xid` for changes since a snapshot, `date` for those
-- since a date, `deleted` for the flagged rows that a purge looks for, and `scope_xid` and
-- `scope_date` for callers who see some scopes only. Null where the entity has no scope.
create function highwater.index_definition(number integer, kind text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case kind
           when 'xid' then '(changed_xid, ' || key.columns || ')'
           when 'date' then '(changed_date)'
           when 'deleted' then '(changed_date) where deleted'
           when 'scope_xid' then '(' || quote_ident(e.scope_column) || ', changed_xid, ' || key.columns || ')'
           when 'scope_date' then '(' || quote_ident(e.scope_column) || ', changed_date)' end
    from highwater.entity e
    cross join lateral (select string_agg(quote_ident(k), ', ' order by n) as columns
                        from unnest(e.key_columns) with ordinality c (k, n)) key
    where e.number = index_definition.number
$$;

-- For the rest of the function that calls this, names are found where the session finds them: the application's triggers
-- may name its tables without their schema.
create function highwater.as_the_application() returns void
language sql
as $$
    select pg_catalog.set_config('search_path', s.reset_val, true) from pg_catalog.pg_settings s where s.name = 'search_path'
$$;

-- Flags the rows that the application's own column calls deleted, where that was not seen yet.
create function highwater.flag_deleted(relation regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    is_deleted text := (select highwater.deleted_by(e.relation, e.deleted_column, 't')
                        from highwater.entity e where e.relation = flag_deleted.relation);
    -- Written while names of tables are printed in full.
    statement text := format('update %s t set deleted = true where not t.deleted and %s', relation, is_deleted);
begin
    if is_deleted is not null then
        perform highwater.as_the_application();
        execute statement;
    end if;
end
$$;

revoke execute on function highwater.flag_deleted(regclass) from public;

-- The number that the next new entity will get, if no other comes before it.
create function highwater.next_number() returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    upcoming integer;
begin
    execute format('select last_value + is_called::integer from %s', pg_get_serial_sequence('highwater.entity', 'number')) into upcoming;
    return upcoming;
end
$$;

revoke execute on function highwater.next_number() from public;

-- What tells whether DDL changed the values of a table without writing its rows: the labels of its
-- enums by their oids, the attributes of its composite types, the files that hold its rows, and who last wrote its
-- columns' rows in the catalog. A rewrite that changes a column (`alter column ... using`) changes the last two; a new
-- label, `vacuum full` and new statistics change none, or one of them.
create function highwater.values_told_apart(relation regclass) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive types (oid) as (
        select a.atttypid from pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
        union
        select inner_type.oid
        from types
        join pg_type t on t.oid = types.oid
        cross join lateral (
            select t.typbasetype where t.typtype = 'd'
            union all
            select t.typelem where t.typelem <> 0
            union all
            select r.rngsubtype from pg_range r where t.oid in (r.rngtypid, r.rngmultitypid)
            union all
            select a.atttypid from pg_attribute a
            where a.attrelid = t.typrelid and t.typrelid <> 0 and a.attnum > 0 and not a.attisdropped
        ) inner_type (oid)
    )
    select jsonb_build_object(
        'labels', (select coalesce(jsonb_object_agg(l.oid::text, l.enumlabel), '{}') from pg_enum l where l.enumtypid in (select oid from types)),
        'attributes', (
            select coalesce(jsonb_object_agg(composite.oid::text, composite.attributes), '{}')
            from (select t.oid, string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum) as attributes
                  from types join pg_type t on t.oid = types.oid and t.typtype = 'c'
                  join pg_attribute a on a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
                  group by t.oid) composite),
        'files', (select string_agg(pg_relation_filenode(c.oid)::text, ' ' order by c.oid)
                  from pg_class c where c.oid = relation or c.oid in (select p.relid from pg_partition_tree(relation) p)),
        'columns', (select jsonb_object_agg(a.attname, a.xmin::text) from pg_attribute a
                    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
                      and a.attname not in ('changed_xid', 'changed_date', 'deleted')))
$$;

-- Leaves an entity without its table, which keeps its columns, or was dropped. What goes by the entity's number goes.
create function highwater.give_up(entity highwater.entity) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    schema text := (select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = entity.relation);
    kind text;
begin
    delete from highwater.tombstone t where t.entity = give_up.entity.number;
    delete from highwater.truncation t where t.entity = give_up.entity.number;
    delete from highwater.purged p where p.entity = give_up.entity.number;
    update highwater.entity e set relation = null where e.number = give_up.entity.number;
    if schema is not null then
        perform highwater.drop_triggers(entity.relation);
    end if;
    foreach kind in array array['stamp', 'bury', 'flag'] loop
        perform highwater.run(format('drop function if exists highwater.%I()', kind || '_' || entity.number));
    end loop;
    foreach kind in array array['xid', 'date', 'deleted', 'scope_xid', 'scope_date'] loop
        exit when schema is null;
        perform highwater.run(format('drop index if exists %I.%I', schema, highwater.index_name(entity.number, kind)));
    end loop;
end
$$;

revoke execute on function highwater.give_up(highwater.entity) from public;

-- Makes a table an entity. Options left null stay as they were; at first they mean: the table's
-- own name, no scope, all columns. Returns the entity's number.
--
-- Anew means a new incarnation: every client fetches the entity from the beginning. What takes
-- long, indexes and flags, is left to the caller where `whole` is false.
create function highwater.enable(
    relation regclass,
    name text default null,
    scope text default null,
    columns text[] default null,
    exclude text[] default null,
    deleted_column text default null,
    whole boolean default true
) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
-- Names of types are remembered, and compared with those that the server reads.
set quote_all_identifiers = off
as $$
declare
    before highwater.entity;
    after highwater.entity;
    xid xid8;
    now timestamptz;
    key_names text[];
    kind text;
begin
    perform highwater.check_relation(relation);
    -- First the lock, so that no older writer is left; then the id, then the clock.
    perform highwater.run(format('lock table %s in access exclusive mode', relation));
    xid := highwater.current_xid();
    now := clock_timestamp();
    lock table highwater.entity in share row exclusive mode;

    select array_agg(a.attname::text order by k.place), array_agg(format_type(highwater.base_type(a.atttypid), null) order by k.place)
    into after.key_columns, after.key_types
    from pg_index i
    cross join unnest(i.indkey::int2[]) with ordinality k (attnum, place)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where i.indrelid = enable.relation and i.indisprimary and k.place <= i.indnkeyatts;
    key_names := after.key_columns;

    select e.* into before from highwater.entity e where e.relation = enable.relation;
    after.name := coalesce(enable.name, before.name, (select c.relname from pg_class c where c.oid = enable.relation));
    after.scope_column := coalesce(enable.scope, before.scope_column);
    after.deleted_column := coalesce(enable.deleted_column, before.deleted_column);
    after.chosen_columns := case when exclude is null then coalesce(enable.columns, before.chosen_columns) end;
    after.excluded_columns := case when enable.columns is null then coalesce(enable.exclude, before.excluded_columns) end;
    perform highwater.check_name(relation, after.name);
    perform highwater.check_columns(relation, key_names, coalesce(enable.columns, after.chosen_columns),
                                    coalesce(enable.exclude, after.excluded_columns), after.scope_column, after.deleted_column);

    perform highwater.add_columns(relation, xid, now);
    if before.number is null or before.name <> after.name then
        -- Another entity's number would let its cursors mean this one: a renamed entity is new,
        -- and a name that comes back keeps the number it had.
        if before.number is not null then
            perform highwater.give_up(before);
        end if;
        select e.* into before from highwater.entity e where e.name = after.name;
        if before.number is null then
            -- A plan takes no number from a sequence, which would not be given back.
            insert into highwater.entity (number, name, relation, incarnation, began_date, key_columns, key_types, values_seen)
            overriding system value
            values (case when highwater.is_planning() then highwater.next_number() else nextval(pg_get_serial_sequence('highwater.entity', 'number')) end,
                    after.name, enable.relation, case when highwater.is_planning() then 0 else nextval('highwater.incarnation') end,
                    now, key_names, after.key_types, highwater.values_told_apart(enable.relation))
            returning * into before;
        end if;
    end if;
    foreach kind in array case when before.key_columns <> key_names then array['xid', 'scope_xid'] else '{}' end
        || case when before.scope_column is distinct from after.scope_column then array['scope_xid', 'scope_date'] else '{}' end
    loop
        perform highwater.run(format('drop index if exists %I.%I', (select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace
                                                                    where c.oid = enable.relation), highwater.index_name(before.number, kind)));
    end loop;
    if before.relation is distinct from enable.relation
       or (before.key_columns, before.key_types) is distinct from (key_names, after.key_types)
       -- These were written without a stamp.
       or highwater.wrongly_kept(before) <> '{}'
       or (before.chosen_columns, before.excluded_columns, before.scope_column)
          is distinct from (after.chosen_columns, after.excluded_columns, after.scope_column) then
        delete from highwater.tombstone t where t.entity = before.number;
        delete from highwater.truncation t where t.entity = before.number;
        delete from highwater.purged p where p.entity = before.number;
        update highwater.entity e
        set relation = enable.relation, began_date = now,
            incarnation = case when highwater.is_planning() then 0 else nextval('highwater.incarnation') end,
            values_seen = highwater.values_told_apart(enable.relation), key_columns = key_names, key_types = after.key_types,
            chosen_columns = after.chosen_columns, excluded_columns = after.excluded_columns,
            scope_column = after.scope_column, purged_xid = null, purged_date = null, purged_snapshot = null,
            forgotten_xid = null,
            indexed = e.indexed and before.relation is not distinct from enable.relation and before.key_columns = key_names
                      and before.scope_column is not distinct from after.scope_column
        where e.number = before.number;
    end if;
    update highwater.entity e
    set deleted_column = after.deleted_column, kept_columns = coalesce(highwater.kept_columns(e), '{}')
    where e.number = before.number
    returning * into after;

    perform highwater.write_trigger_functions(after);
    perform highwater.add_triggers(relation, before.number);
    if whole then
        perform highwater.flag_deleted(relation);
        foreach kind in array array['xid', 'date', 'deleted', 'scope_xid', 'scope_date'] loop
            continue when after.scope_column is null and kind like 'scope%';
            execute format('create index if not exists %I on %s %s', highwater.index_name(before.number, kind),
                           relation, highwater.index_definition(before.number, kind));
        end loop;
        perform highwater.note_indexed(before.number);
    end if;
    return before.number;
end
$$;

-- Notes that all indexes of an entity are there; from then on it is served.
create function highwater.note_indexed(entity integer) returns void
language sql
as $$ update highwater.entity e set indexed = true where e.number = note_indexed.entity and not e.indexed $$;

revoke execute on function highwater.note_indexed(integer) from public;

-- Undoes `enable`. Columns stay unless told otherwise; with them their defaults, since rows are
-- still written. False where the table is no entity.
create function highwater.disable(relation regclass, drop_columns boolean default false) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    entity highwater.entity;
begin
    perform highwater.run(format('lock table %s in access exclusive mode', relation));
    select e.* into entity from highwater.entity e where e.relation = disable.relation;
    if entity.number is not null then
        perform highwater.give_up(entity);
    end if;
    if drop_columns then
        perform highwater.run(format('alter table %s drop column if exists changed_xid, drop column if exists changed_date, drop column if exists deleted', relation));
    end if;
    return entity.number is not null;
end
$$;

-- Undoes `enable` for an entity whose table was dropped. `dropped` finds it, by its public name, as that stands or as
-- SQL writes it.
create function highwater.dropped(name text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select e.name
    from highwater.entity e
    where e.relation is not null and dropped.name in (e.name, quote_ident(e.name))
      and not exists (select from pg_class c where c.oid = e.relation)
$$;

create function highwater.forget(name text) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    entity highwater.entity;
begin
    select e.* into entity from highwater.entity e where e.name = highwater.dropped(forget.name) for update;
    if entity.number is not null then
        perform highwater.give_up(entity);
    end if;
    return entity.number is not null;
end
$$;

-- A role that may read tables does not thereby get to make entities of them.
revoke execute on function highwater.enable(regclass, text, text, text[], text[], text, boolean) from public;
revoke execute on function highwater.disable(regclass, boolean) from public;
revoke execute on function highwater.forget(text) from public;
