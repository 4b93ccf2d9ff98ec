-- What Highwater remembers: which database this is, which tables are entities, and what is gone.

do $$
begin
    if current_setting('server_version_num')::int < 140000 then
        raise exception 'Highwater needs Postgres 14 or later, this is %', current_setting('server_version');
    end if;
end
$$;

-- The identity of this database. `own_id` goes with a dump or a restore, the rest does not, and
-- so the server can tell the original from what was made of it.
create table highwater.source (
    only_row boolean primary key default true check (only_row),
    own_id uuid not null default gen_random_uuid(),
    system_identifier bigint not null,
    database oid not null,
    -- A dump that is read into the database that it was made of makes another schema.
    schema oid not null,
    -- How often it was rebased, which counts in every id: see `highwater.era_start`.
    era smallint not null default 0
);

-- What it would be where it is now.
create view highwater.place as
select c.system_identifier, d.oid as database, n.oid as schema
from pg_catalog.pg_control_system() c, pg_catalog.pg_database d, pg_catalog.pg_namespace n
where d.datname = pg_catalog.current_database() and n.nspname = 'highwater';

insert into highwater.source (system_identifier, database, schema)
select p.system_identifier, p.database, p.schema from highwater.place p;

-- Whether this database was restored or copied to where it is, and not yet rebased.
create function highwater.is_moved() returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select (s.system_identifier, s.database, s.schema) <> (p.system_identifier, p.database, p.schema)
    from highwater.source s, highwater.place p
$$;

-- Every change in what an entity is takes a number from here, so that no number stands for two
-- states of any entity.
create sequence highwater.incarnation;

create table highwater.entity (
    -- Cursors name entities by this number; it stays with the name for good.
    number integer generated always as identity primary key,
    name text not null unique,
    -- Null while the entity is disabled: the row is kept, so that a later `enable` is known for
    -- a return, and dates from before it begin anew.
    relation regclass unique,
    incarnation bigint not null default nextval('highwater.incarnation'),
    began_date timestamptz not null,
    -- The primary key's columns in order, and their types: tombstones hold keys of this shape.
    key_columns text[] not null,
    key_types text[] not null,
    -- Published columns: those chosen, or all but those excluded.
    chosen_columns text[],
    excluded_columns text[],
    scope_column text,
    -- A column of the application's that the deleted flag follows.
    deleted_column text,
    -- What `highwater.kept_columns` said when the trigger functions were written: columns whose changes do not count.
    kept_columns text[] not null default '{}',
    -- What `highwater.values_told_apart` said when the incarnation began; `doctor` compares.
    values_seen jsonb,
    -- Whether its indexes were built. Until then every page would read the whole table, so that it is left out.
    indexed boolean not null default false,
    -- How far `purge` has removed what was deleted, and what the last one saw: what was in flight then was not removed.
    purged_xid xid8,
    purged_date timestamptz,
    purged_snapshot pg_snapshot,
    -- Of the deletions that were removed, those with this id or an earlier one may be missing in `highwater.purged`.
    forgotten_xid xid8,
    -- Where a rebase found all rows as a dump had brought them: `highwater.incarnation_of` at that time.
    rebased_as bigint
);

-- SQLite cannot hold two tables whose names differ only by case.
create unique index entity_name_without_case on highwater.entity (lower(name collate "C"));

-- A key that went by `delete` or by a change of key. Rows are added and purged, never changed.
-- The key is text, not typed: a later `alter table` must not make the application's delete fail.
-- Nothing references the entity, whose row stays for good: the check would double the cost.
create table highwater.tombstone (
    -- Orders tombstones of one transaction in pages. The key could not: an index row has a limit,
    -- and a delete must not fail for a long key.
    number bigint generated always as identity,
    entity integer not null,
    changed_xid xid8 not null,
    changed_date timestamptz not null,
    key text[] not null,
    -- The row's value of the scope column, for entities that have one.
    scope text,
    -- Whether the row went to another scope, where it lives on.
    left_scope boolean not null default false
);

create index tombstone_xid on highwater.tombstone (entity, changed_xid, number);
create index tombstone_date on highwater.tombstone (entity, changed_date, number);

-- For callers who see some scopes only: what they are told must not cost what all others did. The
-- cast is there for the planner, which without statistics may take the indexes above, and then does
-- not when it is asked for the cast.
create index tombstone_scope_xid on highwater.tombstone ((entity::bigint), scope, changed_xid, number) where scope is not null;
create index tombstone_scope_date on highwater.tombstone ((entity::bigint), scope, changed_date, number) where scope is not null;

-- The keys of deletions that `purge` has removed, many to a row: a tenth of the room of as many tombstones. Who has not seen
-- them is told of them as long as they are kept, in place of all rows anew. The arrays are parallel: `keys` are
-- `tombstone.key` as text.
create table highwater.purged (
    number bigint generated always as identity primary key,
    entity integer not null,
    -- All of them lie in this scope.
    scope text,
    left_scope boolean not null,
    -- The highest of the ids.
    newest_xid xid8 not null,
    xids xid8[] not null,
    dates timestamptz[] not null,
    keys text[] not null,
    -- How many they are: to count the arrays they would have to be unpacked.
    deletions integer not null
);

create index purged_xid on highwater.purged (entity, newest_xid);

-- A truncate leaves no keys to bury: the entity begins anew for whoever has not seen it.
create table highwater.truncation (
    entity integer not null,
    changed_xid xid8 not null,
    changed_date timestamptz not null
);

create index truncation_xid on highwater.truncation (entity, changed_xid);

-- How far this database had come when `highwater.mark` was called last, by timeline. What a dump brings of it tells where in
-- its history the dump was taken: not before this.
create table highwater.mark (
    -- Whose history it is.
    system_identifier bigint not null,
    database oid not null,
    era smallint not null,
    timeline integer not null,
    entity integer not null,
    -- Who holds the mark holds all that the log had before this position, and all that this snapshot has seen.
    position pg_lsn not null,
    snapshot pg_snapshot not null,
    -- What the entity was, as a dump leaves it, and as cursors name it, which a dump does not.
    shape text not null,
    incarnation bigint not null,
    primary key (system_identifier, database, era, timeline, entity)
);
