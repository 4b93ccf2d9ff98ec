//! `highwater verify` over keys and values of all kinds: no false alarm, and nothing that passes.

use highwater_server::ServeOptions;
use highwater_server::admin::EnableOptions;
use rusqlite::Connection;
use rusqlite::types::Value as Held;
use serde_json::json;

use crate::rig::{Rig, client, output, run};
use crate::verify::{assert_verified, edit, verify};

const KEYS: &str = r#"
    create domain code as char(4);
    create table by_text (k text collate "C" primary key, v text);
    insert into by_text select k, 'v' from unnest(array['a,b', '"q"', 'back\slash', '', 'ß🌊', E'tab\tnewline\n', 'a b ', '\N']) k;
    create table by_icu (k text collate "und-x-icu" primary key, v text);
    insert into by_icu select c || g, 'v' from unnest('{ä,a,A,Z,z}'::text[]) c, generate_series(1, 9) g;
    create table by_uuid (k uuid primary key, v jsonb);
    insert into by_uuid select gen_random_uuid(), '{"b": 1, "a": [null]}' from generate_series(1, 9);
    create table by_several (c text, a bigint, b boolean, v text, primary key (b, c, a));
    insert into by_several select 'x,' || g, -g, g % 2 = 0, nullif('v' || g, 'v4') from generate_series(1, 9) g;
    create table by_time (k timestamptz primary key, v timestamp);
    insert into by_time values ('2026-11-22 10:00:00.1234+02', '2026-11-22 10:00'), ('infinity', '-infinity'),
        ('0044-03-15 BC', '10000-01-01'), ('2026-11-22', 'infinity');
    create table by_bytes (k bytea primary key, v bytea);
    insert into by_bytes values ('\x00ff5c', ''), ('', null), ('\x0a09', '\x5c78');
    create table by_char (k char(6) primary key, v inet);
    insert into by_char values ('ab', '10.0.0.1'), ('abc', '10.0.0.0/8');
    create table by_domain (k code primary key, v real);
    insert into by_domain values ('ab', 'NaN'), ('c', '-0'), ('d', 0.1), ('e', 'infinity');
    create table by_number (k numeric(9, 3) primary key, v double precision);
    insert into by_number values (1, 0.1), (-2.5, '-0'), (3.125, 'NaN'), (4, 5e-324), (5, 1e300)"#;

const TABLES: [&str; 9] = [
    "by_text",
    "by_icu",
    "by_uuid",
    "by_several",
    "by_time",
    "by_bytes",
    "by_char",
    "by_domain",
    "by_number",
];

/// Every row of every table is lost, doubled and changed in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_every_kind_are_compared_and_named() {
    let rig = Rig::start(KEYS, &TABLES).await;
    let store = rig.store("kinds.db");
    rig.pulled(&store, &[]).await;
    assert_verified(&rig.url(), &store, &["--deep"], "as pulled").await;
    for table in TABLES {
        let rows: String =
            crate::live::value(&store, &format!("select cast(count(*) as text) from {table}")).unwrap();
        let rows: usize = rows.parse().unwrap();
        edit(
            &store,
            &format!("create table kept as select * from {table}; delete from {table}"),
        );
        let only = ["--entity", table, "--deep"];
        let (code, told) = verify(&rig.url(), &store, &only).await;
        let missing = told["entities"][0]["missing"].as_array().unwrap().clone();
        assert_eq!((code, missing.len()), (3, rows), "{told}");
        edit(
            &store,
            &format!("insert into {table} select * from kept; drop table kept"),
        );
        assert_verified(&rig.url(), &store, &only, table).await;
        // The same keys, deleted at the source but not here, are extra, in the same words.
        edit(
            &store,
            &format!("update {table} set changed_date = '2020-01-01T00:00:00.000000Z'"),
        );
        let (_, told) = verify(&rig.url(), &store, &only).await;
        assert_eq!(told["entities"][0]["stale"], json!(missing), "{table}");
        let (code, told) = verify(&rig.url(), &store, &[&only[..], &["--repair"]].concat()).await;
        assert_eq!((code, &told["repaired"]), (0, &json!(true)), "{told}");
        // What the store has not seen the last of is left out, whatever its key: here the row, in the
        // next round its tombstone.
        for change in [
            "update {table} set v = null where v is not null",
            "delete from {table}",
        ] {
            run(&rig.pool, &change.replace("{table}", table)).await;
            let told = assert_verified(&rig.url(), &store, &only, table).await;
            let left_out = told["entities"][0]["leftOut"].as_u64().unwrap();
            assert!(left_out > 0, "{told}");
        }
        let some = if table == "by_several" { "a" } else { "length(k)" };
        edit(&store, &format!("delete from {table} where {some} % 2 = 0"));
        assert_verified(&rig.url(), &store, &only, table).await;
    }
    let (code, told) = verify(&rig.url(), &store, &[]).await;
    assert_eq!(code, 0, "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_named_as_the_store_has_them() {
    let rig = Rig::start(KEYS, &TABLES).await;
    let store = rig.store("named.db");
    rig.pulled(&store, &[]).await;
    edit(
        &store,
        "delete from by_several where a = -4; delete from by_time where k < '3'; delete from by_bytes; delete from by_char;
         delete from by_text where k like '%newline%'",
    );
    let (code, told) = verify(&rig.url(), &store, &[]).await;
    let missing = |entity: &str| {
        let entities = told["entities"].as_array().unwrap();
        entities.iter().find(|found| found["entity"] == entity).unwrap()["missing"].clone()
    };
    assert_eq!(code, 3);
    assert_eq!(missing("by_several"), json!([{"b": true, "c": "x,4", "a": -4}]));
    assert_eq!(
        missing("by_time"),
        json!([{"k": "0044-03-15 00:00:00+00 BC"}, {"k": "2026-11-22T00:00:00.000000Z"}, {"k": "2026-11-22T08:00:00.123400Z"}])
    );
    assert_eq!(
        missing("by_bytes"),
        json!([{"k": "\\x"}, {"k": "\\x00ff5c"}, {"k": "\\x0a09"}])
    );
    assert_eq!(missing("by_char"), json!([{"k": "ab    "}, {"k": "abc   "}]));
    assert_eq!(missing("by_text"), json!([{"k": "tab\tnewline\n"}]));
}

/// Changes one value of a store to another of its type, and tells whether that could be done.
pub(crate) fn spoil(store: &std::path::Path, table: &str, column: &str) -> bool {
    let connection = Connection::open(store).unwrap();
    let rowids = format!("select \"{column}\" from \"{table}\" limit 1");
    let Ok(value) = connection.query_row(&rowids, [], |row| row.get::<_, Held>(0)) else {
        return false;
    };
    let other = match value {
        Held::Null => return false,
        Held::Integer(number) => Held::Integer(number ^ 1),
        Held::Real(number) => Held::Real(if number > 0.0 { -1.5 } else { 1.5 }),
        Held::Text(text) => Held::Text(format!("{text} ")),
        Held::Blob(bytes) => Held::Blob([bytes, vec![0]].concat()),
    };
    // The first row has it; others with the same value are spoilt with it.
    let sql = format!(
        "update \"{table}\" set \"{column}\" = ?1 where \"{column}\" is (select \"{column}\" from \"{table}\" limit 1)"
    );
    // A key that is taken stays as it was.
    connection.execute(&sql, [other]).is_ok_and(|changed| changed > 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_in_another_encoding_is_compared_in_utf8() {
    let rig = Rig::start("select 1", &[]).await;
    let name = format!("latin_{}", std::process::id());
    run(
        &rig.pool,
        &format!("create database {name} encoding 'LATIN1' locale 'C' template template0"),
    )
    .await;
    let url = rig.database.url().replace(rig.database.name(), &name);
    crate::rig::migrate(url.clone()).await.unwrap();
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    run(&pool, "create table product (id text primary key, name text); insert into product values ('ä', 'größe'), ('b', 'é')").await;
    let mut connection = pool.acquire().await.unwrap();
    highwater_server::admin::enable(&mut connection, "product", &EnableOptions::default())
        .await
        .unwrap();
    drop(connection);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(highwater_server::serve(
        listener,
        pool.clone(),
        ServeOptions::default(),
        stop.clone(),
    ));
    let store = rig.store("latin.db");
    let mut pull = client("pull", &store);
    pull.args(["--quiet", "--server", &address]);
    assert!(output(pull).await.status.success());
    let told = assert_verified(&address, &store, &["--deep"], "LATIN1").await;
    assert_eq!(told["entities"][0]["rows"], 2);
    edit(&store, "update product set name = 'grösse' where id = 'ä'");
    let (code, told) = verify(&address, &store, &["--deep"]).await;
    assert_eq!(
        (code, &told["entities"][0]["stale"]),
        (3, &json!([{"id": "ä"}])),
        "{told}"
    );
    stop.cancel();
    serving.await.unwrap().unwrap();
    pool.close().await;
    run(&rig.pool, &format!("drop database {name} with (force)")).await;
}
