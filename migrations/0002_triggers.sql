-- What the triggers do. Where their functions must name an entity's columns, `highwater.enable`
-- writes them, since only generated code can do that and be fast.
--
-- Every insert and update pays for the stamp, so a stamp runs as the writer and with the writer's
-- settings, names everything in full, and writes nothing but the row. What writes into the schema
-- runs as its owner, because the writing role has no right on it, and with a pinned search path,
-- because a security definer must not find the caller's functions.

-- What is added to Postgres' ids. Those in the rows of a dump are another cluster's, and may lie above all that are given out
-- here. So each rebase begins an era, whose ids lie above all earlier ones: the era is in their highest bits, which Postgres
-- does not come to in centuries. In the first era they are Postgres' own.
create function highwater.era_start() returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select s.era::bigint << 48 from highwater.source s $$;

-- The id of the current transaction, in this era.
create function highwater.current_xid() returns xid8
language sql volatile
set search_path = pg_catalog, pg_temp
as $$ select (highwater.era_start() + pg_current_xact_id()::text::bigint)::text::xid8 $$;

-- The same as an expression, for where a function costs too much.
create function highwater.xid_expression() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case s.start
           when 0 then 'pg_catalog.pg_current_xact_id()'
           else format('(pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8 operator(pg_catalog.+) %L::pg_catalog.int8)'
                       '::pg_catalog.text::pg_catalog.xid8', s.start) end
    from highwater.era_start() s (start)
$$;

-- The snapshot of the current statement, in ids of this era.
create function highwater.current_snapshot() returns pg_snapshot
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case e.start when 0 then s.own else format('%s:%s:%s',
        pg_snapshot_xmin(s.own)::text::bigint + e.start, pg_snapshot_xmax(s.own)::text::bigint + e.start,
        (select string_agg((x::text::bigint + e.start)::text, ',' order by x) from pg_snapshot_xip(s.own) x))::pg_snapshot end
    from pg_current_snapshot() s (own), highwater.era_start() e (start)
$$;

-- Writes the function that is called before an insert whose row does not have the stamp of its transaction already. The
-- defaults of the columns give it, and then it is not called at all.
create function highwater.write_stamp_insert() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format($write$
        create or replace function highwater.stamp_insert() returns trigger
        language plpgsql
        as $body$
        begin
            -- The id is taken before the clock: whoever has seen all ids up to a moment has then seen
            -- every date up to that moment.
            new.changed_xid := %s;
            new.changed_date := pg_catalog.clock_timestamp();
            new.deleted := coalesce(new.deleted, false);
            return new;
        end
        $body$
        $write$, highwater.xid_expression());
end
$$;

revoke execute on function highwater.write_stamp_insert() from public;

select highwater.write_stamp_insert();

-- The type beneath a domain.
create function highwater.base_type(type oid) returns oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive base (oid, typbasetype) as (
        select t.oid, t.typbasetype from pg_type t where t.oid = type
        union all
        select t.oid, t.typbasetype from base b join pg_type t on t.oid = b.typbasetype
    )
    select oid from base where typbasetype = 0
$$;

-- The key of a row whose shape is no longer the one that `enable` saw (a renamed or retyped
-- column), by the primary key that the table has now. Null where it has none.
create function highwater.key_of(relation oid, old_row record) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
set bytea_output = 'hex' set lc_monetary = 'C' set extra_float_digits = 1
as $$
declare
    fields text;
    key text[];
begin
    select string_agg(format('((r.v).%I)::text', a.attname), ', ' order by k.place) into fields
    from pg_index i
    cross join unnest(i.indkey::int2[]) with ordinality k (attnum, place)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where i.indrelid = key_of.relation and i.indisprimary and k.place <= i.indnkeyatts;
    if fields is not null then
        execute format('select array[%s] from (select $1 as v) r', fields) into key using old_row;
    end if;
    return key;
end
$$;

-- After a truncate, of the table or of one partition. The argument is the entity's number.
create function highwater.note_truncate() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- As in a stamp, the id before the clock.
    insert into highwater.truncation (entity, changed_xid, changed_date)
    values (tg_argv[0]::integer, highwater.current_xid(), clock_timestamp());
    return null;
end
$$;

revoke execute on function highwater.key_of(oid, record) from public;

-- Whoever may execute it may have a trigger of a table of their own call it, and take an entity's rows for truncated.
-- The owners of entities may, who have triggers on new partitions made.
revoke execute on function highwater.note_truncate() from public;

-- Whether a row is deleted by what the application's own column says: a flag that is set, or
-- anything else that is not null. `version` is `new`, `old` or the table.
create function highwater.deleted_by(relation regclass, column_name text, version text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case highwater.base_type(a.atttypid) when 'boolean'::regtype
           then format('coalesce(%s.%I, false)', version, column_name)
           else format('%s.%I is not null', version, column_name) end
    from pg_attribute a
    where a.attrelid = relation and a.attname = column_name and not a.attisdropped
$$;

-- Runs a statement. Where a plan is asked for, it is noted in a setting instead, which ends with the
-- transaction: what is run goes on to a table of the application's, and a plan must not lock that.
create function highwater.run(statement text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if highwater.is_planning() then
        perform set_config('highwater.plan', current_setting('highwater.plan') || statement || E';\n', true);
    else
        execute statement;
    end if;
end
$$;

create function highwater.is_planning() returns boolean
language sql stable
as $$ select pg_catalog.current_setting('highwater.plan', true) <> '' $$;

revoke execute on function highwater.run(text) from public;

-- Columns whose changes do not count: hidden ones, and generated ones, which a BEFORE trigger sees as null. What one of the
-- latter is made of counts, where it is published or is the scope.
create function highwater.kept_columns(entity highwater.entity) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(a.attname::text order by a.attnum)
    from pg_attribute a
    where a.attrelid = (entity).relation and a.attnum > 0 and not a.attisdropped
      and a.attname not in ('changed_xid', 'changed_date', 'deleted')
      and (a.attgenerated <> '' or a.attname is distinct from (entity).scope_column and (
            a.attname = any ((entity).excluded_columns)
            or (entity).chosen_columns is not null and a.attname <> all ((entity).chosen_columns))
        and not exists (
            select from pg_attribute g
            join pg_attrdef d on d.adrelid = g.attrelid and d.adnum = g.attnum
            -- Before version 15 of Postgres it is the column that depends on others, later its expression.
            join pg_depend u on u.refclassid = 'pg_class'::regclass and u.refobjid = a.attrelid and u.refobjsubid = a.attnum
                and (u.classid = 'pg_attrdef'::regclass and u.objid = d.oid
                     or u.classid = 'pg_class'::regclass and u.objid = g.attrelid and u.objsubid = g.attnum)
            where g.attrelid = a.attrelid and g.attgenerated <> ''
              and (g.attname = (entity).scope_column
                   or g.attname <> all (coalesce((entity).excluded_columns, '{}'))
                      and g.attname = any (coalesce((entity).chosen_columns, array[g.attname::text])))))
$$;

-- What a purge of an entity that is under way in this transaction removes is older than this; null where there is none. The
-- settings hold the id of the transaction, so that one which another left behind does nothing.
create function highwater.purged_before(entity integer) returns timestamptz
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when current_setting('highwater.purging', true) = concat_ws(' ', pg_current_xact_id(), entity)
                then to_timestamp(0) + current_setting('highwater.purging_before')::bigint * interval '1 microsecond' end
$$;

-- Notes that a purge has removed a row that was changed last by this transaction and at this date.
create function highwater.note_purged(xid xid8, date timestamptz) returns void
language sql
as $$
    select pg_catalog.set_config('highwater.purged_rows',
               (coalesce(nullif(pg_catalog.current_setting('highwater.purged_rows', true), '')::integer, 0) + 1)::text, true),
           pg_catalog.set_config('highwater.purged_xid', greatest(xid, nullif(pg_catalog.current_setting('highwater.purged_xid', true), '')::xid8)::text, true),
           pg_catalog.set_config('highwater.purged_date', greatest((extract(epoch from date) * 1000000)::bigint,
               nullif(pg_catalog.current_setting('highwater.purged_date', true), '')::bigint)::text, true)
$$;

-- Columns that the trigger functions of an entity pass over, and must no longer: a generated one that has become a plain one, a
-- hidden one that a new generated one is made of.
create function highwater.wrongly_kept(entity highwater.entity) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(a.attname::text), '{}')
    from pg_attribute a
    where a.attrelid = (entity).relation and a.attnum > 0 and not a.attisdropped
      and a.attname = any ((entity).kept_columns) and a.attname <> all (coalesce(highwater.kept_columns(entity), '{}'))
$$;

-- Whether values of these types print alike whatever the session's settings say. Those of others may not, or hold what does
-- not, and a tombstone's must.
create function highwater.prints_alike(types text[]) returns boolean
language sql immutable
as $$
    select pg_catalog.array_remove(types, null) operator(pg_catalog.<@) array['smallint', 'integer', 'bigint', 'oid', 'numeric', 'boolean',
        'text', 'character varying', 'character', 'name', 'uuid', 'inet', 'cidr', 'macaddr']
$$;

-- The trigger functions of an entity, as they have to be now: `write_trigger_functions` writes them, and
-- `doctor` compares them with those that are there.
--
-- Everything but what is kept counts, also a column that is added later. A row that changes its key or
-- its scope is gone for those who knew it by the old one.
create function highwater.trigger_functions(entity highwater.entity)
returns table (name text, settings text, body text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $write$
declare
    kept text[] := highwater.kept_columns(entity);
    old_key text := (select string_agg(format('old.%I::text', c), ', ' order by n)
                     from unnest(entity.key_columns) with ordinality k (c, n));
    place text[] := entity.key_columns || array_remove(array[entity.scope_column], null);
    old_place text := (select string_agg(format('old.%I', c), ', ' order by n) from unnest(place) with ordinality k (c, n));
    new_place text := (select string_agg(format('new.%I', c), ', ' order by n) from unnest(place) with ordinality k (c, n));
    keep text := coalesce((select string_agg(format('seen.%1$I := old.%1$I; ', c), '') from unnest(kept) c), '');
    same text := case when keep = '' then 'new operator(pg_catalog.*=) old' else 'seen operator(pg_catalog.*=) old' end;
    new_key text := (select string_agg(format('new.%I::text', c), ', ' order by n)
                     from unnest(entity.key_columns) with ordinality k (c, n));
    scope text := case when entity.scope_column is null then 'null' else format('old.%I::text', entity.scope_column) end;
    scope_type text := (select format_type(highwater.base_type(a.atttypid), null) from pg_attribute a
                        where a.attrelid = entity.relation and a.attname = entity.scope_column and not a.attisdropped);
    xid text := highwater.xid_expression();
    printing text := case when highwater.prints_alike(entity.key_types || scope_type)
                          then ''
                          else 'set timezone = ''UTC'' set datestyle = ''ISO, YMD'' set intervalstyle = ''postgres'' '
                               'set bytea_output = ''hex'' set lc_monetary = ''C'' set extra_float_digits = 1 set quote_all_identifiers = off' end;
begin
    return query select 'stamp_' || entity.number, '', format($body$
        declare
            seen record;
            moved boolean;
        begin
            -- What the statement itself wrote into these two does not count.
            new.changed_xid := old.changed_xid;
            new.changed_date := old.changed_date;
            new.deleted := coalesce(new.deleted, false);
            begin
                %1$s
                if %2$s then
                    return new;
                end if;
                moved := pg_catalog.record_image_ne(row(%4$s), row(%3$s));
            exception when others then
                -- The table's shape is not the one that `enable` saw. Stamping too much and
                -- burying a live key are harmless; failing the application's update is not.
                moved := true;
            end;
            if moved then
                -- The trigger that buries is called for rows without an id.
                new.changed_xid := null;
            else
                new.changed_xid := %5$s;
                new.changed_date := greatest(pg_catalog.clock_timestamp(),
                    old.changed_date operator(pg_catalog.+) '1 microsecond'::pg_catalog.interval);
            end if;
            return new;
        end
        $body$, case when keep = '' then '' else 'seen := new; ' || keep end, same, old_place, new_place, xid);

    -- After a delete, and before an update that moves the row. The latter is not left to an AFTER
    -- trigger, since that would cost an event for every row updated. A key that lives on is never
    -- reported as gone.
    return query select 'bury_' || entity.number, 'security definer set search_path = pg_catalog, pg_temp ' || printing, format($body$
        declare
            key text[];
            scope text;
            left_scope boolean := false;
            xid xid8 := %6$s;
        begin
            -- `purge` records how far it went instead, and is told of each row: by a foreign key others may go with those
            -- that it names. What is younger than it removes, or another entity's, leaves a tombstone.
            if tg_op = 'DELETE' and old.deleted and old.changed_date < highwater.purged_before(%1$s) then
                perform highwater.note_purged(old.changed_xid, old.changed_date);
                return null;
            end if;
            begin
                key := array[%2$s];
                scope := %3$s;
                left_scope := tg_op = 'UPDATE' and key = array[%4$s];
            exception when others then
                key := %5$s;
            end;
            if key is null then
                -- Nothing but the whole entity can be called gone then.
                insert into highwater.truncation (entity, changed_xid, changed_date) values (%1$s, xid, clock_timestamp());
            else
                insert into highwater.tombstone (entity, changed_xid, changed_date, key, scope, left_scope)
                values (%1$s, xid, clock_timestamp(), key, scope, left_scope);
            end if;
            if tg_op = 'UPDATE' then
                new.changed_xid := xid;
                new.changed_date := greatest(clock_timestamp(), old.changed_date + interval '1 microsecond');
            end if;
            return new;
        end
        $body$, entity.number, old_key, scope, new_key,
        -- Without the scope that a row was in, those who knew it cannot be told of the key.
        case when entity.scope_column is null then 'highwater.key_of(tg_relid, old)' else 'null' end, xid);

    if entity.deleted_column is not null then
        return query select 'flag_' || entity.number, '', format($body$
            begin
                -- Of the flag and the application's column, the one that was written decides.
                if tg_op = 'INSERT' then
                    new.deleted := coalesce(new.deleted, false) or %1$s;
                elsif (%1$s) operator(pg_catalog.<>) (%2$s) then
                    new.deleted := %1$s;
                end if;
                return new;
            exception when others then
                -- The column is not what `enable` saw. The server says so, the write goes on.
                return new;
            end
            $body$, highwater.deleted_by(entity.relation, entity.deleted_column, 'new'),
            highwater.deleted_by(entity.relation, entity.deleted_column, 'old'));
    end if;
end
$write$;

-- Writes the trigger functions of an entity.
create function highwater.write_trigger_functions(entity highwater.entity) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    function record;
    owner text := (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = entity.relation);
begin
    for function in select f.* from highwater.trigger_functions(entity) f loop
        perform highwater.run(format('create or replace function highwater.%I() returns trigger language plpgsql %s as $body$%s$body$',
                                     function.name, function.settings, function.body));
        if function.settings like 'security definer%' then
            -- From a trigger of somebody else's it would call rows gone that are there.
            perform highwater.run(format('revoke execute on function highwater.%I() from public', function.name));
            perform highwater.run(format('grant execute on function highwater.%I() to %I', function.name, owner));
        end if;
    end loop;
    perform highwater.run(format('grant execute on function highwater.note_truncate() to %I', owner));
end
$$;

revoke execute on function highwater.write_trigger_functions(highwater.entity) from public;
