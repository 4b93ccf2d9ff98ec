//! The shortcut of a pull, simulated: the store gets what differs from the source at a commit, while others
//! write, unless it fails, or declines.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use highwater_shared::{BlockKind, EntityName, Trailer};
use rand::Rng as _;
use tokio::sync::{mpsc, oneshot};

use super::page::{Seen, header, timestamp, upsert_line};
use super::server::{Fault, SimulatedServer, World, crash, cut};
use super::source::{Entity, Teams};
use super::{MemoryStore, Observed, seen};
use crate::applied::{EntityApplied, PageApplied};
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{Refused, Shortcut, Taking, Writing};
use crate::store::{KeysOf, Mending, MendingPiece, MovesFrom, PastCursor, Standing, Store};
use crate::sync_helper::{Cursor, SourceId, State, SyncHelper};

/// An entity with so many rows is compared.
const ROWS_MIN: u64 = 3;

/// What differs in an entity: by key the line of the row that is right, or none where there is none.
pub(crate) type Differences = BTreeMap<i64, Option<String>>;

/// A store that can be brought to a cursor.
pub(crate) trait Movable: Sync {
    fn move_to(
        &self,
        cursor: Cursor,
        source: SourceId,
        from: MovesFrom,
        schemas: BTreeMap<EntityName, u64>,
        differences: BTreeMap<EntityName, Differences>,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Movable for Store {
    async fn move_to(
        &self,
        cursor: Cursor,
        source: SourceId,
        from: MovesFrom,
        schemas: BTreeMap<EntityName, u64>,
        differences: BTreeMap<EntityName, Differences>,
    ) -> Result<(), Error> {
        let mut body = String::new();
        let mut rows = 0;
        for (entity, differences) in &differences {
            let header = header(entity, BlockKind::Upsert, schemas[entity]);
            body += &serde_json::to_string(&header).expect("a header");
            body += "\n";
            for line in differences.values().flatten() {
                rows += 1;
                body += line;
                body.push('\n');
            }
            body += "\\.\n";
        }
        let trailer = Trailer {
            next: cursor.as_str().to_owned(),
            more: true,
            last_sync_date: timestamp(0),
            rows,
            entities: Vec::new(),
        };
        body += &serde_json::to_string(&trailer).expect("a trailer");
        body.push('\n');
        let gone = |differences: &Differences| {
            let gone = differences.iter().filter(|(_, line)| line.is_none());
            gone.map(|(key, _)| key.to_string().into_bytes()).collect()
        };
        let mending = Mending {
            extra: differences
                .iter()
                .map(|(entity, differences)| (entity.clone(), gone(differences)))
                .collect(),
            writing: Writing::InPlace,
            standing: Standing::MovesTo {
                cursor,
                entities: schemas.into_keys().collect(),
                source,
                from,
            },
        };
        let (sender, receiver) = mpsc::channel(3);
        let (told, _) = oneshot::channel();
        for piece in [
            MendingPiece::Chunk(body.into()),
            MendingPiece::End(told),
            MendingPiece::All,
        ] {
            sender.send(piece).await.expect("room");
        }
        self.mend(mending, receiver).await.map(drop)
    }
}

pub(super) struct SimulatedShortcut<'a, S> {
    pub(super) server: &'a SimulatedServer,
    pub(super) store: &'a S,
    pub(super) wanted: Option<&'a [EntityName]>,
}

/// Where a store may go on from.
struct Way {
    seen: Seen,
    from: MovesFrom,
    /// The rows that can differ; `None` for all.
    written: Option<KeysOf>,
}

impl<S: Observed + Movable> Shortcut for SimulatedShortcut<'_, S> {
    fn take<'a>(&'a self, refused: Refused, _: &'a Meter) -> Taking<'a> {
        Box::pin(self.run(refused.earlier))
    }

    fn rows_min(&self) -> u64 {
        ROWS_MIN
    }
}

impl<S: Observed + Movable> SimulatedShortcut<'_, S> {
    async fn run(&self, earlier: bool) -> Result<Option<PageApplied>, Error> {
        let helpers: Vec<SyncHelper> = self
            .store
            .helpers_now()
            .into_iter()
            .filter(|helper| match self.wanted {
                Some(wanted) => wanted.contains(&helper.entity),
                None => helper.state != State::Withdrawn,
            })
            .collect();
        let is_whole =
            |helper: &SyncHelper| helper.complete && matches!(helper.state, State::Current | State::Pulling);
        let (way, source, schemas, differences) = {
            let mut world = self.server.world();
            let declines = world.rng.random_ratio(1, 4);
            let all_there = self.wanted.is_none_or(|wanted| wanted.len() == helpers.len());
            if declines || helpers.is_empty() || !all_there || !helpers.iter().all(is_whole) {
                return Ok(None);
            }
            let (then, timeline) = (world.source.now(), world.source.timeline());
            world.write();
            match world.fault() {
                Fault::None if timeline == world.source.timeline() => {}
                Fault::Crash | Fault::CrashAt(_) => return Err(crash()),
                _ => return Err(cut()),
            }
            let past = if earlier {
                self.store.past_now()
            } else {
                Vec::new()
            };
            let mut ways = ways(past, &world);
            ways.extend(now(then, &world, &helpers));
            let found = ways.into_iter().find_map(|way| {
                let (schemas, differences) = self.differences(&world, &way, &helpers)?;
                Some((way, schemas, differences))
            });
            let Some((way, schemas, differences)) = found else {
                return Ok(None);
            };
            world.happened.way_back |= matches!(way.from, MovesFrom::Past(_));
            let source = SourceId::new(world.source.id.as_str());
            (way, source, schemas, differences)
        };
        let cursor = Cursor::new(serde_json::to_string(&way.seen).expect("a cursor"));
        let entities = schemas.keys().cloned().map(EntityApplied::new).collect();
        self.store
            .move_to(cursor.clone(), source, way.from, schemas, differences)
            .await?;
        Ok(Some(PageApplied {
            cursor,
            more: true,
            last_sync_date: timestamp(0),
            rows: 0,
            deleted: 0,
            entities,
            withdrawn: Vec::new(),
        }))
    }

    /// What of the entities is not as it was at a commit, less what has changed since; `None` where one
    /// cannot be compared.
    fn differences(
        &self,
        world: &World,
        way: &Way,
        helpers: &[SyncHelper],
    ) -> Option<(BTreeMap<EntityName, u64>, BTreeMap<EntityName, Differences>)> {
        let (mut schemas, mut differences) = (BTreeMap::new(), BTreeMap::new());
        let (source, then) = (&world.source, way.seen.commit);
        let covered: BTreeMap<EntityName, u64> = way.seen.covered().collect();
        for helper in helpers {
            let name = &helper.entity;
            let right = source.entities_at(then).get(name)?;
            let now = source.entities_at(source.now()).get(name)?;
            let is_same = covered.get(name) == Some(&now.incarnation)
                && now.schema == right.schema
                && now.forgotten <= then;
            if !is_same || self.store.schema_now(name)? != right.schema {
                return None;
            }
            schemas.insert(name.clone(), right.schema);
            let mut of_entity = self.of_entity(name, right, world.scope(), &changed_since(now, then));
            if let Some(written) = &way.written {
                of_entity.retain(|key, _| {
                    let keys = written.get(name);
                    keys.is_some_and(|keys| keys.contains(&key.to_string()))
                });
            }
            differences.insert(name.clone(), of_entity);
        }
        Some((schemas, differences))
    }

    fn of_entity(
        &self,
        name: &EntityName,
        right: &Entity,
        scope: &Teams,
        left_out: &BTreeSet<i64>,
    ) -> Differences {
        let held = self.store.rows_now(name).unwrap_or_default();
        let row = |key| right.rows.get(key).filter(|row| scope.contains(&row.team));
        let keys: BTreeSet<i64> = right.rows.keys().chain(held.keys()).copied().collect();
        keys.difference(left_out)
            .filter(|key| row(key).map(|row| &row.value) != held.get(key))
            .map(|key| (*key, row(key).map(|row| upsert_line(*key, row, right.schema))))
            .collect()
    }
}

/// The cursors of a past that are still served, the latest first.
fn ways(past: Vec<PastCursor>, world: &World) -> Vec<Way> {
    let mut written = KeysOf::new();
    let mut ways = Vec::new();
    for past in past {
        for (entity, keys) in &past.keys {
            let of_entity = written.entry(entity.clone()).or_default();
            of_entity.extend(keys.iter().cloned());
        }
        let seen = seen(&past.cursor);
        if world.has(&past.cursor) && seen.is_for(world.scope(), false) {
            ways.push(Way {
                seen: Seen::all_at(seen.commit, &world.source, world.scope(), seen.covered()),
                from: MovesFrom::Past(past),
                written: Some(written.clone()),
            });
        }
    }
    ways
}

/// From the source as it was at a commit just now.
fn now(then: u64, world: &World, helpers: &[SyncHelper]) -> Option<Way> {
    let entities = world.source.entities_at(then);
    let incarnations: Option<Vec<(EntityName, u64)>> = helpers
        .iter()
        .map(|helper| {
            let entity = entities.get(&helper.entity)?;
            Some((helper.entity.clone(), entity.incarnation))
        })
        .collect();
    Some(Way {
        seen: Seen::all_at(then, &world.source, world.scope(), incarnations?.into_iter()),
        from: MovesFrom::Now,
        written: None,
    })
}

fn changed_since(entity: &Entity, commit: u64) -> BTreeSet<i64> {
    let written = entity.rows.iter().map(|(key, row)| (*key, row.commit));
    let gone = entity.tombstones.iter().chain(&entity.purged);
    let gone = gone.map(|(key, at)| (*key, *at));
    let since = written.chain(gone).filter(|(_, at)| *at > commit);
    since.map(|(key, _)| key).collect()
}

impl Movable for MemoryStore {
    async fn move_to(
        &self,
        cursor: Cursor,
        source: SourceId,
        from: MovesFrom,
        schemas: BTreeMap<EntityName, u64>,
        differences: BTreeMap<EntityName, Differences>,
    ) -> Result<(), Error> {
        assert!(matches!(from, MovesFrom::Now), "it remembers nothing of its past");
        let entities: Vec<EntityName> = schemas.into_keys().collect();
        self.move_now(&cursor, &source, &entities, differences);
        Ok(())
    }
}
