//! The oracle: whatever writers do meanwhile, in the end every store equals the source, and a
//! client that follows the plain pattern does not.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater_testbed::{Copy, Process, Rows, live_rows, seed};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use sqlx::PgPool;

use crate::rig::Rig;
use crate::writers::{self, TABLES, Writers};

/// How long the writers write.
const WRITING: Duration = Duration::from_secs(8);

/// A client that goes by dates alone: after each pull it sends `lastSyncDate`.
#[derive(Default)]
pub(crate) struct ByDate(pub(crate) Copy);

impl ByDate {
    /// Pulls to the end, or to where the server cannot answer: the next pull begins where this one did.
    pub(crate) async fn pull(&mut self, server: &str, http: &reqwest::Client) {
        self.0.since = Some(self.0.last_sync_date.clone()).filter(|date| !date.is_empty());
        loop {
            let since = self
                .0
                .since
                .as_ref()
                .map_or(String::new(), |since| format!("&since={since}"));
            let url = format!("{server}/changes?limit=100{since}");
            let response = http.get(url).send().await.unwrap();
            if response.status() == 503 {
                return;
            }
            let Ok(page) = response.json::<Value>().await else {
                return;
            };
            if !self.0.apply(&page) {
                return;
            }
        }
    }
}

/// A client that follows the plain pattern to the letter: all objects changed after the newest
/// date that it has seen.
#[derive(Default)]
struct Plain {
    rows: Rows,
    newest: Option<String>,
}

impl Plain {
    async fn pull(&mut self, pool: &PgPool) {
        let changed: Vec<(i32, bool, String, String)> = sqlx::query_as(
            "select id, deleted, changed_date::text,
                 (to_jsonb(a) - array['changed_xid', 'changed_date', 'deleted'])::text
             from account a where changed_date > coalesce($1::text::timestamptz, '1970-01-01') order by changed_date",
        )
        .bind(&self.newest)
        .fetch_all(pool)
        .await
        .unwrap();
        for (id, deleted, date, row) in changed {
            let key = format!("{{\"id\":{id}}}");
            if deleted {
                self.rows.remove(&key);
            } else {
                self.rows.insert(key, serde_json::from_str(&row).unwrap());
            }
            self.newest = Some(date);
        }
    }

    /// Live rows of the source that it lacks or has in an old version. (Those that were removed by
    /// `delete` it cannot know of, and they are not counted.)
    fn stale(&self, source: &Rows) -> usize {
        source
            .iter()
            .filter(|(key, row)| self.rows.get(*key) != Some(row))
            .count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_store_equals_the_source_whatever_writers_do() {
    let seed = seed();
    eprintln!("HIGHWATER_SEED={seed}");
    let rig = Arc::new(Rig::start(writers::SCHEMA, &TABLES).await);
    let stop = Arc::new(AtomicBool::new(false));
    let writers = Writers::start(&rig.database.url(), seed);

    let whole = tokio::spawn(keep_pulling(Arc::clone(&rig), Arc::clone(&stop), "whole.db", &[]));
    let sevens = tokio::spawn(keep_pulling(
        Arc::clone(&rig),
        Arc::clone(&stop),
        "sevens.db",
        &["--limit", "7"],
    ));
    let killed = tokio::spawn(keep_killing(Arc::clone(&rig), Arc::clone(&stop), seed));
    let dates = tokio::spawn(keep_dates(Arc::clone(&rig), Arc::clone(&stop)));
    let plain = tokio::spawn(keep_plain(Arc::clone(&rig), Arc::clone(&stop)));

    tokio::time::sleep(WRITING).await;
    let committed = writers.stop().await;
    stop.store(true, Ordering::Relaxed);

    for (what, store) in [
        ("whole pages", whole),
        ("pages of 7", sevens),
        ("killed and resumed", killed),
    ] {
        let (store, pulls) = store.await.unwrap();
        eprintln!("{what}: {pulls} pulls");
        rig.assert_equal(&store, &TABLES, &format!("{what}, seed {seed}"))
            .await;
    }
    let dates = dates.await.unwrap();
    let account = live_rows(&rig.pool, "account", "id").await.unwrap();
    assert_eq!(dates.0.rows("account"), account, "dates only, seed {seed}");
    assert_eq!(
        dates.0.rows("line"),
        live_rows(&rig.pool, "line", "account, place").await.unwrap(),
        "dates only, seed {seed}"
    );

    let stale = plain.await.unwrap().stale(&account);
    eprintln!(
        "{committed} transactions committed; the plain pattern left {stale} of {} rows stale",
        account.len()
    );
    assert!(committed > 100, "the writers hardly wrote: {committed}");
    assert!(
        stale > 0,
        "the plain pattern lost nothing, so this test would find nothing; seed {seed}"
    );
}

/// Pulls with the program again and again, and once more when all is over.
async fn keep_pulling(rig: Arc<Rig>, stop: Arc<AtomicBool>, name: &str, more: &[&str]) -> (PathBuf, u32) {
    let store = rig.store(name);
    for pulls in 1.. {
        let last = stop.load(Ordering::Relaxed);
        rig.pulled(&store, more).await;
        if last {
            return (store, pulls);
        }
    }
    unreachable!("the loop ends by returning")
}

/// Pulls with the program and kills it at any moment.
async fn keep_killing(rig: Arc<Rig>, stop: Arc<AtomicBool>, seed: u64) -> (PathBuf, u32) {
    let store = rig.store("killed.db");
    let mut random = StdRng::seed_from_u64(seed);
    let mut pulls = 1;
    while !stop.load(Ordering::Relaxed) {
        let mut command = rig.pull(&store, &["--limit", "50"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::spawn(command).unwrap();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..250))).await;
        // Dropped, it is killed.
        drop(process);
        pulls += 1;
    }
    rig.pulled(&store, &["--limit", "50"]).await;
    (store, pulls)
}

async fn keep_dates(rig: Arc<Rig>, stop: Arc<AtomicBool>) -> ByDate {
    let (mut client, http) = (ByDate::default(), reqwest::Client::new());
    loop {
        let last = stop.load(Ordering::Relaxed);
        client.pull(&rig.url(), &http).await;
        if last {
            return client;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn keep_plain(rig: Arc<Rig>, stop: Arc<AtomicBool>) -> Plain {
    let mut client = Plain::default();
    loop {
        let last = stop.load(Ordering::Relaxed);
        client.pull(&rig.pool).await;
        if last {
            return client;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
