#!/bin/sh
# What the primary of compose.yaml needs beside its database. The image runs this once, when the
# volume is new.
set -eu

# By its standard input, not by its arguments, which other processes may read.
psql --set=ON_ERROR_STOP=1 --quiet --username=postgres --dbname="$POSTGRES_DB" <<SQL
create role standby login replication password '$STANDBY_PASSWORD';

-- The server only reads. Statistics tell it at once that a standby follows another primary.
create role highwater_server login password '$SERVER_PASSWORD' in role pg_read_all_data, pg_read_all_stats;
-- And the history of the timelines, so that a promotion that lost nothing costs nobody a resync.
grant execute on function pg_read_file(text, bigint, bigint, boolean) to highwater_server;
SQL

# `all` in the lines that the image writes does not mean replication.
echo 'host replication standby samenet scram-sha-256' >>"$PGDATA/pg_hba.conf"
