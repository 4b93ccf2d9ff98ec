//! Every type arrives as the store's documentation says, whatever the database's settings are.

use rusqlite::types::Value;

use crate::rig::{Rig, run};

/// A column's type, a value as SQL, and what the store must hold.
type Case = (&'static str, &'static str, Value);

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn cases() -> Vec<Case> {
    vec![
        ("smallint", "-32768", Value::Integer(-32_768)),
        ("integer", "2147483647", Value::Integer(2_147_483_647)),
        ("bigint", "-9223372036854775808", Value::Integer(i64::MIN)),
        ("oid", "4294967295", Value::Integer(4_294_967_295)),
        (
            "numeric",
            "18446744073709551616.000100",
            text("18446744073709551616.000100"),
        ),
        ("numeric", "'NaN'", text("NaN")),
        ("real", "0.1", Value::Real(0.1)),
        (
            "double precision",
            "float8 '0.1' + float8 '0.2'",
            Value::Real(0.1 + 0.2),
        ),
        ("double precision", "1.0 / 3", Value::Real(1.0 / 3.0)),
        ("double precision", "'NaN'", Value::Null),
        ("double precision", "'-Infinity'", Value::Real(f64::NEG_INFINITY)),
        ("double precision", "'5e-324'", Value::Real(5e-324)),
        ("boolean", "true", Value::Integer(1)),
        ("boolean", "false", Value::Integer(0)),
        ("boolean", "null", Value::Null),
        (
            "text",
            r"E'tab\t nl\n cr\r back\\ \\N \\. '",
            text("tab\t nl\n cr\r back\\ \\N \\. "),
        ),
        ("text", r"'\.'", text("\\.")),
        ("text", "''", text("")),
        ("text", "'zß水🍌'", text("zß水🍌")),
        ("varchar(9)", "'short'", text("short")),
        ("char(4)", "'ab'", text("ab  ")),
        ("\"char\"", "'c'", text("c")),
        ("name", "'a name'", text("a name")),
        ("bytea", r"'\x00ff0a095c'", Value::Blob(vec![0, 255, 10, 9, 92])),
        ("bytea", "''", Value::Blob(Vec::new())),
        ("date", "'2026-11-22'", text("2026-11-22")),
        ("date", "'0044-03-15 BC'", text("0044-03-15 BC")),
        ("date", "'infinity'", text("infinity")),
        ("time", "'23:59:59.5'", text("23:59:59.5")),
        ("timetz", "'10:00:00+02'", text("10:00:00+02")),
        (
            "timestamp",
            "'2026-11-22 10:00:00'",
            text("2026-11-22T10:00:00.000000"),
        ),
        (
            "timestamp(3)",
            "'2026-11-22 10:00:00.1239'",
            text("2026-11-22T10:00:00.124000"),
        ),
        (
            "timestamptz",
            "'2026-11-22 10:00:00.12+02'",
            text("2026-11-22T08:00:00.120000Z"),
        ),
        ("timestamptz", "'infinity'", text("infinity")),
        (
            "timestamptz",
            "'0044-03-15 00:00:00+00 BC'",
            text("0044-03-15 00:00:00+00 BC"),
        ),
        (
            "timestamptz",
            "'10000-01-01 00:00:00+00'",
            text("10000-01-01 00:00:00+00"),
        ),
        (
            "interval",
            "'1 year 2 mons 3 days 04:05:06.5'",
            text("1 year 2 mons 3 days 04:05:06.5"),
        ),
        (
            "uuid",
            "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
            text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ),
        (
            "json",
            r#"'{"b": [1, 2],  "a": "\u0000"}'"#,
            text(r#"{"b": [1, 2],  "a": "\u0000"}"#),
        ),
        (
            "jsonb",
            r#"'{"b": [1, 2],  "a": "\n"}'"#,
            text(r#"{"a": "\n", "b": [1, 2]}"#),
        ),
        ("int[]", "'{{1,2},{3,null}}'", text("{{1,2},{3,NULL}}")),
        (
            "text[]",
            r#"array['a"b', null, 'c\d', 'e,f']"#,
            text(r#"{"a\"b",NULL,"c\\d","e,f"}"#),
        ),
        ("kinds.mood", "'so so'", text("so so")),
        ("kinds.posint", "7", Value::Integer(7)),
        ("kinds.label", "'l'", text("l")),
        ("kinds.flag", "true", Value::Integer(1)),
        ("kinds.pair", "row(1, 'x y')", text("(1,\"x y\")")),
        ("int4range", "'[1,5)'", text("[1,5)")),
        ("int4multirange", "'{[1,3), [5,7)}'", text("{[1,3),[5,7)}")),
        (
            "tstzrange",
            "'[2026-01-01 00:00+00,)'",
            text("[\"2026-01-01 00:00:00+00\",)"),
        ),
        ("inet", "'10.0.0.1/8'", text("10.0.0.1/8")),
        ("cidr", "'10.0.0.0/8'", text("10.0.0.0/8")),
        ("macaddr", "'08:00:2b:01:02:03'", text("08:00:2b:01:02:03")),
        ("bit(4)", "B'1010'", text("1010")),
        ("varbit", "B'101'", text("101")),
        ("tsvector", "'a fat cat'", text("'a' 'cat' 'fat'")),
        ("tsquery", "'fat & cat'", text("'fat' & 'cat'")),
        ("money", "12.5", text("$12.50")),
        ("point", "'(1,2)'", text("(1,2)")),
        ("pg_lsn", "'16/B374D848'", text("16/B374D848")),
        ("regclass", "'pg_class'", text("pg_class")),
        ("xid8", "'42'", text("42")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_arrives_as_the_store_promises() {
    let cases = cases();
    let columns: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(n, (kind, ..))| format!("c{n} {kind}"))
        .collect();
    let values: Vec<&str> = cases.iter().map(|(_, value, _)| *value).collect();
    let rig = Rig::start(
        &format!(
            "create schema kinds; create type kinds.mood as enum ('so so', 'fine'); create type kinds.pair as (a int, b text);
             create domain kinds.posint as int check (value > 0); create domain kinds.label as text; create domain kinds.flag as boolean;
             create table every (id int primary key, {}); insert into every values (1, {})",
            columns.join(", "),
            values.join(", ")
        ),
        &["every"],
    )
    .await;
    // What a role or a database may say must not show.
    let name = rig.database.name();
    for setting in [
        "datestyle to 'SQL, DMY'",
        "intervalstyle to 'iso_8601'",
        "timezone to 'Asia/Kolkata'",
        "extra_float_digits to -15",
        "bytea_output to 'escape'",
        "search_path to kinds",
    ] {
        run(&rig.pool, &format!("alter database \"{name}\" set {setting}")).await;
    }
    let store = rig.store("every.db");
    let other = rig.serve_anew().await;
    let mut command = crate::rig::client("pull", &store);
    command.args(["--quiet", "--server", &format!("http://{other}")]);
    let output = crate::rig::output(command).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let connection = rusqlite::Connection::open(&store).unwrap();
    let names: Vec<String> = (0..cases.len()).map(|n| format!("c{n}")).collect();
    let held: Vec<Value> = connection
        .query_row(&format!("select {} from every", names.join(", ")), [], |row| {
            (0..cases.len()).map(|n| row.get(n)).collect()
        })
        .unwrap();
    for ((kind, value, expected), held) in cases.iter().zip(held) {
        let same = match (expected, &held) {
            // The shortest text of a `real` is what counts, and both sides read the same text.
            (Value::Real(expected), Value::Real(held)) => {
                (expected - held).abs() <= f64::EPSILON || expected.to_bits() == held.to_bits()
            }
            (expected, held) => expected == held,
        };
        assert!(same, "{kind} {value}: {held:?} instead of {expected:?}");
    }
}
