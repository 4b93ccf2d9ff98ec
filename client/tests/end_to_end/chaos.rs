//! Chaos: Postgres crashes and is promoted, the server is killed and frozen, the network fails, a disk is
//! full, clients are killed in the middle of pages, and 16 writers write. In the end every store equals
//! the source.
//!
//! It goes on for a minute, or for as many seconds as `HIGHWATER_CHAOS_SECONDS` says.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater_server::admin::{self, EnableOptions};
use highwater_testbed::process::Signal;
use highwater_testbed::{Cluster, Disk, Fault, Process, Profile, Proxy, seed};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rusqlite::Connection;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::rig::{assert_equal, client, migrate, output};
use crate::serving::Server;
use crate::verify::assert_verified;
use crate::writers::{self, TABLES, Writers};

const SECONDS: &str = "HIGHWATER_CHAOS_SECONDS";
const SECONDS_DEFAULT: u64 = 60;

/// Between two disturbances of Postgres or the server, and between two of the network.
const PAUSE_MS: std::ops::Range<u64> = 500..2_500;
const FAULT_MS: std::ops::Range<u64> = 200..1_200;
/// The longest that a client lives that is to be killed, and that a process is frozen.
const LIFE_MS_MAX: u64 = 400;
const FROZEN_MS_MAX: u64 = 1_500;
/// Least of what must have happened in a minute for the test to have tried anything.
const KILLS_MIN_PER_MINUTE: u64 = 60;

const DISK_BYTES: u64 = 64 << 20;

/// A primary with a standby, and the server that reads from the primary.
struct Source {
    primary: Cluster,
    standby: Cluster,
    server: Server,
    /// Where the primary is.
    url: watch::Sender<String>,
}

/// What was done to it.
#[derive(Debug, Default)]
struct Done {
    crashes: u32,
    promotions: u32,
    kills: u32,
    freezes: u32,
}

impl Source {
    async fn start() -> Self {
        let primary = Cluster::start(Profile::Fast).unwrap();
        let url = primary.url("postgres");
        migrate(url.clone()).await.unwrap();
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(writers::SCHEMA)
            .execute(&mut connection)
            .await
            .unwrap();
        for table in TABLES {
            admin::enable(&mut connection, table, &EnableOptions::default())
                .await
                .unwrap();
        }
        let standby = primary.start_standby(Profile::Fast, &[]).unwrap();
        let server = Server::start(&url);
        Self {
            primary,
            standby,
            server,
            url: watch::Sender::new(url),
        }
    }

    /// Power fails, and comes back.
    async fn crash(&mut self) {
        self.primary.crash().unwrap();
        self.primary.start_again().unwrap();
        self.resolve_prepared().await;
    }

    /// The primary is gone for good, and its standby takes over, without what had not reached it.
    async fn promote(&mut self) {
        self.primary.crash().unwrap();
        let url = self.standby.url("postgres");
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let promoted: bool = sqlx::query_scalar("select pg_promote()")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert!(promoted, "the standby was not promoted");
        let standby = self.standby.start_standby(Profile::Fast, &[]).unwrap();
        self.primary = std::mem::replace(&mut self.standby, standby);
        self.url.send_replace(url.clone());
        self.server.start_again(&url);
        self.resolve_prepared().await;
    }

    /// Ends transactions that were prepared by those whom the crash has cut off, as an operator must.
    async fn resolve_prepared(&self) {
        let mut connection = PgConnection::connect(&self.primary.url("postgres"))
            .await
            .unwrap();
        let prepared: Vec<String> = sqlx::query_scalar("select gid from pg_prepared_xacts")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        for (place, name) in prepared.iter().enumerate() {
            let verb = if place % 2 == 0 { "commit" } else { "rollback" };
            // Its writer may live, and be faster.
            let _ = sqlx::raw_sql(AssertSqlSafe(format!("{verb} prepared '{name}'")))
                .execute(&mut connection)
                .await;
        }
    }

    /// Disturbs it until told to stop.
    async fn disturb(&mut self, random: &mut StdRng, length: Duration) -> Done {
        let (began, mut done) = (Instant::now(), Done::default());
        while began.elapsed() < length {
            pause(random, PAUSE_MS).await;
            // In the shortest run there is a promotion too.
            let must_promote = done.promotions == 0 && began.elapsed() > length / 2;
            match random.random_range(0..8) {
                _ if must_promote => {
                    self.promote().await;
                    done.promotions += 1;
                }
                0..=2 => {
                    self.server.kill();
                    pause(random, FAULT_MS).await;
                    let url = self.primary.url("postgres");
                    self.server.start_again(&url);
                    done.kills += 1;
                }
                3 | 4 => {
                    self.server.signal(Signal::Stop);
                    pause(random, 1..FROZEN_MS_MAX).await;
                    self.server.signal(Signal::Continue);
                    done.freezes += 1;
                }
                5 | 6 => {
                    self.crash().await;
                    done.crashes += 1;
                }
                _ => {
                    self.promote().await;
                    done.promotions += 1;
                }
            }
        }
        done
    }
}

/// What all who disturb or pull have in common.
#[derive(Clone)]
struct Course {
    stop: Arc<AtomicBool>,
    /// The server, as the network lets it be seen.
    url: String,
}

impl Course {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pull(&self, store: &Path, more: &[&str]) -> Command {
        let mut command = client("pull", store);
        command
            .args(["--quiet", "--server", &self.url])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Has the network fail in one way after another.
    async fn fail(self, proxy: Proxy, mut random: StdRng) -> Proxy {
        while !self.is_over() {
            let faults = [
                Fault::None,
                Fault::Cut(random.random_range(0..200_000)),
                Fault::Truncate(random.random_range(0..200_000)),
                Fault::Delay(Duration::from_millis(random.random_range(1..20))),
                Fault::Hold,
                Fault::Throttle(random.random_range(1_000_000..50_000_000)),
            ];
            proxy.set(*faults.choose(&mut random).unwrap());
            pause(&mut random, FAULT_MS).await;
        }
        proxy.set(Fault::None);
        proxy
    }

    /// Pulls again and again, and counts the pulls that came to their end.
    async fn keep_pulling(self, store: PathBuf, more: &'static [&'static str]) -> u64 {
        let mut pulls = 0;
        while !self.is_over() {
            pulls += u64::from(output(self.pull(&store, more)).await.status.success());
        }
        pulls
    }

    /// Kills pulls at any moment, and counts them.
    async fn keep_killing(self, store: PathBuf, mut random: StdRng) -> u64 {
        let mut kills = 0;
        while !self.is_over() {
            let process = Process::spawn(self.pull(&store, &["--limit", "20"])).unwrap();
            pause(&mut random, 0..LIFE_MS_MAX).await;
            // Dropped, it is killed.
            drop(process);
            kills += 1;
        }
        kills
    }

    /// Keeps a daemon alive that is frozen and killed now and then.
    async fn keep_following(self, store: PathBuf, mut random: StdRng) -> u64 {
        let mut kills = 0;
        while !self.is_over() {
            let mut command = client("run", &store);
            command
                .args(["--quiet", "--resync-spread", "0s", "--server", &self.url])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut daemon = Process::spawn(command).unwrap();
            for _ in 0..random.random_range(1..6) {
                pause(&mut random, FAULT_MS).await;
                // It ends by itself where the server is another's for a moment, as after a promotion.
                let _ = daemon.signal(Signal::Stop);
                pause(&mut random, 0..LIFE_MS_MAX).await;
                let _ = daemon.signal(Signal::Continue);
            }
            drop(daemon);
            kills += 1;
        }
        kills
    }

    /// Pulls into a store whose disk is full now and then.
    async fn keep_filling(self, disk: Arc<Disk>, mut random: StdRng) -> u64 {
        let mut pulls = 0;
        while !self.is_over() {
            let is_full = random.random_bool(0.5);
            let change = if is_full {
                "cat /dev/zero > filler 2> /dev/null || true"
            } else {
                "rm -f filler"
            };
            disk.shell(change).unwrap();
            let pulled = output(disk.command(&self.pull(&on(&disk), &["--limit", "500"]))).await;
            pulls += u64::from(pulled.status.success());
        }
        disk.shell("rm -f filler").unwrap();
        pulls
    }
}

/// The store on a disk of its own.
fn on(disk: &Disk) -> PathBuf {
    disk.path().join("store.db")
}

async fn pause(random: &mut StdRng, milliseconds: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random.random_range(milliseconds))).await;
}

/// The last pull, without faults, and what the store is then, to us and to `verify`.
async fn ends_equal(pool: &PgPool, course: &Course, pull: Command, store: &Path, what: &str) {
    let pulled = output(pull).await;
    assert!(
        pulled.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&pulled.stderr)
    );
    assert_equal(pool, store, &TABLES, what).await;
    let connection = Connection::open(store).unwrap();
    let faults: String = connection
        .query_row("pragma integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(faults, "ok", "{what}");
    assert_verified(&course.url, store, &["--deep"], what).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_fails_every_store_equals_the_source_in_the_end() {
    let seed = seed();
    let seconds = std::env::var(SECONDS).map_or(SECONDS_DEFAULT, |text| text.parse().unwrap());
    eprintln!("HIGHWATER_SEED={seed} {SECONDS}={seconds}");
    let mut seeds = StdRng::seed_from_u64(seed);
    let mut random = || StdRng::from_rng(&mut seeds);
    let mut source = Source::start().await;
    let proxy = Proxy::before(source.server.address()).await.unwrap();
    let folder = TempDir::new().unwrap();
    let store = |name: &str| folder.path().join(name);
    let disk = Disk::new(DISK_BYTES).unwrap().map(Arc::new);
    let course = Course {
        stop: Arc::new(AtomicBool::new(false)),
        url: proxy.url(),
    };

    let writers = Writers::follow(&source.url, seed);
    let failing = tokio::spawn(course.clone().fail(proxy, random()));
    let whole = tokio::spawn(course.clone().keep_pulling(store("whole.db"), &[]));
    let sevens = tokio::spawn(course.clone().keep_pulling(store("sevens.db"), &["--limit", "7"]));
    let killed = tokio::spawn(course.clone().keep_killing(store("killed.db"), random()));
    let live = tokio::spawn(course.clone().keep_following(store("live.db"), random()));
    let filled = disk
        .clone()
        .map(|disk| tokio::spawn(course.clone().keep_filling(disk, random())));

    let done = source.disturb(&mut random(), Duration::from_secs(seconds)).await;
    let committed = writers.stop().await;
    course.stop.store(true, Ordering::Relaxed);
    let _proxy = failing.await.unwrap();
    source.resolve_prepared().await;
    let pulls = [whole.await.unwrap(), sevens.await.unwrap()];
    let kills = [killed.await.unwrap(), live.await.unwrap()];
    let filled = match filled {
        Some(filled) => Some(filled.await.unwrap()),
        None => None,
    };
    eprintln!("{done:?}, {committed} commits, pulls {pulls:?}, kills {kills:?}, with a full disk {filled:?}");
    assert!(
        done.promotions > 0 && committed > 100 && pulls[0] > 0,
        "nothing was tried"
    );
    assert!(
        kills[0] >= KILLS_MIN_PER_MINUTE * seconds / 60,
        "hardly a client was killed"
    );

    let pool = PgPool::connect(&source.primary.url("postgres")).await.unwrap();
    for name in ["whole.db", "sevens.db", "killed.db", "live.db"] {
        let mut pull = course.pull(&store(name), &[]);
        pull.stderr(Stdio::piped());
        ends_equal(
            &pool,
            &course,
            pull,
            &store(name),
            &format!("{name}, seed {seed}"),
        )
        .await;
    }
    if let Some(disk) = disk {
        let pulled = output(disk.command(&course.pull(&on(&disk), &[]))).await;
        let said = String::from_utf8_lossy(&pulled.stderr);
        assert!(pulled.status.success(), "a disk with room again: {said}");
        disk.shell(&format!("cp store.db* '{}'", folder.path().display()))
            .unwrap();
        let pull = course.pull(&store("store.db"), &[]);
        ends_equal(
            &pool,
            &course,
            pull,
            &store("store.db"),
            &format!("a disk, seed {seed}"),
        )
        .await;
    }
}
