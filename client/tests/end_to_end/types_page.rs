//! What `docs/types.md` says is so: every line of its tables is run.

use highwater_server::admin::{self, EnableOptions};

use crate::exact::Both;
use crate::json::By;
use crate::rig::{Rig, run};

const PAGE: &str = include_str!("../../../docs/types.md");

/// The types that the page speaks of and that Postgres does not bring along.
const SCHEMA: &str = "create type mood as enum ('so so', 'fine'); create domain price as numeric(10, 2);
    create domain count as bigint; create type pair as (number int, label text)";

/// The lines of the table below a heading, in cells.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(heading));
    let lines: Vec<&str> = section
        .unwrap()
        .lines()
        .filter(|line| line.starts_with('|'))
        .collect();
    let cells = |line: &&'static str| line.trim_matches('|').split(" |").map(str::trim_start).collect();
    lines.iter().skip(2).map(cells).collect()
}

/// What stands as code in a cell, up to a bracket.
fn code(cell: &'static str) -> Vec<&'static str> {
    let said = cell.split(" (a").next().unwrap();
    said.split('`').skip(1).step_by(2).collect()
}

/// Whether this Postgres can run the statement; some are built without ICU or XML.
async fn can(rig: &Rig, sql: &'static str) -> bool {
    sqlx::raw_sql(sql).execute(&rig.pool).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_is_what_the_page_says() {
    let rig = Rig::start(SCHEMA, &[]).await;
    let has_xml = can(&rig, "select xml '<a/>'").await;
    if !has_xml {
        eprintln!("this Postgres has no XML: it is left out");
    }
    let lines: Vec<(&str, Vec<&str>)> = table("Types\n")
        .into_iter()
        .flat_map(|cells| code(cells[0]).into_iter().map(move |kind| (kind, cells.clone())))
        .filter(|(kind, _)| *kind != "xml" || has_xml)
        .collect();
    assert!(lines.len() > 50, "{} lines", lines.len());
    let columns: Vec<String> = lines
        .iter()
        .enumerate()
        .map(|(place, (kind, _))| format!("c{place} {kind}"))
        .collect();
    let value = |(kind, cells): &(&str, Vec<&'static str>)| {
        format!("'{}'::{kind}", code(cells[1])[0].replace('\'', "''"))
    };
    let values: Vec<String> = lines.iter().map(value).collect();
    let sql = format!(
        "create table every (id int primary key, {}); insert into every values (1, {})",
        columns.join(", "),
        values.join(", ")
    );
    run(&rig.pool, &sql).await;
    rig.enable("every", EnableOptions::default()).await;
    let mut both = Both::new(&rig, "every.db", By::Cursor);
    both.follow(&["every"], 10, "the page").await;

    let store = rusqlite::Connection::open(&both.store).unwrap();
    let json = both.json.rows["every"].values().next().unwrap();
    for (place, (kind, cells)) in lines.iter().enumerate() {
        let sql = format!(
            "select typeof(c{place}), case typeof(c{place}) when 'blob' then hex(c{place}) else cast(c{place} as text) end from every"
        );
        let held: (String, Option<String>) = store
            .query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        let said = (
            cells[2].to_owned(),
            code(cells[3]).first().map(|text| (*text).to_owned()),
        );
        assert_eq!(held, said, "{kind} {}", cells[1]);
        assert_eq!(
            json[&format!("c{place}")],
            code(cells[4])[0],
            "{kind} {}",
            cells[1]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_page_calls_no_key_is_none_wherever_it_stands() {
    let rig = Rig::start(SCHEMA, &[]).await;
    let loose = "create collation loose (provider = icu, locale = 'und', deterministic = false)";
    let has_icu = can(&rig, loose).await;
    let has_citext = can(&rig, "create extension citext").await;
    for (what, has) in [("ICU", has_icu), ("citext", has_citext)] {
        if !has {
            eprintln!("this Postgres has no {what}: it is left out");
        }
    }
    let mut connection = rig.database.connect().await.unwrap();
    for cells in table("What cannot be a key\n") {
        for kind in code(cells[0]) {
            if kind == "citext" && !has_citext || kind.contains("loose") && !has_icu {
                continue;
            }
            let (bare, collate) = kind
                .split_once(" collate ")
                .map_or((kind, String::new()), |(bare, name)| {
                    (bare, format!(" collate {name}"))
                });
            let collation = collate.replace("collate", ", collation =");
            let sql = format!(
                "drop table if exists alone, list, renamed, part, span; drop type if exists same, whole, range_of;
                 create domain same as {bare}{collate}; create type whole as (n int, v {bare}{collate});
                 create type range_of as range (subtype = {bare}{collation});
                 create table alone (k {bare}{collate} primary key); create table list (k {bare}[]{collate} primary key);
                 create table renamed (n int, k same, primary key (n, k)); create table part (k whole primary key);
                 create table span (k range_of primary key)"
            );
            run(&rig.pool, &sql).await;
            let tables = ["alone", "list", "renamed", "part", "span"];
            for table in tables {
                let refused = admin::enable(&mut connection, table, &EnableOptions::default()).await;
                let said = refused.map_or_else(|error| error.to_string(), |()| "it is taken".to_owned());
                assert!(said.contains("in two ways"), "{kind}, {table}: {said}");
            }
        }
    }
}
