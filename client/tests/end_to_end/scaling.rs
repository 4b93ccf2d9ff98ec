//! More than one machine: a primary and a hot standby, a server on each, nginx before them, and
//! clients that are handed from one to the other while writers write and parts of it are killed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater_server::admin::{self, EnableOptions};
use highwater_testbed::process::Signal;
use highwater_testbed::{Cluster, NGINX_CONF, Nginx, Process, Profile, caught_up, live_rows, seed};
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;

use crate::oracle::ByDate;
use crate::rig::{assert_equal, client, migrate, output, run};
use crate::serving::Server;
use crate::verify::assert_verified;
use crate::writers::{self, TABLES, Writers};

/// How far the standby lags behind the primary.
const LAG: &str = "100ms";

/// Between one disturbance and the next.
const PAUSE: Duration = Duration::from_millis(1_500);

/// What is written last.
const LAST: &str = "the last";

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

async fn in_time(work: impl Future<Output = ()>) {
    let ended = tokio::time::timeout(PATIENCE, work).await;
    ended.expect("the last change arrives");
}

fn has_last(store: &Path) -> bool {
    crate::live::value(store, "select note from line where account = -1").as_deref() == Some(LAST)
}

fn pull(url: &str, store: &Path, more: &[&str]) -> Command {
    let mut command = client("pull", store);
    command.args(["--quiet", "--server", url]).args(more);
    command
}

/// Pulls with the program again and again. Returns how many pulls there were, and how many failed.
async fn keep_pulling(
    url: String,
    store: PathBuf,
    more: &'static [&'static str],
    stop: Arc<AtomicBool>,
) -> (u32, u32) {
    let (mut pulls, mut failed) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        pulls += 1;
        failed += u32::from(!output(pull(&url, &store, more)).await.status.success());
    }
    (pulls, failed)
}

async fn keep_dates(url: String, stop: Arc<AtomicBool>) -> ByDate {
    let (mut client, http) = (ByDate::default(), reqwest::Client::new());
    while !stop.load(Ordering::Relaxed) {
        client.pull(&url, &http).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_move_between_servers_lose_nothing_whatever_is_killed() {
    let seed = seed();
    eprintln!("HIGHWATER_SEED={seed}");
    let primary = Cluster::start(Profile::Fast).unwrap();
    let options = PgPoolOptions::new().max_connections(4);
    let pool = options.clone().connect(&primary.url("postgres")).await.unwrap();
    migrate(primary.url("postgres")).await.unwrap();
    run(&pool, writers::SCHEMA).await;
    for table in TABLES {
        let mut connection = pool.acquire().await.unwrap();
        admin::enable(&mut connection, table, &EnableOptions::default())
            .await
            .unwrap();
    }
    let lag = [("recovery_min_apply_delay", LAG)];
    let mut standby = primary.start_standby(Profile::Fast, &lag).unwrap();
    let standby_pool = options.connect(&standby.url("postgres")).await.unwrap();
    let mut servers = [&primary, &standby].map(|cluster| Server::start(&cluster.url("postgres")));
    let addresses = servers.each_ref().map(Server::address);
    let Some(nginx) = Nginx::start(NGINX_CONF, &addresses).unwrap() else {
        eprintln!("left out: there is no nginx");
        return;
    };
    let folder = TempDir::new().unwrap();
    let store = |name: &str| folder.path().join(name);

    let stop = Arc::new(AtomicBool::new(false));
    let writers = Writers::start(&primary.url("postgres"), seed);
    let pulling = |name: &str, more| {
        let pulling = keep_pulling(nginx.url(), store(name), more, Arc::clone(&stop));
        (store(name), tokio::spawn(pulling))
    };
    let pulled = [pulling("whole.db", &[]), pulling("sevens.db", &["--limit", "7"])];
    let mut daemon = client("run", &store("live.db"));
    daemon.args(["--quiet", "--server", &nginx.url()]);
    let mut daemon = Process::spawn(daemon).unwrap();
    let dates = tokio::spawn(keep_dates(nginx.url(), Arc::clone(&stop)));

    tokio::time::sleep(PAUSE).await;
    for number in [1, 0] {
        servers[number].kill();
        tokio::time::sleep(PAUSE).await;
        servers[number].start_again(&[&primary, &standby][number].url("postgres"));
        tokio::time::sleep(PAUSE).await;
    }
    standby.crash().unwrap();
    tokio::time::sleep(PAUSE).await;
    standby.start_again().unwrap();
    tokio::time::sleep(PAUSE).await;
    let committed = writers.stop().await;
    assert!(committed > 100, "the writers hardly wrote: {committed}");
    stop.store(true, Ordering::Relaxed);
    // A store that has this has all: nginx may hand out a page that is a second or two old.
    run(&pool, &format!("insert into line values (-1, 0, '{LAST}')")).await;
    caught_up(&pool, &standby_pool).await;

    for (store, pulling) in pulled {
        let (pulls, failed) = pulling.await.unwrap();
        eprintln!("{}: {failed} of {pulls} pulls failed", store.display());
        assert!(
            failed <= pulls / 10,
            "{failed} of {pulls} pulls failed, seed {seed}"
        );
        let last = async {
            while !has_last(&store) {
                let last = output(pull(&nginx.url(), &store, &[])).await;
                assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
            }
        };
        in_time(last).await;
        assert_equal(
            &pool,
            &store,
            &TABLES,
            &format!("{}, seed {seed}", store.display()),
        )
        .await;
        // By way of nginx, from the one or the other.
        assert_verified(&nginx.url(), &store, &["--deep"], &format!("seed {seed}")).await;
    }
    // The daemon follows by itself.
    in_time(async {
        while !has_last(&store("live.db")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    daemon.signal(Signal::Terminate).unwrap();
    daemon.wait_up_to(PATIENCE).unwrap();
    assert_equal(&pool, &store("live.db"), &TABLES, &format!("live, seed {seed}")).await;

    let mut dates = dates.await.unwrap();
    in_time(async {
        while !dates.0.rows("line").values().any(|row| row["note"] == LAST) {
            dates.pull(&nginx.url(), &reqwest::Client::new()).await;
        }
    })
    .await;
    for (table, key) in [("account", "id"), ("line", "account, place")] {
        let expected = live_rows(&pool, table, key).await.unwrap();
        assert_eq!(dates.0.rows(table), expected, "dates only, seed {seed}");
    }
}
