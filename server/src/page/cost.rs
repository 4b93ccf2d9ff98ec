//! Tests that the cost of a page grows with what it carries, and never with the table: every
//! statement is explained, run, and the rows that it touched are counted.

use highwater_testbed::Database;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

use super::Format;
use super::probe::{self, Probed};
use super::sql::{self, InScope, Range};
use crate::admin::{self, EnableOptions};
use crate::cursor::{After, Seen, Step};
use crate::database::Connection;
use crate::entity::{self, Entity};
use crate::limit::TransactionBounds;
use crate::snapshot::{Snapshot, Xid};

/// What a plan may consist of. An incremental sort orders rows of equal dates only.
const NODES_ALLOWED: [&str; 6] = [
    "Limit",
    "Index Scan",
    "Index Only Scan",
    "Nested Loop",
    "Incremental Sort",
    "Result",
];

/// Rows that a statement asks for, and rows that were changed.
const LIMIT: u32 = 20;
const CHANGED: u32 = 60;

/// A table of `rows` rows, some of which changed after the snapshot that is returned.
async fn changed_table(pool: &PgPool, rows: u64) -> Snapshot {
    let mut connection = pool.acquire().await.unwrap();
    let run = |sql: String| async move { sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap() };
    run(format!(
        "create table product (id int, area text, name text, primary key (id, area));
         insert into product select g, 'a', 'p' || g from generate_series(1, {rows}) g"
    ))
    .await;
    admin::enable(&mut connection, "product", &EnableOptions::default())
        .await
        .unwrap();
    let snapshot: String = sqlx::query_scalar("select pg_current_snapshot()::text")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    for id in 1..=CHANGED / 2 {
        run(format!("update product set name = 'n' where id = {id}")).await;
    }
    run(format!(
        "update product set deleted = id % 2 = 0 where id between 101 and {}",
        100 + CHANGED / 2
    ))
    .await;
    run(format!(
        "delete from product where id between 201 and {}",
        200 + CHANGED / 2
    ))
    .await;
    // No statistics: a plan must not hang on them.
    snapshot.parse().unwrap()
}

async fn entity(connection: &mut PgConnection) -> Entity {
    entity::read(connection).await.unwrap().pop().unwrap()
}

/// Every node of a plan, outermost first.
fn nodes(plan: &Value) -> Vec<&Value> {
    let below = plan["Plans"].as_array().into_iter().flatten().flat_map(nodes);
    std::iter::once(plan).chain(below).collect()
}

/// Runs a statement under the settings of a page; returns the rows that its scans touched.
async fn touched(connection: &mut PgConnection, select: &str) -> f64 {
    let explain = format!("explain (analyze, timing off, format json) {select}");
    let plan: Value = sqlx::query_scalar(AssertSqlSafe(explain))
        .fetch_one(connection)
        .await
        .unwrap();
    let plan = &plan[0]["Plan"];
    let mut rows = 0.0;
    for node in nodes(plan) {
        let kind = node["Node Type"].as_str().unwrap();
        assert!(NODES_ALLOWED.contains(&kind), "{kind} in\n{select}\n{plan:#}");
        if kind.ends_with("Scan") {
            let each = [
                "Actual Rows",
                "Rows Removed by Filter",
                "Rows Removed by Index Recheck",
            ];
            let each: f64 = each.iter().filter_map(|what| node[*what].as_f64()).sum();
            rows += each * node["Actual Loops"].as_f64().unwrap();
        }
    }
    rows
}

/// The rows that each statement touches, with the statement, for a caller who sees these scopes.
async fn costs(pool: &PgPool, seen: &Snapshot, all: Option<&[String]>) -> Vec<(String, f64)> {
    let mut connection = Connection::acquire(pool, TransactionBounds::default())
        .await
        .unwrap();
    let entity = entity(connection.get().unwrap()).await;
    connection.begin(&[&entity.table]).await.unwrap();
    let probed = [(&entity, Probed::Within(all))];
    let asked = probe::probe(&probed, &Seen::Snapshot(seen.clone()));
    let (moment, ..) = connection.open(None, &asked).await.unwrap();
    let connection = connection.get().unwrap();
    let date = entity.began_date;
    let key = |tombstone: bool| {
        if tombstone { &["5"][..] } else { &["105", "a"] }
    };
    let middle = Xid(seen.xmax().0 + 5);
    let mut costs = Vec::new();
    for step in [Step::Anew, Step::Tombstones, Step::Flagged, Step::Rows] {
        let ranges = match step {
            Step::Anew if all.is_some() => vec![(Range::Scope, middle.0)],
            Step::Anew => vec![(Range::Key, 0)],
            _ => vec![
                (Range::Xid(middle), middle.0),
                (Range::From(seen.xmax()), middle.0),
                // A position lies past the date that was sent.
                (Range::Date(date), date.micros().cast_unsigned() + 1),
            ],
        };
        for (range, order) in ranges {
            let after = After {
                order,
                key: key(step == Step::Tombstones)
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            };
            for after in [None, Some(&after)] {
                let own = &moment.snapshot;
                for target in [None, Some(own)] {
                    for format in [Format::Copy, Format::Json] {
                        let part = sql::Part {
                            entity: &entity,
                            step,
                            scope: all.map(|all| InScope { value: &all[0], all }),
                            range: &range,
                            after,
                            target,
                            next_xid: moment.next_xid,
                            only: None,
                        };
                        let text = sql::statement(part, format, LIMIT.into()).unwrap().text;
                        let select = text
                            .strip_prefix("copy (")
                            .and_then(|text| text.strip_suffix(") to stdout"));
                        let select = select.unwrap().to_owned();
                        let rows = touched(connection, &select).await;
                        costs.push((select, rows));
                    }
                }
            }
        }
    }
    for (probe, bound) in [
        (asked, seen.xmax().to_string()),
        (probe::probe(&probed, &Seen::Date(date)), date.to_string()),
    ] {
        let probe = probe
            .text
            .replace("$1", &format!("'{{{middle}}}'"))
            .replace("$2", &format!("'{bound}'"))
            .replace("$3", &format!("'{{{}}}'", all.unwrap_or_default().join(",")));
        let rows = touched_by_probe(connection, &probe).await;
        costs.push((probe, rows));
    }
    costs
}

/// The probe has nodes of its own around its scans, and only those matter.
async fn touched_by_probe(connection: &mut PgConnection, select: &str) -> f64 {
    let explain = format!("explain (analyze, timing off, format json) {select}");
    let plan: Value = sqlx::query_scalar(AssertSqlSafe(explain))
        .fetch_one(connection)
        .await
        .unwrap();
    let scans = nodes(&plan[0]["Plan"]);
    let scans = scans.iter().filter(|node| node["Relation Name"].is_string());
    scans
        .map(|scan| {
            let kind = scan["Node Type"].as_str().unwrap();
            assert!(kind.starts_with("Index"), "{kind} in {select}");
            scan["Actual Rows"].as_f64().unwrap() * scan["Actual Loops"].as_f64().unwrap()
        })
        .sum()
}

#[tokio::test]
async fn the_cost_of_a_page_does_not_grow_with_the_table() {
    let mut by_size = Vec::new();
    for rows in [1_000, 300_000] {
        let database = Database::create("cost").await.unwrap();
        admin::migrate(&mut PgConnection::connect(&database.url()).await.unwrap())
            .await
            .unwrap();
        let pool = database.pool().await.unwrap();
        let seen = changed_table(&pool, rows).await;
        by_size.push(costs(&pool, &seen, None).await);
    }
    for ((statement, small), (_, large)) in by_size[0].iter().zip(&by_size[1]) {
        assert!(
            *large <= small + f64::from(LIMIT),
            "{small} rows of 1 thousand, {large} of 300 thousand:\n{statement}"
        );
        assert!(
            *large <= f64::from(2 * (CHANGED * 2 + LIMIT)),
            "{large} rows touched for {LIMIT}:\n{statement}"
        );
    }
}

/// A table of 10,000 tenants, all of which are changed after the snapshot that is returned.
async fn tenants(pool: &PgPool) -> Snapshot {
    let mut connection = pool.acquire().await.unwrap();
    let run = |sql: &'static str| async move { sqlx::raw_sql(sql).execute(pool).await.unwrap() };
    run(
        "create table product (id int, area text, name text, tenant int, primary key (id, area));
         insert into product select g, 'a', 'p', g % 10000 from generate_series(1, 100000) g",
    )
    .await;
    let options = EnableOptions {
        scope: Some("tenant".to_owned()),
        ..EnableOptions::default()
    };
    admin::enable(&mut connection, "product", &options).await.unwrap();
    let snapshot: String = sqlx::query_scalar("select pg_current_snapshot()::text")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    run("update product set name = 'n' where id <= 30000").await;
    run("update product set deleted = true where id between 40001 and 60000").await;
    run("delete from product where id between 60001 and 80000").await;
    run("update product set tenant = (tenant + 1) % 10000 where id > 80000").await;
    snapshot.parse().unwrap()
}

#[tokio::test]
async fn the_cost_of_a_page_does_not_grow_with_other_scopes() {
    let database = Database::create("scopes").await.unwrap();
    admin::migrate(&mut PgConnection::connect(&database.url()).await.unwrap())
        .await
        .unwrap();
    let pool = database.pool().await.unwrap();
    let seen = tenants(&pool).await;
    let all = ["7".to_owned(), "8".to_owned()];
    for (statement, rows) in costs(&pool, &seen, Some(&all)).await {
        // Ten rows a tenant, and for each tombstone a look whether its key lives.
        assert!(rows <= 60.0, "{rows} rows of 100,000:\n{statement}");
    }
}
