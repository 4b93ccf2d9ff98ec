//! Writers that do to a source everything that has ever made a sync lose rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Writers at one time.
const WRITERS: u64 = 16;

/// The longest pause within a transaction, in milliseconds.
const PAUSE_MS_MAX: u64 = 300;

/// One in so many does not wait for the disk, so that a crash forgets what it has committed.
const FORGETFUL: u64 = 4;

/// Between two looks for a Postgres that is away.
const AWAY: Duration = Duration::from_millis(50);

/// Keys in use; 2,000 rows among them at first.
const KEYS: i32 = 2_200;

/// The tables that the writers write to.
pub(crate) const TABLES: [&str; 2] = ["account", "line"];

/// The statements that make them.
pub(crate) const SCHEMA: &str = "
    create table account (id int primary key, name text, balance numeric(12, 2), at timestamptz, open boolean);
    create table line (account int, place int, note text, primary key (account, place));
    insert into account select g, 'n' || g, g * 1.5, now(), g % 2 = 0 from generate_series(1, 2000) g;
    insert into line select g, 1, 'first' from generate_series(1, 2000) g";

/// Writers at work.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<u64>>,
}

impl Writers {
    /// Sets them to work, each with a seed of its own made from `seed`.
    pub(crate) fn start(url: &str, seed: u64) -> Self {
        Self::follow(&watch::Sender::new(url.to_owned()), seed)
    }

    /// Sets them to work on a Postgres that may go away, and come back elsewhere.
    pub(crate) fn follow(url: &watch::Sender<String>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..WRITERS).map(|number| {
            let (url, stop) = (url.subscribe(), Arc::clone(&stop));
            tokio::spawn(write(
                url,
                StdRng::seed_from_u64(seed ^ number << 32),
                number,
                stop,
            ))
        });
        let tasks = tasks.collect();
        Self { stop, tasks }
    }

    /// Lets them end their transactions. Returns how many have been committed.
    pub(crate) async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut committed = 0;
        for task in self.tasks {
            committed += task.await.unwrap();
        }
        committed
    }
}

async fn write(url: watch::Receiver<String>, mut random: StdRng, number: u64, stop: Arc<AtomicBool>) -> u64 {
    let is_over = || stop.load(Ordering::Relaxed);
    let (mut committed, mut round) = (0, 0);
    while !is_over() {
        let database = url.borrow().clone();
        let Ok(mut connection) = connect(&database, number).await else {
            tokio::time::sleep(AWAY).await;
            continue;
        };
        while !is_over() {
            round += 1;
            let name = format!("w{number}_{round}_{}", random.random::<u32>());
            match transaction(&mut connection, &mut random, &name).await {
                Ok(true) => committed += 1,
                Ok(false) => {}
                // A deadlock or a key that is taken: the transaction is over. Or Postgres has gone.
                Err(_) => {
                    if run(&mut connection, "rollback").await.is_err() {
                        break;
                    }
                }
            }
        }
    }
    committed
}

async fn connect(url: &str, number: u64) -> Result<PgConnection, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    // Writers that meet in a deadlock should not lie there for a second, nor wait for ever for what a
    // crash has left behind.
    run(
        &mut connection,
        "set deadlock_timeout = '50ms'; set lock_timeout = '5s'",
    )
    .await?;
    if number.is_multiple_of(FORGETFUL) {
        run(&mut connection, "set synchronous_commit = off").await?;
    }
    Ok(connection)
}

/// One transaction. Tells whether it was committed.
async fn transaction(
    connection: &mut PgConnection,
    random: &mut StdRng,
    name: &str,
) -> Result<bool, sqlx::Error> {
    run(connection, "begin").await?;
    if random.random_bool(0.3) {
        run(connection, "select pg_current_xact_id()").await?;
        pause(random).await;
    }
    for _ in 0..random.random_range(1..=4) {
        if random.random_bool(0.3) {
            run(connection, "savepoint s").await?;
            let failed = run(connection, &statement(random)).await.is_err();
            let end = if failed || random.random_bool(0.4) {
                "rollback to s"
            } else {
                "release s"
            };
            run(connection, end).await?;
        } else {
            run(connection, &statement(random)).await?;
        }
        if random.random_bool(0.5) {
            pause(random).await;
        }
    }
    match random.random_range(0..10) {
        0 => run(connection, "rollback").await.map(|()| false),
        1 | 2 => {
            run(connection, &format!("prepare transaction '{name}'")).await?;
            pause(random).await;
            let commit = random.random_bool(0.7);
            let verb = if commit { "commit" } else { "rollback" };
            run(connection, &format!("{verb} prepared '{name}'"))
                .await
                .map(|()| commit)
        }
        _ => run(connection, "commit").await.map(|()| true),
    }
}

fn statement(random: &mut StdRng) -> String {
    let id = random.random_range(1..=KEYS);
    let other = random.random_range(1..=KEYS);
    let value: u32 = random.random();
    match random.random_range(0..12) {
        0..=3 => format!("update account set name = 'v{value}', balance = {value} % 1000 where id = {id}"),
        4 => format!(
            "update account set at = clock_timestamp(), open = not open where id between {id} and {id} + 3"
        ),
        5 => format!("update account set deleted = not deleted where id = {id}"),
        6 => format!("delete from account where id = {id}"),
        7 => format!(
            "insert into account values ({id}, 'again {value}', 1, now(), true)
             on conflict (id) do update set name = excluded.name, deleted = false"
        ),
        8 => format!("update account set id = {other} where id = {id}"),
        9 => format!(
            "insert into line values ({id}, {value} % 3, 'l{value}') on conflict (account, place) do update set note = excluded.note"
        ),
        10 => format!("delete from line where account = {id}"),
        _ => format!(
            "update line set account = {other}, place = {value} % 5 where account = {id} and place = 1"
        ),
    }
}

async fn pause(random: &mut StdRng) {
    let pause = Duration::from_millis(random.random_range(0..=PAUSE_MS_MAX));
    tokio::time::sleep(pause).await;
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .map(drop)
}
