//! Tables, columns, schemas and types of any name arrive exactly.

use highwater_server::admin::EnableOptions;

use crate::exact::{Both, held, quoted};
use crate::json::By;
use crate::rig::{Rig, run};

/// Names that mean something to Postgres, to SQLite, to a shell, or to Highwater itself.
const NAMES: &[&str] = &[
    "select",
    "order",
    "table",
    "values",
    "default",
    "null",
    "true",
    "excluded",
    "kept",
    "fresh",
    "main",
    "temp",
    "rowid",
    "oid",
    "_rowid_",
    "key",
    "row",
    "state",
    "entity",
    "cursor",
    "reset",
    "next",
    "t",
    "l",
    "r",
    "Größe",
    "größer",
    "名前",
    "🌊",
    "e\u{301}",
    "two words",
    " ",
    "Title Case",
    "with \"quotes\"",
    "it's",
    "a.b",
    "public.a",
    "semi;colon",
    "back\\slash",
    "[bracket]",
    "`tick`",
    "?1",
    ":a",
    "@a",
    "$1",
    "--",
    "/*",
    "%s",
    "{}",
    "&limit=1#",
    "+",
    "0",
    "1e3",
    "a name of 63 bytes which is exactly the most that Postgres has.",
];

/// Names that only columns can have.
const COLUMN_NAMES: &[&str] = &[
    "a,b",
    "line\nfeed",
    "tab\tstop",
    "return\r",
    "\u{1}",
    "sync_helper",
    "highwater_table",
    "sqlite_master",
    "changed",
    "reason",
    "seen",
    "scope",
    "moved",
];

/// A table of each name, with a key of that name, and a table with columns of all names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_name_of_a_table_or_a_column_arrives() {
    let rig = Rig::start("", &[]).await;
    for (name, kind) in NAMES.iter().zip(["int", "text", "bigint"].iter().cycle()) {
        let name = quoted(name);
        let sql = format!(
            "create table {name} ({name} {kind} primary key, n int, note text);
             insert into {name} select g, g, 'n' || g from generate_series(1, 5) g"
        );
        run(&rig.pool, &sql).await;
        rig.enable(&name, EnableOptions::default()).await;
    }
    let all: Vec<String> = NAMES
        .iter()
        .chain(COLUMN_NAMES)
        .map(|name| quoted(name))
        .collect();
    // Once as a table whose rows SQLite finds by their key, once as one with a row id beneath it.
    for (table, key) in [("everything", "\"t\", \"a,b\""), ("numbered", "n")] {
        let sql = format!(
            "create table {table} (n int, {} text, primary key ({key}));
             insert into {table} select g, {} from generate_series(1, 5) g",
            all.join(" text, "),
            vec!["g"; all.len()].join(", ")
        );
        run(&rig.pool, &sql).await;
        rig.enable(table, EnableOptions::default()).await;
    }

    let tables: Vec<&str> = NAMES.iter().copied().chain(["everything", "numbered"]).collect();
    let mut both = Both::new(&rig, "names.db", By::Cursor);
    both.follow(&tables, 20, "a first pull").await;
    for name in NAMES {
        let name = quoted(name);
        let sql = format!(
            "update {name} set note = 'changed' where n = 1; delete from {name} where n = 2;
             update {name} set deleted = true where n = 3; update {name} set {name} = '6' where n = 4"
        );
        run(&rig.pool, &sql).await;
    }
    let changes: Vec<String> = all.iter().map(|name| format!("{name} = 'changed'")).collect();
    let changes = changes.join(", ");
    for table in ["everything", "numbered"] {
        let sql = format!("update {table} set {changes} where n = 2; delete from {table} where n = 3");
        run(&rig.pool, &sql).await;
    }
    both.follow(&tables, 15, "changes").await;
    let sql = "select highwater.touch(relation) from highwater.entity;
               update everything set \"select\" = 'again' where n = 4; update numbered set rowid = 'again' where n = 4";
    run(&rig.pool, sql).await;
    both.follow(&tables, 1_000, "a renewal").await;

    let asked: Vec<String> = NAMES.iter().map(|name| format!("--entity={name}")).collect();
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    both.store = rig.store("named.db");
    rig.pulled(&both.store, &asked).await;
    for name in NAMES {
        both.assert_exact(&quoted(name), name, "asked for by name").await;
    }
}

/// Tables of one name in several schemas become entities of several names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_one_name_in_several_schemas_do_not_meet() {
    let tables = [
        ("public.item", "item"),
        ("shop.item", "shop.item"),
        ("\"Größe; drop\".item", "Artikel nach Größe"),
        ("shop.\"Item\"", "🌊"),
    ];
    let rig = Rig::start("create schema shop; create schema \"Größe; drop\"", &[]).await;
    let mut both = Both::new(&rig, "schemas.db", By::Cursor);
    for (place, (table, entity)) in tables.iter().enumerate() {
        let sql = format!(
            "create table {table} (id int primary key, name text);
             insert into {table} select g, '{entity} ' || g from generate_series(1, {}) g",
            place + 3
        );
        run(&rig.pool, &sql).await;
        let name = Some((*entity).to_owned());
        let options = EnableOptions {
            name,
            ..EnableOptions::default()
        };
        rig.enable(table, options).await;
    }
    for what in ["a first pull", "changes"] {
        both.pull(4).await;
        for (table, entity) in tables {
            both.assert_exact(table, entity, what).await;
            let sql =
                format!("update {table} set name = 'new' where id = 1; delete from {table} where id = 2");
            run(&rig.pool, &sql).await;
        }
    }
    // One of them alone, by the name that it has outside.
    let alone = rig.store("alone.db");
    rig.pulled(&alone, &["--entity", "🌊"]).await;
    assert_eq!(held(&alone, "🌊", &["id".to_owned()]).len(), 5);
}

/// Types of odd names, also as keys; what changes in them without a write arrives after `touch`;
/// and what `/entities` says of such a table is what its pages say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_of_odd_names_arrive_and_are_the_same_wherever_they_are_told() {
    let rig = Rig::start(
        r#"create schema "Größe; drop"; create type "Größe; drop"."it's a ""type""" as enum ('b', 'a', 'it''s', '"', '\');
           create domain "integer" as text; create type public."Select" as ("order" int, "a,b" "integer");
           create table odd (k "Größe; drop"."it's a ""type""", i public."integer", s public."Select", l "Größe; drop"."it's a ""type"""[],
               primary key (i, k, s));
           insert into odd select k, 'i' || n, row(n, k)::public."Select", array[k, null] from
               (select unnest(enum_range(null::"Größe; drop"."it's a ""type""")), generate_series(1, 5)) v (k, n)"#,
        &["odd"],
    )
    .await;
    let mut both = Both::new(&rig, "odd.db", By::Cursor);
    both.follow(&["odd"], 2, "a first pull").await;
    for (what, sql) in [
        (
            "changes",
            "delete from odd where k = 'a'; update odd set i = 'new' where k = 'it''s'; update odd set l = null where k = 'b'",
        ),
        (
            "new names",
            r#"alter type "Größe; drop"."it's a ""type""" rename value 'b' to 'c'; alter type public."Select" rename attribute "a,b" to b;
               select highwater.touch('odd')"#,
        ),
    ] {
        run(&rig.pool, sql).await;
        both.follow(&["odd"], 2, what).await;
    }

    let url = format!("http://{}/entities", rig.address);
    let told: serde_json::Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let told = &told["entities"][0];
    let (columns, fingerprint): (String, String) = rusqlite::Connection::open(&both.store)
        .unwrap()
        .query_row("select columns, fingerprint from highwater_table", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let mut columns: Vec<serde_json::Value> = serde_json::from_str(&columns).unwrap();
    columns.pop();
    assert_eq!(told["columns"], serde_json::Value::from(columns));
    assert_eq!(told["fingerprint"], fingerprint);
}
