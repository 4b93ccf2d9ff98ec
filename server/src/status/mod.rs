//! How everything fares, for operators: the source and its entities, and the fleet. Looked at once a second at most,
//! however many ask, and never without a bound: when Postgres cannot be asked in time, the last look stands.

mod look;
mod rates;

use std::sync::Arc;
use std::time::Duration;

use highwater_shared::Timestamp;
use highwater_shared::status::{EntityStatus, SourceStatus, Writer};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use self::look::Looked;
use self::rates::Rates;
use crate::fleet::{Fleet, Report};
use crate::node::Node;
use crate::tombstones::Tombstones;
use crate::watch::Watcher;

/// How long a look is good for whoever else asks.
const LOOK_AGE_MAX: Duration = Duration::from_secs(1);

/// How long Postgres may take for each of its parts.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long sizes are good: to read them costs a look at each file of each table.
const SIZES_AGE_MAX: Duration = Duration::from_secs(30);

/// How far the two ways to know the oldest writer may lie apart.
const WRITER_MICROSECONDS_MAX: i64 = 2_000_000;

/// What operators are told.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Shown>);

/// What there is to look at.
pub(crate) struct Sights<'a> {
    pub(crate) node: &'a Node,
    pub(crate) watcher: &'a Watcher,
    pub(crate) tombstones: &'a Tombstones,
    pub(crate) fleet: &'a Arc<Fleet>,
}

/// A moment, as operators are told of it.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) source: SourceStatus,
    pub(crate) entities: Vec<EntityStatus>,
    pub(crate) fleet: Arc<Report>,
}

#[derive(Debug, Default)]
struct Shown {
    scene: Option<(Instant, Scene)>,
    /// The last look at Postgres that succeeded, and when.
    looked: Option<(Timestamp, Looked)>,
    sizes: look::Sizes,
    sized: Option<Instant>,
    rates: Rates,
}

impl Board {
    /// What is so now, or was within the last second. One look at most is under way, whoever else asks meanwhile.
    pub(crate) async fn scene(&self, sights: &Sights<'_>, clock: fn() -> Timestamp) -> Option<Scene> {
        let mut shown = self.0.lock().await;
        if let Some((at, scene)) = &shown.scene
            && at.elapsed() < LOOK_AGE_MAX
        {
            return Some(scene.clone());
        }
        let has_failed = !shown.look(sights, clock).await;
        let now = clock();
        let (fleet, view) = (Arc::clone(sights.fleet), sights.watcher.latest());
        // Ten thousand devices take some milliseconds, in which others are not to stand still.
        let report = tokio::task::spawn_blocking(move || fleet.report(view.as_deref(), now)).await;
        let scene = Scene {
            source: shown.source(sights, now, has_failed),
            entities: shown.entities(sights).await,
            fleet: Arc::new(report.ok()?),
        };
        shown.scene = Some((Instant::now(), scene.clone()));
        Some(scene)
    }
}

impl Shown {
    /// Looks at Postgres, and tells whether that went well.
    async fn look(&mut self, sights: &Sights<'_>, clock: fn() -> Timestamp) -> bool {
        let is_done = match timeout(LOOK_WAIT_MAX, look::look(sights.node)).await {
            Ok(Ok(looked)) => {
                self.rates.add(Instant::now(), &looked);
                self.looked = Some((clock(), looked));
                true
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the status of the source cannot be read");
                false
            }
            Err(_) => {
                tracing::debug!("the status of the source cannot be read in time");
                false
            }
        };
        if is_done && self.sized.is_none_or(|sized| sized.elapsed() >= SIZES_AGE_MAX) {
            // Apart: whoever alters a table makes it wait, and nothing else.
            self.sized = Some(Instant::now());
            match timeout(LOOK_WAIT_MAX, look::sizes(sights.node)).await {
                Ok(Ok(sizes)) => self.sizes = sizes,
                Ok(Err(error)) => tracing::debug!(%error, "sizes cannot be read"),
                Err(_) => tracing::debug!("sizes cannot be read in time"),
            }
        }
        is_done
    }

    fn source(&self, sights: &Sights<'_>, now: Timestamp, has_failed: bool) -> SourceStatus {
        let looked = self.looked.as_ref();
        let told = looked.map(|(_, looked)| looked);
        SourceStatus {
            looked: looked.map(|(at, _)| *at),
            has_failed,
            is_standby: told.is_some_and(|looked| looked.is_standby),
            oldest_writer: oldest_writer(told, sights.watcher.samples.oldest_writer(), now),
            prepared: told.map_or_else(Vec::new, |looked| looked.prepared.clone()),
        }
    }

    async fn entities(&self, sights: &Sights<'_>) -> Vec<EntityStatus> {
        let Some((_, looked)) = &self.looked else {
            return Vec::new();
        };
        let tombstones = sights.tombstones.estimate(sights.node).await;
        let mut entities: Vec<EntityStatus> = looked
            .entities
            .iter()
            .map(|entity| {
                let name = &entity.name;
                let dead = tombstones.iter().find(|(of, _)| of == name);
                let sizes = self.sizes.get(name);
                EntityStatus {
                    name: name.clone(),
                    table: looked.tables.get(name).unwrap_or(&entity.table).clone(),
                    key: entity.key.iter().map(|column| column.name.clone()).collect(),
                    fault: entity.fault.as_ref().map(ToString::to_string),
                    estimated_rows: entity.estimated_rows,
                    changes_per_second: self.rates.of(name),
                    tombstones: dead.and_then(|(_, number)| u64::try_from(*number).ok()),
                    table_bytes: sizes.map(|[table, _]| *table),
                    index_bytes: sizes.map(|[_, indexes]| *indexes),
                }
            })
            .collect();
        entities.sort_by(|a, b| a.name.cmp(&b.name));
        entities
    }
}

/// The oldest transaction that writes. Its age is known by its id; who it is, where Postgres shows that one to this
/// role.
fn oldest_writer(looked: Option<&Looked>, age: Option<Duration>, now: Timestamp) -> Option<Writer> {
    let age = age.filter(|age| !age.is_zero())?;
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    let since = Timestamp::from_micros(now.micros().saturating_sub(age));
    let shown = looked.and_then(|looked| looked.writer.clone());
    // It began before it had an id. One that began later is another, and the oldest is hidden, or prepared.
    let is_it = |writer: &Writer| writer.since.micros() <= since.micros() + WRITER_MICROSECONDS_MAX;
    shown.filter(is_it).or(Some(Writer {
        since,
        pid: None,
        application: None,
        user: None,
        state: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_shared::status::Prepared;

    #[test]
    fn the_oldest_writer_is_named_where_it_is_the_one_that_is_shown() {
        let now = Timestamp::from_micros(100_000_000);
        let began = |seconds: i64| Looked {
            writer: Some(Writer {
                since: Timestamp::from_micros(seconds * 1_000_000),
                pid: Some(7),
                application: Some("psql".to_owned()),
                user: Some("anna".to_owned()),
                state: Some("active".to_owned()),
            }),
            ..Looked::default()
        };
        let oldest = |looked: &Looked, age| oldest_writer(Some(looked), age, now);
        let age = Some(Duration::from_secs(10));
        let shown = oldest(&began(80), age).unwrap();
        assert_eq!(
            (shown.pid, shown.since),
            (Some(7), Timestamp::from_micros(80_000_000))
        );
        // Another one has been writing for longer.
        let hidden = oldest(&began(95), age).unwrap();
        assert_eq!(
            (hidden.pid, hidden.since),
            (None, Timestamp::from_micros(90_000_000))
        );
        assert_eq!(oldest(&began(80), Some(Duration::ZERO)), None);
        assert_eq!(oldest(&began(80), None), None, "a standby does not know");
        assert!(oldest_writer(None, age, now).is_some());
    }

    #[test]
    fn a_prepared_transaction_is_no_writer_with_a_name() {
        let looked = Looked {
            prepared: vec![Prepared {
                gid: "left".to_owned(),
                since: Timestamp::EPOCH,
                user: "anna".to_owned(),
                database: "shop".to_owned(),
            }],
            ..Looked::default()
        };
        let writer = oldest_writer(
            Some(&looked),
            Some(Duration::from_secs(1)),
            Timestamp::from_micros(5_000_000),
        );
        assert_eq!(writer.unwrap().pid, None);
    }
}
