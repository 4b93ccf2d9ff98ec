//! `--dry-run`, `grants`, and how `enable` waits for tables that are in use.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use highwater_server::admin::{self, AdminError, EnableOptions};
use sqlx::AssertSqlSafe;

use crate::rig::{Copy, Pull as _, Rig, migrated, run};

/// What there is in a database: tables, columns with defaults, triggers, indexes, functions, entities.
async fn inventory(rig: &Rig) -> String {
    sqlx::query_scalar(
        "select string_agg(line, E'\\n' order by line) from (
             select concat_ws(' ', 'column', a.attrelid::regclass, a.attname, a.atttypid::regtype, a.attnotnull,
                              pg_get_expr(d.adbin, d.adrelid))
             from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
             where a.attnum > 0 and a.attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p'))
             union all select concat_ws(' ', pg_get_triggerdef(oid), tgenabled) from pg_trigger where not tgisinternal or tgparentid <> 0
             union all select regexp_replace(pg_get_indexdef(indexrelid), '_[0-9]{4,}', '') || indisvalid from pg_index
                       where indrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)
             union all select pg_get_functiondef(oid) from pg_proc where pronamespace = 'highwater'::regnamespace
             union all select concat_ws(' ', number, name, relation, incarnation, key_columns, key_types, chosen_columns,
                                        excluded_columns, scope_column, deleted_column) from highwater.entity
             union all select concat_ws(' ', sequencename, last_value) from pg_sequences
         ) what (line)",
    )
    .fetch_one(&rig.pool)
    .await
    .unwrap()
}

/// Both say the same; what only one of them says is told.
fn same(one: &str, other: &str) {
    let only = |one: &str, other: &str| {
        let other: Vec<&str> = other.lines().collect();
        let lines = one
            .lines()
            .filter(|line| !other.contains(line))
            .map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    assert_eq!(only(one, other), only(other, one));
    assert!(one == other, "in another order");
}

/// Runs a script as a DBA does: with psql, or where there is none, piece by piece.
async fn psql(rig: &Rig, script: &str) {
    let psql = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", &rig.database.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut psql) = psql else {
        let script = script.replace("\\set ON_ERROR_STOP on\n", "");
        // What comes after the first transaction is one statement, or one transaction, a line.
        let (whole, lines) = script.split_once("\ncommit;\n").unwrap_or((&script, ""));
        let commit = if lines.is_empty() { "" } else { "\ncommit;" };
        rig.run(&format!("{whole}{commit}")).await;
        for line in lines
            .lines()
            .filter(|line| !line.starts_with("--") && !line.is_empty())
        {
            rig.run(line).await;
        }
        return;
    };
    psql.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let ended = psql.wait_with_output().unwrap();
    assert!(
        ended.status.success(),
        "{}\n{script}",
        String::from_utf8_lossy(&ended.stderr)
    );
}

const TABLES: &str = "create table \"it's odd\" (\"Id\" int primary key, name text, secret text, tenant int, gone timestamptz);
    insert into \"it's odd\" values (1, 'a', 'b', 1, now()), (2, 'c', 'd', 2, null);
    create table part (id int primary key) partition by range (id);
    create table part_1 partition of part for values from (0) to (100) partition by range (id);
    create table part_1_1 partition of part_1 for values from (0) to (50)";

fn odd() -> EnableOptions {
    EnableOptions {
        name: Some("odd".to_owned()),
        scope: Some("tenant".to_owned()),
        exclude: Some(vec!["secret".to_owned()]),
        deleted_column: Some("gone".to_owned()),
        ..EnableOptions::default()
    }
}

#[tokio::test]
async fn psql_with_the_plan_comes_to_the_same_as_the_command() {
    let (by_plan, by_command) = (Rig::start(TABLES).await, Rig::start(TABLES).await);
    let untouched = inventory(&by_plan).await;
    let mut connection = by_plan.database.connect().await.unwrap();
    let mut other = by_command.database.connect().await.unwrap();
    for (table, options) in [("\"it's odd\"", odd()), ("part", EnableOptions::default())] {
        let before = inventory(&by_plan).await;
        let plan = admin::plan_enable(&mut connection, table, &options)
            .await
            .unwrap();
        assert_eq!(inventory(&by_plan).await, before, "a plan changes nothing");
        for part in [
            "lock table",
            "add column changed_xid xid8 not null",
            "create trigger \"~~highwater_update\"",
            "create or replace function highwater.stamp_",
            "create index concurrently",
        ] {
            assert!(plan.contains(part), "{part}: {plan}");
        }
        psql(&by_plan, &plan).await;
        admin::enable(&mut other, table, &options).await.unwrap();
    }
    // The ids of transactions and of tables differ, and these alone.
    same(&inventory(&by_plan).await, &inventory(&by_command).await);
    let mut copy = Copy::default();
    copy.pull(&by_plan.server, 0).await;
    assert_eq!(
        copy.rows("odd").len(),
        1,
        "flagged as the application's column says"
    );

    // What is there already needs no further index, and what is invalid is built anew.
    let again = admin::plan_enable(&mut connection, "part", &EnableOptions::default())
        .await
        .unwrap();
    assert!(!again.contains("create index"), "{again}");
    by_plan
        .run("update pg_index set indisvalid = false where indexrelid = 'highwater_1_xid'::regclass")
        .await;
    let again = admin::plan_enable(&mut connection, "\"it's odd\"", &odd())
        .await
        .unwrap();
    assert!(
        again.contains("drop index concurrently") && again.matches("create index").count() == 1,
        "{again}"
    );

    for table in ["\"it's odd\"", "part"] {
        let before = inventory(&by_plan).await;
        let plan = admin::plan_disable(&mut connection, table, true).await.unwrap();
        assert_eq!(inventory(&by_plan).await, before);
        assert!(
            plan.contains("drop trigger") && plan.contains("drop column if exists changed_xid"),
            "{plan}"
        );
        psql(&by_plan, &plan).await;
        assert!(admin::disable(&mut other, table, true).await.unwrap());
    }
    same(&inventory(&by_plan).await, &inventory(&by_command).await);
    assert_ne!(inventory(&by_plan).await, untouched, "the entities' numbers stay");
}

#[tokio::test]
async fn a_plan_that_is_out_of_date_says_so_and_changes_nothing() {
    let rig = Rig::start(TABLES).await;
    let mut connection = rig.database.connect().await.unwrap();
    let plan = admin::plan_enable(&mut connection, "part", &EnableOptions::default())
        .await
        .unwrap();
    admin::enable(&mut connection, "\"it's odd\"", &odd())
        .await
        .unwrap();
    let before = inventory(&rig).await;
    let failed = sqlx::raw_sql(AssertSqlSafe(plan.replace("\\set ON_ERROR_STOP on", "")))
        .execute(&rig.pool)
        .await;
    assert!(failed.unwrap_err().to_string().contains("print it anew"));
    let without_sequences = |inventory: String| {
        let lines = inventory.lines().map(str::to_owned);
        lines
            .filter(|line| !line.contains("_seq ") && !line.starts_with("incarnation"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        without_sequences(inventory(&rig).await),
        without_sequences(before)
    );
}

/// A DBA looks first. That must neither wait for the table nor have others wait.
#[tokio::test]
async fn a_plan_locks_no_table() {
    let rig = Rig::start(TABLES).await;
    let mut holder = rig.pool.begin().await.unwrap();
    sqlx::query("lock table \"it's odd\" in access exclusive mode")
        .execute(&mut *holder)
        .await
        .unwrap();
    let mut connection = rig.database.connect().await.unwrap();
    sqlx::raw_sql("set lock_timeout = '2s'")
        .execute(&mut connection)
        .await
        .unwrap();
    admin::plan_enable(&mut connection, "\"it's odd\"", &EnableOptions::default())
        .await
        .unwrap();
}

/// While `enable` cannot have its lock, others go on between its attempts; when it can, it goes through.
#[tokio::test]
async fn a_transaction_that_sits_idle_holds_up_enable_and_nobody_else() {
    let rig =
        Rig::start("create table product (id int primary key); insert into product values (1), (2)").await;
    let mut idle = rig.pool.begin().await.unwrap();
    sqlx::query("update product set id = 3 where id = 1")
        .execute(&mut *idle)
        .await
        .unwrap();
    let mut connection = rig.database.connect().await.unwrap();
    let options = EnableOptions {
        lock_wait: Some(Duration::from_millis(200)),
        ..EnableOptions::default()
    };
    let enabling = tokio::spawn(async move { admin::enable(&mut connection, "product", &options).await });
    let mut stalls = Vec::new();
    for _ in 0..30 {
        let began = std::time::Instant::now();
        rig.run("update product set id = id where id = 2").await;
        stalls.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!enabling.is_finished());
    let longest = stalls.iter().max().unwrap();
    assert!(
        *longest >= Duration::from_millis(20),
        "no writer met an attempt: {longest:?}"
    );
    assert!(*longest < Duration::from_secs(2), "{longest:?}");
    idle.rollback().await.unwrap();
    enabling.await.unwrap().unwrap();
}

/// The SQL of `grants` is all that a server needs, and a role that has it can write nothing.
#[tokio::test]
async fn a_role_with_these_grants_serves_and_writes_nothing() {
    let rig = Rig::start(TABLES).await;
    rig.run(
        "create schema shop; create table shop.price (id int primary key); insert into shop.price values (1)",
    )
    .await;
    let mut connection = rig.database.connect().await.unwrap();
    let role = format!("granted \"{}\"", rig.database.name());
    let none = admin::grants(&mut connection, &role).await.unwrap();
    assert!(none.contains("no entities yet"), "{none}");
    admin::enable(&mut connection, "\"it's odd\"", &odd())
        .await
        .unwrap();
    rig.enable(&["part", "shop.price"]).await;
    // Printed twice, run twice: the second time the role is there.
    for _ in 0..2 {
        let grants = admin::grants(&mut connection, &role).await.unwrap();
        psql(&rig, &grants).await;
    }
    let quoted = format!("\"{}\"", role.replace('"', "\"\""));
    let mut reader = rig.database.connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("set role {quoted}")))
        .execute(&mut reader)
        .await
        .unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p') and n.nspname in ('public', 'shop', 'highwater')",
    )
    .fetch_all(&mut reader)
    .await
    .unwrap();
    assert!(tables.len() >= 9, "{tables:?}");
    for table in &tables {
        for statement in [
            format!("insert into {table} default values"),
            format!("delete from {table}"),
            format!("truncate {table}"),
        ] {
            let refused = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
                .execute(&mut reader)
                .await;
            let refused = refused.unwrap_err().to_string();
            assert!(
                refused.contains("permission denied") || refused.contains("must be owner"),
                "{statement}: {refused}"
            );
        }
    }
    for call in [
        "highwater.enable('shop.price')",
        "highwater.disable('shop.price')",
        "highwater.touch('shop.price')",
        "highwater.purge(1, now(), 1, 0)",
        "highwater.rebase()",
        "highwater.run('select 1')",
        "highwater.next_number()",
    ] {
        let refused = sqlx::raw_sql(AssertSqlSafe(format!("select {call}")))
            .execute(&mut reader)
            .await;
        assert!(
            refused.unwrap_err().to_string().contains("permission denied"),
            "{call}"
        );
    }
    // By a trigger of a table of its own it would have rows taken for gone.
    let own = "create temp table own (id text, deleted boolean, changed_date timestamptz, changed_xid xid8)";
    sqlx::raw_sql(own).execute(&mut reader).await.unwrap();
    for (event, function) in [
        ("delete on own for each row", "bury_1()"),
        ("truncate on own", "note_truncate('1')"),
    ] {
        let forging = format!("create trigger forging after {event} execute function highwater.{function}");
        let refused = sqlx::raw_sql(AssertSqlSafe(forging)).execute(&mut reader).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("permission denied for function"), "{refused}");
    }
    // It serves, as `rights` tries in full.
    let pool = {
        use std::str::FromStr as _;
        let options = sqlx::postgres::PgConnectOptions::from_str(&rig.database.url()).unwrap();
        sqlx::postgres::PgPoolOptions::new()
            .max_connections(4)
            .after_connect(move |connection, _| {
                let set = format!("set role {quoted}");
                Box::pin(async move {
                    sqlx::raw_sql(AssertSqlSafe(set))
                        .execute(connection)
                        .await
                        .map(drop)
                })
            })
            .connect_with(options)
            .await
            .unwrap()
    };
    let server = crate::rig::Served::start(&pool).await;
    let mut copy = Copy::default();
    copy.pull(&server, 1).await;
    rig.run("insert into part values (1); truncate shop.price").await;
    copy.pull(&server, 1).await;
    assert_eq!(copy.rows("part"), rig.source("part", "id").await);
    assert_eq!(copy.rows("price").len(), 0);
    assert_eq!(server.get("/readyz").await.status(), 200);
    drop(server);
    pool.close().await;
    drop(reader);
    let quoted = format!("\"{}\"", role.replace('"', "\"\""));
    rig.run(&format!("drop owned by {quoted}; drop role {quoted}"))
        .await;
}

/// Who still holds the table is named.
#[tokio::test]
async fn a_lock_that_is_never_had_is_told_with_its_holder() {
    let database = migrated().await;
    let pool = database.pool().await.unwrap();
    run(&pool, "create table product (id int primary key)").await;
    let mut holder = pool.begin().await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut *holder)
        .await
        .unwrap();
    sqlx::query("lock table product in access share mode")
        .execute(&mut *holder)
        .await
        .unwrap();
    let mut connection = database.connect().await.unwrap();
    let options = EnableOptions {
        lock_wait: Some(Duration::from_millis(1)),
        ..EnableOptions::default()
    };
    let refused = admin::enable(&mut connection, "product", &options)
        .await
        .unwrap_err();
    assert!(matches!(refused, AdminError::Locked { .. }));
    assert!(refused.to_string().contains(&format!("pid {pid}")), "{refused}");
}
