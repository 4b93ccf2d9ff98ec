//! The widest table and the largest values that there are arrive like any others.

use highwater_server::admin::EnableOptions;

use crate::exact::{Both, held};
use crate::json::By;
use crate::rig::{Rig, output, run};

/// The most columns of a table in Postgres, less Highwater's own three.
const COLUMNS: usize = 1_597;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_all_columns_that_postgres_allows_arrives() {
    let rig = Rig::start("", &[]).await;
    for (table, key) in [("numbered", "c0"), ("keyed", "c1, c0, c1596")] {
        let column = |place: usize| {
            let kind = ["int", "text", "boolean", "smallint"][place % 4];
            format!("c{place} {kind}")
        };
        let columns: Vec<String> = (0..COLUMNS).map(column).collect();
        let value = |place: usize| ["g", "'t'", "true", "7"][place % 4].to_owned();
        let values: Vec<String> = (0..COLUMNS).map(value).collect();
        let sql = format!(
            "create table {table} ({}, primary key ({key})); insert into {table} select {} from generate_series(1, 20) g",
            columns.join(", "),
            values.join(", ")
        );
        run(&rig.pool, &sql).await;
        rig.enable(table, EnableOptions::default()).await;
    }
    let tables = ["numbered", "keyed"];
    let mut both = Both::new(&rig, "wide.db", By::Cursor);
    both.follow(&tables, 7, "a first pull").await;
    let keeping = rig.store("keeping.db");
    rig.pulled(&keeping, &["--keep-deleted"]).await;
    for (what, also) in [
        ("changes", ""),
        (
            "a renewal",
            "select highwater.touch(relation) from highwater.entity;",
        ),
    ] {
        for table in tables {
            let every: Vec<String> = (2..COLUMNS - 1)
                .map(|place| match place % 4 {
                    0 | 3 => format!("c{place} = c{place} + 1"),
                    1 => format!("c{place} = c{place} || '+'"),
                    _ => format!("c{place} = not c{place}"),
                })
                .collect();
            let sql = format!(
                "{also} update {table} set {} where c0 < 5; update {table} set c1594 = null where c0 = 6;
                 delete from {table} where c0 in (select max(c0) from {table}); update {table} set c0 = -c0 where c0 in (8, -8)",
                every.join(", ")
            );
            run(&rig.pool, &sql).await;
        }
        both.follow(&tables, 7, what).await;
        rig.pulled(&keeping, &["--keep-deleted"]).await;
        let rows = held(&keeping, "numbered", &["c0".to_owned()]);
        assert!(rows.values().all(|row| row.len() == COLUMNS + 2), "{what}");
    }
}

/// Ten megabytes of bytes, each of the 256 among them, and fifty of text, more than a page has:
/// the page ends after that row, and the pull goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_larger_than_a_page_arrive_and_end_their_page() {
    let rig = Rig::start(
        r"create table large (id int primary key, bytes bytea, body text);
          insert into large select 1, decode(string_agg(lpad(to_hex(g), 2, '0') || repeat('0d', g % 3), ''), 'hex')
          from generate_series(0, 255) g;
          insert into large select 2, decode(repeat(encode(bytes, 'hex'), 10 * 1024 * 1024 / length(bytes) + 1), 'hex') from large;
          insert into large select 3, null, repeat(t, 50 * 1024 * 1024 / octet_length(t) + 1) from (values (E'fünfzig\\\t\n🌊 MiB\r')) v (t);
          insert into large values (4, '', 'small'), (5, null, null)",
        &["large"],
    )
    .await;
    let sizes: (i32, i32) = sqlx::query_as("select max(length(bytes)), max(octet_length(body)) from large")
        .fetch_one(&rig.pool)
        .await
        .unwrap();
    assert!(sizes.0 >= 10 << 20 && sizes.1 >= 50 << 20, "{sizes:?} bytes");

    let store = rig.store("large.db");
    let mut both = Both::new(&rig, "large.db", By::Cursor);
    // In a pull of several pages the last one holds no rows, but the news that it has ended.
    for (what, sql, pages_due) in [
        ("a first pull", "", 3),
        ("a change", "update large set bytes = '1' where id = 3", 1),
    ] {
        run(&rig.pool, sql).await;
        let pulled = output(rig.pull(&store, &["--json"])).await;
        let report: serde_json::Value = serde_json::from_slice(&pulled.stdout).unwrap();
        assert_eq!(report["pages"], pages_due, "{what}: {report}");
        both.json.pages = 0;
        both.json.pull(&rig, 100).await;
        assert_eq!(both.json.pages, pages_due, "{what}: as JSON");
        both.assert_exact("large", "large", what).await;
    }
}
