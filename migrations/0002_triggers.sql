-- What the triggers of every entity share. The triggers' own functions are written by
-- `highwater.enable`, one pair an entity, since only generated code can name columns and be fast.
--
-- All run as the owner of the schema, because the writing role has no right on it, and with a
-- pinned search path, because a security definer must not find the caller's functions.

-- The key of a row whose shape is no longer the one that `enable` saw (a renamed or retyped
-- column), by the primary key that the table has now. Null where it has none.
create function highwater.key_of(relation oid, row_text text) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO, YMD' set bytea_output = 'hex'
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
        execute format('select array[%s] from (select $1::%s as v) r', fields, relation::regclass)
        into key using row_text;
    end if;
    return key;
end
$$;

-- Notes that a key is gone. Without a key nothing but the whole entity can be called gone.
create function highwater.bury(entity integer, key text[], scope text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- The id is taken before the clock: whoever has seen all ids up to a moment has then seen
    -- every date up to that moment.
    xid xid8 := pg_current_xact_id();
begin
    if key is null then
        insert into highwater.truncation values (entity, xid, clock_timestamp());
    else
        insert into highwater.tombstone values (entity, xid, clock_timestamp(), key, scope);
    end if;
end
$$;

-- After a truncate, of the table or of one partition. The argument is the entity's number.
create function highwater.note_truncate() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform highwater.bury(tg_argv[0]::integer, null, null);
    return null;
end
$$;

-- Callable by the trigger functions alone; a caller of `bury` could make any client fetch anew.
revoke execute on function highwater.bury(integer, text[], text) from public;
revoke execute on function highwater.key_of(oid, text) from public;

-- Writes the two trigger functions of an entity.
--
-- `kept` are columns whose changes do not count: hidden ones, and generated ones, which a BEFORE
-- trigger sees as null. Everything else counts, also a column that is added later.
create function highwater.write_trigger_functions(
    number integer, key_columns text[], key_types text[], kept text[], scope_column text
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $write$
declare
    old_key text := (select string_agg(format('old.%I::text', c), ', ' order by n)
                     from unnest(key_columns) with ordinality k (c, n));
    old_row text := (select string_agg(format('old.%I', c), ', ' order by n)
                     from unnest(key_columns) with ordinality k (c, n));
    new_row text := (select string_agg(format('new.%I', c), ', ' order by n)
                     from unnest(key_columns) with ordinality k (c, n));
    keep text := coalesce((select string_agg(format('seen.%1$I := old.%1$I; ', c), '') from unnest(kept) c), '');
    scope text := case when scope_column is null then 'null' else format('old.%I::text', scope_column) end;
    -- Keys of these types print as the session's settings say; the tombstone's must not.
    settings text := case when key_types && array['date', 'timestamp without time zone',
                               'timestamp with time zone', 'time with time zone', 'bytea']
                          then 'set timezone = ''UTC'' set datestyle = ''ISO, YMD'' set bytea_output = ''hex'''
                          else '' end;
begin
    execute format($function$
        create or replace function highwater.stamp_%1$s() returns trigger
        language plpgsql security definer set search_path = pg_catalog, pg_temp %2$s
        as $body$
        declare
            seen record;
            key text[];
            scope text;
            moved boolean;
        begin
            if tg_op = 'UPDATE' then
                -- What the statement itself wrote into these two does not count.
                new.changed_xid := old.changed_xid;
                new.changed_date := old.changed_date;
                begin
                    seen := new;
                    %3$s
                    if record_image_eq(seen, old) then
                        return new;
                    end if;
                    moved := record_image_ne(row(%5$s), row(%4$s));
                    if moved then
                        key := array[%6$s];
                        scope := %7$s;
                    end if;
                exception when others then
                    -- The table's shape is not the one that `enable` saw. Stamping too much and
                    -- burying a live key are harmless; failing the application's update is not.
                    moved := true;
                    key := highwater.key_of(tg_relid, old::text);
                end;
                if moved then
                    -- From a BEFORE trigger, since an AFTER trigger costs an event for every row
                    -- updated. A key that lives on is never reported as gone.
                    perform highwater.bury(%1$s, key, scope);
                end if;
                new.changed_xid := pg_current_xact_id();
                new.changed_date := greatest(clock_timestamp(), old.changed_date + interval '1 microsecond');
            else
                new.changed_xid := pg_current_xact_id();
                new.changed_date := clock_timestamp();
            end if;
            return new;
        end
        $body$
        $function$, number, settings, keep, old_row, new_row, old_key, scope);

    execute format($function$
        create or replace function highwater.bury_%1$s() returns trigger
        language plpgsql security definer set search_path = pg_catalog, pg_temp %2$s
        as $body$
        declare
            key text[];
            scope text;
        begin
            -- `purge` records how far it went instead. The id in the setting is that of the
            -- transaction, so a setting left behind by another does nothing.
            if old.deleted and current_setting('highwater.purging', true) = pg_current_xact_id()::text then
                return null;
            end if;
            begin
                key := array[%3$s];
                scope := %4$s;
            exception when others then
                key := highwater.key_of(tg_relid, old::text);
            end;
            perform highwater.bury(%1$s, key, scope);
            return null;
        end
        $body$
        $function$, number, settings, old_key, scope);
end
$write$;

revoke execute on function highwater.write_trigger_functions(integer, text[], text[], text[], text) from public;
