//! The shortcut of a pull, simulated: the store gets what differs from the source at a commit, while others
//! write, unless it fails, or declines.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use highwater_shared::{EntityName, Trailer};
use rand::Rng as _;
use tokio::sync::{mpsc, oneshot};

use super::server::{Fault, SimulatedServer, crash, cut};
use super::source::{Entity, Seen, header, timestamp, upsert_line};
use super::{MemoryStore, Observed};
use crate::applied::{EntityApplied, PageApplied};
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{Shortcut, Taking, Writing};
use crate::store::{Mending, MendingPiece, Standing, Store};
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
        schemas: BTreeMap<EntityName, u64>,
        differences: BTreeMap<EntityName, Differences>,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Movable for Store {
    async fn move_to(
        &self,
        cursor: Cursor,
        source: SourceId,
        schemas: BTreeMap<EntityName, u64>,
        differences: BTreeMap<EntityName, Differences>,
    ) -> Result<(), Error> {
        let mut body = String::new();
        let mut rows = 0;
        for (entity, differences) in &differences {
            let header = header(entity, 2, schemas[entity]);
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

impl<S: Observed + Movable> Shortcut for SimulatedShortcut<'_, S> {
    fn take<'a>(&'a self, _: bool, _: &'a Meter) -> Taking<'a> {
        Box::pin(self.run())
    }

    fn rows_min(&self) -> u64 {
        ROWS_MIN
    }
}

impl<S: Observed + Movable> SimulatedShortcut<'_, S> {
    async fn run(&self) -> Result<Option<PageApplied>, Error> {
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
        let found = {
            let mut world = self.server.world();
            let declines = world.rng.random_ratio(1, 4);
            let all_there = self.wanted.is_none_or(|wanted| wanted.len() == helpers.len());
            if declines || helpers.is_empty() || !all_there || !helpers.iter().all(is_whole) {
                return Ok(None);
            }
            let then = world.source.now();
            world.write();
            match world.fault() {
                Fault::None => {}
                Fault::Crash | Fault::CrashAt(_) => return Err(crash()),
                _ => return Err(cut()),
            }
            let Some((schemas, differences)) = self.differences(&world.source, then, &helpers) else {
                return Ok(None);
            };
            let incarnations = helpers.iter().map(|helper| {
                let entity = &world.source.entities_at(then)[&helper.entity];
                (helper.entity.clone(), entity.incarnation)
            });
            let seen = Seen::all_at(then, world.source.now(), incarnations);
            (
                seen,
                SourceId::new(world.source.id.as_str()),
                schemas,
                differences,
            )
        };
        let (seen, source, schemas, differences) = found;
        let cursor = Cursor::new(serde_json::to_string(&seen).expect("a cursor"));
        let entities = schemas.keys().cloned().map(EntityApplied::new).collect();
        self.store
            .move_to(cursor.clone(), source, schemas, differences)
            .await?;
        Ok(Some(PageApplied {
            cursor,
            more: true,
            last_sync_date: timestamp(0),
            rows: 0,
            deleted: 0,
            entities,
        }))
    }

    /// What of the entities is not as it was at a commit, less what has changed since; `None` where one
    /// cannot be compared.
    fn differences(
        &self,
        source: &super::Source,
        then: u64,
        helpers: &[SyncHelper],
    ) -> Option<(BTreeMap<EntityName, u64>, BTreeMap<EntityName, Differences>)> {
        let (mut schemas, mut differences) = (BTreeMap::new(), BTreeMap::new());
        for helper in helpers {
            let name = &helper.entity;
            let right = source.entities_at(then).get(name)?;
            let now = source.entities_at(source.now()).get(name)?;
            let is_same =
                now.incarnation == right.incarnation && now.schema == right.schema && now.purged <= then;
            if !is_same || self.store.schema_now(name)? != right.schema {
                return None;
            }
            schemas.insert(name.clone(), right.schema);
            differences.insert(
                name.clone(),
                self.of_entity(name, right, &changed_since(now, then)),
            );
        }
        Some((schemas, differences))
    }

    fn of_entity(&self, name: &EntityName, right: &Entity, left_out: &BTreeSet<i64>) -> Differences {
        let held = self.store.rows_now(name).unwrap_or_default();
        let keys: BTreeSet<i64> = right.rows.keys().chain(held.keys()).copied().collect();
        keys.difference(left_out)
            .filter(|key| right.rows.get(key).map(|(_, value)| value) != held.get(key))
            .map(|key| {
                let line = right
                    .rows
                    .get(key)
                    .map(|(commit, value)| upsert_line(*key, value, right.schema, *commit));
                (*key, line)
            })
            .collect()
    }
}

fn changed_since(entity: &Entity, commit: u64) -> BTreeSet<i64> {
    let written = entity.rows.iter().map(|(key, (at, _))| (*key, *at));
    let gone = entity.tombstones.iter().map(|(key, at)| (*key, *at));
    let since = written.chain(gone).filter(|(_, at)| *at > commit);
    since.map(|(key, _)| key).collect()
}

impl Movable for MemoryStore {
    async fn move_to(
        &self,
        cursor: Cursor,
        source: SourceId,
        schemas: BTreeMap<EntityName, u64>,
        differences: BTreeMap<EntityName, Differences>,
    ) -> Result<(), Error> {
        let entities: Vec<EntityName> = schemas.into_keys().collect();
        self.move_now(&cursor, &source, &entities, differences);
        Ok(())
    }
}
