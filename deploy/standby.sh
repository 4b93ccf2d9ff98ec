#!/bin/sh
# Starts the standby of compose.yaml, by the command in its arguments, and copies the primary first
# where there is no copy yet.
set -eu

if [ ! -d "$PGDATA" ]; then
    # Made aside and then renamed: a copy that was cut off is not taken for a whole one.
    rm -rf "$PGDATA.new"
    # It takes with it how to reach the primary, and that it is a standby.
    PGPASSWORD=$STANDBY_PASSWORD pg_basebackup --host=primary --username=standby \
        --pgdata="$PGDATA.new" --write-recovery-conf --checkpoint=fast
    mv "$PGDATA.new" "$PGDATA"
fi

exec "$@"
