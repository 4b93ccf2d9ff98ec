//! What `enable` holds while writers and readers go on: which locks, for how long, and how long anybody stands still.
//! It prints what it measured; docs/adopting.md has the numbers of a million rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use highwater_server::admin::{self, EnableOptions};
use sqlx::{AssertSqlSafe, PgPool, Row};
use tokio::task::JoinHandle;

use crate::rig::{migrated, run};

/// How many rows the table has, unless `HIGHWATER_LOCK_ROWS` says otherwise.
const ROWS: u64 = 50_000;

/// Longer than that nobody may stand still: one attempt for the lock, and what is done under it.
const STALL_MAX: Duration = Duration::from_secs(4);

/// Runs one statement again and again, and returns how often and the longest time that it took.
fn repeating(pool: &PgPool, stop: &Arc<AtomicBool>, statement: String) -> JoinHandle<(u64, Duration)> {
    let (pool, stop) = (pool.clone(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut connection = pool.acquire().await.unwrap();
        let (mut times, mut longest) = (0, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            sqlx::raw_sql(AssertSqlSafe(statement.clone()))
                .execute(&mut *connection)
                .await
                .unwrap();
            longest = longest.max(began.elapsed());
            times += 1;
        }
        (times, longest)
    })
}

/// Watches which locks one process holds on the table, and returns the longest time in a row for each.
fn watching(pool: &PgPool, stop: &Arc<AtomicBool>, process: i32) -> JoinHandle<BTreeMap<String, Duration>> {
    let (pool, stop) = (pool.clone(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut connection = pool.acquire().await.unwrap();
        let mut since: BTreeMap<String, Instant> = BTreeMap::new();
        let mut longest: BTreeMap<String, Duration> = BTreeMap::new();
        while !stop.load(Ordering::Relaxed) {
            let look = format!(
                "select mode from pg_locks where pid = {process} and relation = 'product'::regclass and granted"
            );
            let before = Instant::now();
            let rows = sqlx::raw_sql(AssertSqlSafe(look))
                .fetch_all(&mut *connection)
                .await
                .unwrap();
            let held: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            since.retain(|mode, began| {
                // At most until now, and so it is never told shorter than it was seen.
                let known = longest.entry(mode.clone()).or_default();
                *known = (*known).max(began.elapsed());
                held.contains(mode)
            });
            for mode in held {
                since.entry(mode).or_insert(before);
            }
        }
        longest
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_stands_still_while_a_large_table_is_enabled() {
    let rows = std::env::var("HIGHWATER_LOCK_ROWS");
    let rows: u64 = rows.map_or(ROWS, |rows| rows.parse().expect("a number of rows"));
    let database = migrated().await;
    let pool = database.pool().await.unwrap();
    run(
        &pool,
        &format!(
            "create table product (id int primary key, name text, price numeric(10, 2));
             insert into product select g, 'product ' || g, g from generate_series(1, {rows}) g"
        ),
    )
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut connection = database.connect().await.unwrap();
    let process: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let locks = watching(&pool, &stop, process);
    // In a query of its own, so that it is rolled once for a statement and the index is used.
    let id = format!("(select (random() * {rows})::int)");
    let writers = [1, 2, 3].map(|_| {
        repeating(
            &pool,
            &stop,
            format!("update product set price = price + 1 where id = {id}"),
        )
    });
    let readers =
        [1, 2].map(|_| repeating(&pool, &stop, format!("select name from product where id = {id}")));
    let began = Instant::now();
    admin::enable(&mut connection, "product", &EnableOptions::default())
        .await
        .unwrap();
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);

    println!("enable on {rows} rows took {took:.2?}, beside 3 writers and 2 readers");
    let locks = locks.await.unwrap();
    for (mode, longest) in &locks {
        println!("  {mode} was held for {longest:.2?} at most");
    }
    for (who, those) in [
        ("writer", writers.into_iter().collect::<Vec<_>>()),
        ("reader", readers.into_iter().collect()),
    ] {
        for one in those {
            let (times, longest) = one.await.unwrap();
            println!("  a {who} ran {times} statements, the slowest in {longest:.2?}");
            assert!(
                times > 10 && longest < STALL_MAX,
                "a {who} stood still for {longest:?}"
            );
        }
    }
    assert!(
        locks.contains_key("ShareUpdateExclusiveLock"),
        "indexes are built beside writers: {locks:?}"
    );
    assert!(
        !locks.contains_key("ShareLock"),
        "no index is built in the way of writers: {locks:?}"
    );
}
