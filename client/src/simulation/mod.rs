//! The pull against a simulated server and store, with faults, seeded.
//!
//! Each run makes up a course of writes, pulls, cuts, refusals and crashes from its seed, keeps a
//! model of the source beside it, and checks after every step that the store claims no more than
//! it holds. A run that fails names its seed; `HIGHWATER_SEED=<seed> cargo test -p
//! highwater-client simulation` runs it alone and tells its course; `HIGHWATER_SEED=3000..90000`
//! runs many.

mod page;
mod server;
mod shortcut;
mod source;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backon::ExponentialBuilder;
use highwater_shared::{EntityName, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use self::page::{Seen, Step, added_value};
use self::server::{Happened, SimulatedServer, World};
use self::shortcut::{Movable, SimulatedShortcut};
use self::source::{Rows, Source, TEAMS, Teams};
use self::store::MemoryStore;
use crate::error::Error;
use crate::pull::{Clock, Event, Pull, Replica};
use crate::spread::Spread;
use crate::store::{PastCursor, Store};
use crate::sync_helper::{Cursor, State, SyncHelper};

const ENTITIES: [&str; 4] = ["bill", "customer", "product", "tax"];

/// Over how long resyncs are spread.
const SPREAD: Duration = Duration::from_mins(1);

/// Writes before and during a pull.
const WRITES_A_PULL_MAX: u32 = 40;

/// The same where a promotion may lose the writes of several pulls.
const WRITES_A_CALM_PULL_MAX: u32 = 5;

/// A store that the simulation can look into.
pub(crate) trait Observed {
    fn helpers_now(&self) -> Vec<SyncHelper>;
    /// What a reader sees; `None` where there is no table.
    fn rows_now(&self, entity: &EntityName) -> Option<Rows>;
    fn reset_now(&self, entity: &EntityName);
    /// Where it stood before, the latest first.
    fn past_now(&self) -> Vec<PastCursor>;
    /// The columns that its table has; `None` where there is no table.
    fn schema_now(&self, entity: &EntityName) -> Option<u64>;
}

impl Observed for Store {
    fn helpers_now(&self) -> Vec<SyncHelper> {
        self.sync_helpers().expect("SyncHelpers")
    }

    fn rows_now(&self, entity: &EntityName) -> Option<Rows> {
        // As any other program reads the file.
        let reader = rusqlite::Connection::open(self.path()).expect("a reader");
        let mut rows = reader.prepare(&format!("select * from \"{entity}\"")).ok()?;
        let names: Vec<String> = rows.column_names().into_iter().map(str::to_owned).collect();
        let rows = rows.query_map([], |row| {
            let key: i64 = row.get("id")?;
            for name in &names {
                if let Some(column) = name.strip_prefix("added_") {
                    let value: String = row.get(name.as_str())?;
                    assert_eq!(value, added_value(key, column.parse().expect("a number")));
                }
            }
            let (team, value): (u8, String) = (row.get("team")?, row.get("value")?);
            assert!(value.starts_with(&format!("{team}:")), "{value} of team {team}");
            Ok((key, value))
        });
        Some(rows.expect("rows").map(|row| row.expect("a row")).collect())
    }

    fn schema_now(&self, entity: &EntityName) -> Option<u64> {
        let reader = rusqlite::Connection::open(self.path()).expect("a reader");
        let sql = "select fingerprint from highwater_table where entity = ?1 and purpose = 'rows'";
        let fingerprint: String = reader.query_row(sql, [entity.as_str()], |row| row.get(0)).ok()?;
        fingerprint.strip_prefix("schema-")?.parse().ok()
    }

    fn past_now(&self) -> Vec<PastCursor> {
        self.past().expect("a past")
    }

    fn reset_now(&self, entity: &EntityName) {
        self.reset(std::slice::from_ref(entity)).expect("reset");
    }
}

/// Time that passes when somebody waits for it.
struct VirtualClock {
    begun: Instant,
    micros: AtomicU64,
    /// What the device shows, beside the time that has passed.
    set_seconds: AtomicI64,
}

impl VirtualClock {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            micros: AtomicU64::new(0),
            set_seconds: AtomicI64::new(0),
        }
    }

    fn pass(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).expect("a short wait");
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Somebody sets what the device shows, forwards or back.
    fn set(&self, seconds: i64) {
        self.set_seconds.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let passed = self.micros.load(Ordering::Relaxed).cast_signed();
        Timestamp::from_micros(passed + self.set_seconds.load(Ordering::Relaxed) * 1_000_000)
    }

    fn monotonic(&self) -> Instant {
        self.begun + Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    async fn sleep(&self, duration: Duration) {
        self.pass(duration);
    }
}

/// What was seen at the last look, to tell what must not change from what may.
#[derive(Default)]
struct LastLook {
    helpers: BTreeMap<EntityName, SyncHelper>,
    rows: BTreeMap<EntityName, Option<Rows>>,
    /// When readers last had the entity whole.
    whole_at: BTreeMap<EntityName, WholeAt>,
    /// The timeline of these commits.
    timeline: usize,
}

/// What readers had who had an entity whole.
#[derive(Clone)]
struct WholeAt {
    commit: u64,
    scope: Teams,
    /// How many scopes the caller had had by then.
    scopes: usize,
}

impl LastLook {
    /// Checks what must hold at every instant.
    fn check(&mut self, store: &impl Observed, server: &SimulatedServer) {
        let world = server.world();
        let mut look = Self {
            timeline: world.source.timeline(),
            ..Self::default()
        };
        if look.timeline != self.timeline {
            // What readers had may be lost.
            self.whole_at.clear();
        }
        for helper in store.helpers_now() {
            let entity = helper.entity.clone();
            let rows = store.rows_now(&entity);
            let last = self.helpers.get(&entity);
            let is_empty = rows.as_ref().is_none_or(BTreeMap::is_empty);
            let is_taken_away = world.happened.change_of_scope && helper.state == State::Withdrawn;
            if is_taken_away && last.is_some_and(|last| last.state != State::Withdrawn) {
                assert!(is_empty, "{entity} may be none of the caller's business any more");
            }
            let is_lost = |cursor: &Cursor| !seen(cursor).is_kept_by(&world.source);
            if helper.cursor.as_ref().is_some_and(is_lost) {
                // It is of a history that is another's now, until the next pull.
            } else if helper.state == State::Current {
                let seen = seen(helper.cursor.as_ref().expect("a cursor"));
                let expected = world.source.rows_at(seen.commit, &entity, &seen.scope);
                assert_eq!(rows, expected, "{entity} at commit {}", seen.commit);
                let whole_at = WholeAt {
                    commit: seen.commit,
                    scope: seen.scope,
                    scopes: world.scopes.len(),
                };
                look.whole_at.insert(entity.clone(), whole_at);
            } else if is_taken_away && is_empty {
                // What readers had is none of their business any more.
            } else if let Some(whole_at) = self.whole_at.get(&entity) {
                let mut scope = whole_at.scope.clone();
                for since in world.scopes.iter().skip(whole_at.scopes - 1) {
                    scope.retain(|team| since.contains(team));
                }
                for key in world.source.keys_live_since(whole_at.commit, &entity, &scope) {
                    let is_there = rows.as_ref().is_some_and(|rows| rows.contains_key(&key));
                    assert!(is_there, "readers of {entity} saw a hole at {key}");
                }
                look.whole_at.insert(entity.clone(), whole_at.clone());
            }
            if let Some(last) = last {
                assert!(helper.last_sync_date >= last.last_sync_date, "a date moved back");
                if last.state == State::Renewing && helper.state == State::Renewing {
                    assert_eq!(rows, self.rows[&entity], "readers of {entity} saw half a renewal");
                }
            }
            look.rows.insert(entity.clone(), rows);
            look.helpers.insert(entity, helper);
        }
        *self = look;
    }
}

fn seen(cursor: &Cursor) -> Seen {
    serde_json::from_str(cursor.as_str()).expect("a cursor of the model")
}

/// One course of events. Panics where a promise is broken. Returns what happened in it.
async fn simulate<S: Replica + Observed + Movable>(seed: u64, store: &S) -> Happened {
    let mut rng = StdRng::seed_from_u64(seed);
    let is_calm = rng.random_bool(0.5);
    let server = SimulatedServer {
        world: Mutex::new(World {
            source: Source::new("one"),
            scopes: vec![(0..TEAMS).collect()],
            scopes_max: if rng.random_bool(0.5) { 1 } else { 30 },
            faults_per_mille: rng.random_range(0..if is_calm { 100 } else { 400 }),
            writes_per_mille: rng.random_range(0..900),
            lag_max: if rng.random_bool(0.5) {
                rng.random_range(0..30)
            } else {
                0
            },
            writes_left: 0,
            is_told: given_seeds().is_some_and(|seeds| seeds.end - seeds.start == 1),
            rng: StdRng::seed_from_u64(rng.random()),
            answered: None,
            happened: Happened::default(),
            is_calm,
            reads_history: rng.random_ratio(2, 3),
        }),
        clock: VirtualClock::new(),
    };
    for name in ENTITIES.iter().take(rng.random_range(1..=ENTITIES.len())) {
        server.world().source.enable(&EntityName::new(*name));
    }
    let look = Mutex::new(LastLook::default());
    let check = || look.lock().expect("a look").check(store, &server);
    for _ in 0..rng.random_range(if is_calm { 5..20 } else { 2..10 }) {
        {
            let mut world = server.world();
            world.writes_left = if world.is_calm {
                WRITES_A_CALM_PULL_MAX
            } else {
                WRITES_A_PULL_MAX
            };
            world.write();
        }
        if rng.random_ratio(1, 12) {
            let held: Vec<EntityName> = store
                .helpers_now()
                .into_iter()
                .map(|helper| helper.entity)
                .collect();
            if let Some(entity) = held.get(rng.random_range(0..ENTITIES.len())) {
                store.reset_now(entity);
                *look.lock().expect("a look") = LastLook::default();
            }
        }
        let names = server.world().source.names();
        let wanted: Option<Vec<EntityName>> = rng
            .random_ratio(1, if is_calm { 9 } else { 3 })
            .then(|| names.into_iter().filter(|_| rng.random_bool(0.5)).collect())
            .filter(|names: &Vec<EntityName>| !names.is_empty());
        let (begun_at, timeline) = {
            let world = server.world();
            (world.source.now(), world.source.timeline())
        };
        let outcome = pull(store, &server, wanted.as_deref(), rng.random(), &check).await;
        check();
        match outcome {
            Ok(()) => {
                let world = server.world();
                let no_older_than = if world.happened.repetition || world.source.timeline() != timeline {
                    0
                } else {
                    begun_at.saturating_sub(world.lag_max)
                };
                drop(world);
                check_current(store, wanted.as_deref(), no_older_than);
            }
            // The process died, or had tried often enough.
            Err(error) if error.is_retryable() || matches!(error, Error::Task(_)) => {}
            // An entity that was asked for by name, on a node that has not heard of it.
            Err(Error::Refused { status: 404, .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    // In the end, at rest and without faults, the store equals the source.
    server.world().faults_per_mille = 0;
    server.world().writes_per_mille = 0;
    server.world().lag_max = 0;
    pull(store, &server, None, 0, &check)
        .await
        .expect("a pull without faults");
    check_equal(store, &server);
    std::mem::take(&mut server.world().happened)
}

async fn pull<S: Replica + Observed + Movable>(
    store: &S,
    server: &SimulatedServer,
    wanted: Option<&[EntityName]>,
    jitter: u64,
    check: &(dyn Fn() + Sync),
) -> Result<(), Error> {
    {
        let mut world = server.world();
        world.happened.repetition = false;
        world.happened.change_of_scope = false;
    }
    let observer = |event: Event<'_>| match event {
        Event::Applied(_) => check(),
        Event::Resync { delay, .. } => {
            assert!(delay < SPREAD, "a wait of {delay:?}");
            check();
        }
        _ => {}
    };
    let shortcut = SimulatedShortcut {
        server,
        store,
        wanted,
    };
    let pull = Pull {
        remote: server,
        store,
        clock: &server.clock,
        wanted,
        keep_deleted: false,
        wait: Duration::ZERO,
        retries: ExponentialBuilder::new()
            .with_jitter()
            .with_jitter_seed(jitter)
            .with_max_times(4),
        resyncs: Spread::over(SPREAD).seeded(jitter),
        shortcut: Some(&shortcut),
        // Where a seed is tried, it may not.
        takes_rescoped: server.world().rng.random_ratio(7, 8),
        stop: &CancellationToken::new(),
        observer: &observer,
    };
    pull.run().await.map(drop)
}

/// After a pull that ended, all that it pulled stands at one cut that is no older than its begin.
fn check_current(store: &impl Observed, wanted: Option<&[EntityName]>, begun_at: u64) {
    let mut cursors: Vec<Cursor> = Vec::new();
    for helper in store.helpers_now() {
        let is_pulled = match wanted {
            Some(wanted) => wanted.contains(&helper.entity),
            None => helper.state != State::Withdrawn,
        };
        if is_pulled {
            assert_eq!(helper.state, State::Current, "{}", helper.entity);
            cursors.extend(helper.cursor);
        }
    }
    cursors.dedup();
    assert!(cursors.len() <= 1, "one pull, one cut");
    for cursor in cursors {
        assert!(
            seen(&cursor).commit >= begun_at,
            "the pull saw what came before it"
        );
    }
}

fn check_equal(store: &impl Observed, server: &SimulatedServer) {
    let world = server.world();
    let now = world.source.now();
    for entity in world.source.names() {
        let rows = store.rows_now(&entity);
        let expected = world.source.rows_at(now, &entity, world.scope());
        assert_eq!(rows, expected, "{entity}");
    }
}

/// The seeds of the environment, one or a range such as `3000..90000`.
fn given_seeds() -> Option<Range<u64>> {
    let given = std::env::var("HIGHWATER_SEED").ok()?;
    let number = |text: &str| {
        text.parse()
            .expect("HIGHWATER_SEED is a seed, or two with .. between")
    };
    Some(match given.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&given)..number(&given) + 1,
    })
}

/// Runs `one` for each seed, or for those of the environment, and names a seed that fails.
fn for_seeds(seeds: Range<u64>, mut one: impl FnMut(&tokio::runtime::Runtime, u64)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let seeds = given_seeds().unwrap_or(seeds);
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| one(&runtime, seed));
        if let Err(panic) = std::panic::catch_unwind(run) {
            println!("simulation failed: HIGHWATER_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_store_in_memory_follows_the_source_through_every_fault() {
    for_seeds(0..10_000, |runtime, seed| {
        runtime.block_on(simulate(seed, &MemoryStore::default()));
    });
}

#[test]
fn a_store_in_sqlite_follows_the_source_through_every_fault() {
    let mut went_back = 0;
    let mut steps = BTreeSet::new();
    for_seeds(0..200, |runtime, seed| {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path().join("store.db")).expect("a store");
        let happened = runtime.block_on(simulate(seed, &store));
        went_back += u32::from(happened.way_back);
        steps.extend(happened.steps);
    });
    if given_seeds().is_none() {
        assert!(went_back > 0, "no store went back after a promotion");
        assert!(steps.into_iter().eq(Step::ALL), "some step was never sent");
    }
}
