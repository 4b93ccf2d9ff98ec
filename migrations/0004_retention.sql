-- Retention: old tombstones and flagged rows go, and how far is recorded, so that whoever has not
-- seen them begins anew.

-- Removes up to `batch` tombstones, truncations and flagged rows of one entity that are older than
-- `before`. Returns how many it removed; fewer than `batch` means that none are left.
--
-- The record of how far changes in the same transaction: no snapshot has the one without the
-- other. Rows that a writer holds are left for the next time. One purge of an entity waits for another, so that the
-- snapshot that is recorded is the later one, which has seen all that the other has.
create function highwater.purge(entity integer, before timestamptz, batch integer) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    target highwater.entity;
    statement text;
    removed integer := 0;
    gone record;
begin
    select e.* into target from highwater.entity e where e.number = purge.entity for update;
    -- The trigger on delete looks for these: what is purged leaves no tombstone.
    perform set_config('highwater.purging', concat_ws(' ', pg_current_xact_id(), entity), true),
            set_config('highwater.purging_before', (extract(epoch from before) * 1000000)::bigint::text, true),
            set_config('highwater.purged_xid', '', true), set_config('highwater.purged_date', '', true);
    statement := format($statement$
        with tombstones as (
            delete from highwater.tombstone t where t.ctid in (
                select t.ctid from highwater.tombstone t
                where t.entity = $1 and t.changed_date < $2 order by t.changed_date limit $3)
            returning changed_xid, changed_date
        ), truncations as (
            delete from highwater.truncation t where t.entity = $1 and t.changed_date < $2
            returning changed_xid, changed_date
        ), flagged as (
            delete from %1$s t where (t.tableoid, t.ctid) in (
                select t.tableoid, t.ctid from %1$s t
                where t.deleted and t.changed_date < $2 limit $3 for update skip locked)
            returning changed_xid, changed_date
        )
        select * from tombstones union all select * from truncations union all select * from flagged
        $statement$, target.relation);
    -- Rows of the application's are deleted, for which it may have triggers.
    perform highwater.as_the_application();
    for gone in execute statement using entity, before, batch loop
        removed := removed + 1;
        target.purged_xid := greatest(target.purged_xid, gone.changed_xid);
        target.purged_date := greatest(target.purged_date, gone.changed_date);
    end loop;
    target.purged_xid := greatest(target.purged_xid, nullif(current_setting('highwater.purged_xid'), '')::xid8);
    target.purged_date := greatest(target.purged_date, to_timestamp(0)
        + nullif(current_setting('highwater.purged_date'), '')::bigint * interval '1 microsecond');
    if removed > 0 then
        update highwater.entity e
        set purged_xid = target.purged_xid, purged_date = target.purged_date, purged_snapshot = pg_current_snapshot()
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

revoke execute on function highwater.purge(integer, timestamptz, integer) from public;
revoke execute on function highwater.touch(regclass) from public;
