#!/usr/bin/env python3
"""Keeps an SQLite file current from a Highwater server, by the JSON form, with the standard library only.

    python3 client.py http://127.0.0.1:8080 shop.db [--follow]

HIGHWATER_TOKEN holds the token, where the server asks for one. docs/protocol.md has the rules."""
import decimal, functools, http.client, itertools, json, os, random, sqlite3, sys, time
from urllib import error, parse, request

PAGE_ROWS_MAX, WAIT_SECONDS, ANSWER_SECONDS_MAX, DIGITS_MAX = 10_000, 50, 75, 18
# All else is text, or what JSON says it is. An exact number stays text, which an affinity makes a number of.
AFFINITIES = {"bigint": "integer", "real": "real", "double precision": "real", "numeric": "text"}

def ask(path, **query):
    """An answer and its head. What may pass by itself is waited out; other errors are the caller's."""
    query = parse.urlencode({name: value for name, value in query.items() if value})
    asked = request.Request(f"{server}/{path}?{query}", headers={"Highwater-Client": f'"{os.uname().nodename}"'})
    if token := os.environ.get("HIGHWATER_TOKEN"):
        asked.add_unredirected_header("Authorization", f"Bearer {token}")
    for pause in itertools.chain((1, 2, 5, 15), itertools.repeat(60)):
        try:
            with request.urlopen(asked, timeout=ANSWER_SECONDS_MAX) as answer:
                # A body that was cut is an error here, or is no JSON text: nothing of it is kept.
                return json.loads(answer.read(), parse_float=decimal.Decimal, parse_int=whole), answer.headers
        except (OSError, http.client.HTTPException, ValueError) as fault:
            if 429 != getattr(fault, "code", 503) < 500:
                raise
            headers = getattr(fault, "headers", {})
        time.sleep(float(headers.get("Retry-After") or pause) * random.uniform(1, 1.5))  # not all at one moment

def whole(digits):
    return int(digits) if len(digits) <= DIGITS_MAX else decimal.Decimal(digits)

def quoted(name):
    return '"' + name.replace('"', '""') + '"'

def tables():
    names = store.execute("select name from sqlite_schema where type = 'table' and name <> 'sync_helper'")
    return [name for (name,) in names]

def begin_anew(entity):
    """Makes the table for the rows of an entity that begins anew; it takes the other's place when the pull ends."""
    table, key = quoted(entity["name"] + "~anew"), ", ".join(map(quoted, entity["key"]))
    columns = ", ".join(f"{quoted(one['name'])} {AFFINITIES.get(one['type'], '')}" for one in entity["columns"])
    store.execute(f"drop table if exists {table}")
    store.execute(f"create table {table} ({columns}, changed_date text, primary key ({key}))")

def apply(table, change):
    row = change["key"] if change["deleted"] else {**change["row"], "changed_date": change["changedDate"]}
    names, marks = ", ".join(map(quoted, row)), ", ".join("?" * len(row))
    store.execute(f"delete from {table} where ({names}) = ({marks})" if change["deleted"] else
                  f"insert or replace into {table} ({names}) values ({marks})", list(row.values()))

def pull():
    more, wait = True, follow and WAIT_SECONDS  # which is for the first page: what ends a pull may be empty
    while more:  # page by page, to one snapshot of the database
        since, source = store.execute("select cursor, source from sync_helper").fetchone()
        try:
            page, headers = ask("changes", since=since, wait=wait, limit=PAGE_ROWS_MAX)
        except error.HTTPError as refused:
            problem = json.load(refused)
            problem["code"] in ("resync_required", "invalid_since") or sys.exit(problem["detail"])
            for name in tables() if problem.get("reason") == "scope_changed" else ():
                store.execute(f"drop table {quoted(name)}")  # what may no longer be seen must not stay
            store.execute("update sync_helper set cursor = null, current = 0")
            continue  # every entity begins anew; readers keep the old rows until the pull has ended
        served = headers["highwater-source"]
        source in (None, served) or sys.exit(f"the server serves another database than that of {file}")
        resets = any(change.get("reason") == "reset" for change in page["changes"])
        entities = {one["name"]: one for one in ask("entities")[0]["entities"]} if resets else {}
        with store:  # the rows and the cursor stand or fall together
            store.execute("begin immediate")
            anew, more, wait = {name[:-5] for name in tables() if name.endswith("~anew")}, page["more"], None
            for change in page["changes"]:
                name = change["entity"]
                if change.get("reason") == "reset":
                    begin_anew(entities[name])
                    anew.add(name)
                else:
                    apply(quoted(name + "~anew" if name in anew else name), change)
            for name in anew if not more else ():
                store.execute(f"drop table if exists {quoted(name)}")
                store.execute(f"alter table {quoted(name + '~anew')} rename to {quoted(name)}")
            moved = store.execute("update sync_helper set cursor = ?, source = ?, last_sync_date = ?, current = ?"
                                  " where cursor is ?", (page["next"], served, page["lastSyncDate"], not more, since))
            moved.rowcount or sys.exit(f"another program writes to {file}")

len(sys.argv) > 2 or sys.exit(__doc__)
server, file, follow = sys.argv[1].rstrip("/"), sys.argv[2], "--follow" in sys.argv
as_json = functools.partial(json.dumps, default=float, ensure_ascii=False)
for kind, adapter in ((decimal.Decimal, str), (dict, as_json), (list, as_json)):
    sqlite3.register_adapter(kind, adapter)
store = sqlite3.connect(file, isolation_level=None, timeout=30)
store.executescript("""pragma journal_mode = wal; -- readers and the writer do not wait for each other
    create table if not exists sync_helper (cursor text, source text, current integer not null default 0,
        last_sync_date text not null default '1970-01-01T00:00:00Z', one integer primary key check (one = 1));
    insert or ignore into sync_helper (one) values (1)""")
while pull() or follow:
    time.sleep(1)  # whatever stands before the server may not hold a request
