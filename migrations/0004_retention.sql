-- Retention: old tombstones and flagged rows go. How far is recorded, and keys of them are kept, so that whoever has not
-- seen them is told of these, or begins anew.

-- The key of a row `t` of an entity, as its tombstones have it. Null where it cannot be told: its columns are not those that
-- `enable` saw, or it does not print alike in all sessions.
create function highwater.printed_key(entity highwater.entity) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('array[%s]', string_agg(format('t.%I::text', k.name), ', ' order by k.place))
    from unnest((entity).key_columns) with ordinality k (name, place)
    left join pg_attribute a on a.attrelid = (entity).relation and a.attname = k.name and not a.attisdropped
    left join pg_attribute s on s.attrelid = (entity).relation and s.attname = (entity).scope_column and not s.attisdropped
    having array_agg(format_type(highwater.base_type(a.atttypid), null) order by k.place) = (entity).key_types
       and bool_and((s.attname is null) = ((entity).scope_column is null))
       and highwater.prints_alike((entity).key_types || array_agg(format_type(highwater.base_type(s.atttypid), null)))
$$;

-- Removes up to `batch` tombstones, truncations and flagged rows of one entity that are older than
-- `before`. Returns how many it removed; fewer than `batch` means that none are left. Of the entity's keys that it and
-- earlier ones have removed it keeps up to `keys_max`, the latest.
--
-- The record of how far changes in the same transaction: no snapshot has the one without the
-- other. Rows that a writer holds are left for the next time. One purge of an entity waits for another, so that the
-- snapshot that is recorded is the later one, which has seen all that the other has.
create function highwater.purge(entity integer, before timestamptz, batch integer, keys_max integer) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    target highwater.entity;
    key text;
    statement text;
    removed integer := 0;
    flagged integer := 0;
    gone record;
    keys text[] := '{}';
    xids xid8[] := '{}';
    dates timestamptz[] := '{}';
    scopes text[] := '{}';
    have_left boolean[] := '{}';
    has_changed boolean;
begin
    -- The table before the entity, as whoever enables or touches it locks them.
    execute format('lock table %s in row exclusive mode', (select e.relation from highwater.entity e where e.number = purge.entity));
    select e.* into target from highwater.entity e where e.number = purge.entity for update;
    key := highwater.printed_key(target);
    -- The trigger on delete looks for these: what is purged leaves no tombstone.
    perform set_config('highwater.purging', concat_ws(' ', pg_current_xact_id(), entity), true),
            set_config('highwater.purging_before', (extract(epoch from before) * 1000000)::bigint::text, true),
            set_config('highwater.purged_rows', '', true),
            set_config('highwater.purged_xid', '', true), set_config('highwater.purged_date', '', true);
    statement := format($statement$
        with tombstones as (
            delete from highwater.tombstone t where t.ctid in (
                select t.ctid from highwater.tombstone t
                where t.entity = $1 and t.changed_date < $2 order by t.changed_date limit $3)
            returning t.changed_xid, t.changed_date, t.key, t.scope, t.left_scope, false as flagged
        ), truncations as (
            delete from highwater.truncation t where t.entity = $1 and t.changed_date < $2
            returning t.changed_xid, t.changed_date, null::text[] as key, null::text as scope, false as left_scope, false as flagged
        ), flagged as (
            delete from %1$s t where (t.tableoid, t.ctid) in (
                select t.tableoid, t.ctid from %1$s t
                where t.deleted and t.changed_date < $2 limit $3 for update skip locked)
            returning t.changed_xid, t.changed_date, %2$s as key, %3$s as scope, false as left_scope, true as flagged
        )
        select * from tombstones union all select * from truncations union all select * from flagged
        $statement$, target.relation, coalesce(key, 'null::text[]'),
        case when key is null or target.scope_column is null then 'null::text' else format('t.%I::text', target.scope_column) end);
    -- Rows of the application's are deleted, for which it may have triggers.
    perform highwater.as_the_application();
    for gone in execute statement using entity, before, batch loop
        removed := removed + 1;
        flagged := flagged + gone.flagged::integer;
        target.purged_xid := greatest(target.purged_xid, gone.changed_xid);
        target.purged_date := greatest(target.purged_date, gone.changed_date);
        if gone.key is null then
            target.forgotten_xid := greatest(target.forgotten_xid, gone.changed_xid);
        else
            keys := keys || gone.key::text;
            xids := xids || gone.changed_xid;
            dates := dates || gone.changed_date;
            scopes := scopes || gone.scope;
            have_left := have_left || gone.left_scope;
        end if;
    end loop;
    perform set_config('search_path', 'pg_catalog, pg_temp', true);
    target.purged_xid := greatest(target.purged_xid, nullif(current_setting('highwater.purged_xid'), '')::xid8);
    target.purged_date := greatest(target.purged_date, to_timestamp(0)
        + nullif(current_setting('highwater.purged_date'), '')::bigint * interval '1 microsecond');
    if nullif(current_setting('highwater.purged_rows'), '')::integer > flagged then
        -- Others went along by a foreign key.
        target.forgotten_xid := target.purged_xid;
    end if;
    if removed > 0 then
        insert into highwater.purged (entity, scope, left_scope, newest_xid, xids, dates, keys, deletions)
        select purge.entity, g.scope, g.left_scope, (array_agg(g.xid order by g.xid desc))[1],
               array_agg(g.xid), array_agg(g.date), array_agg(g.key), count(*)
        from unnest(keys, xids, dates, scopes, have_left) g (key, xid, date, scope, left_scope)
        group by g.scope, g.left_scope;
        target.purged_snapshot := highwater.current_snapshot();
    end if;
    -- Also where nothing was removed: what is not to be remembered any more may be of earlier purges.
    with kept as (
        select p.number, sum(p.deletions) over (order by p.newest_xid desc, p.number) as deletions
        from highwater.purged p where p.entity = purge.entity
    ), forgotten as (
        delete from highwater.purged p using kept k where k.number = p.number and k.deletions > keys_max returning p.newest_xid
    )
    select greatest(target.forgotten_xid, (array_agg(f.newest_xid order by f.newest_xid desc))[1]), removed > 0 or count(*) > 0
    into target.forgotten_xid, has_changed from forgotten f;
    if has_changed then
        update highwater.entity e
        set purged_xid = target.purged_xid, purged_date = target.purged_date, purged_snapshot = target.purged_snapshot,
            forgotten_xid = target.forgotten_xid
        where e.number = purge.entity;
    end if;
    -- What a deferred foreign key removes is not among them.
    perform set_config('highwater.purging', '', true);
    return removed;
end
$$;

-- Makes every client fetch an entity anew, for changes that no trigger sees: DDL that changes
-- values without writing rows. False where the table is no entity.
create function highwater.touch(relation regclass) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The id before the clock, so that no date passes this while it is under way. Whoever changed
    -- the table by DDL has ended before it has its lock.
    perform pg_current_xact_id();
    execute format('lock table %s in share row exclusive mode', relation);
    update highwater.entity e
    set incarnation = nextval('highwater.incarnation'), began_date = clock_timestamp(),
        values_seen = highwater.values_told_apart(e.relation)
    where e.relation = touch.relation;
    return found;
end
$$;

revoke execute on function highwater.printed_key(highwater.entity) from public;
revoke execute on function highwater.purge(integer, timestamptz, integer, integer) from public;
revoke execute on function highwater.touch(regclass) from public;
