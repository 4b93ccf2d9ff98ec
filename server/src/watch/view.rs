//! What the watcher knows of the source at one moment, and what follows for a caller. Pure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_shared::{EntityName, Timestamp, Trailer};

use super::scopes::ScopeChanges;
use crate::cursor::{Covered, Cursor, Lsn, Seen};
use crate::database::Moment;
use crate::entity::{Entity, PurgedAs};
use crate::page::{self, Asked, Evidence, Format, PageRequest, ReadError, Sight, Since, Standing, WholePage};
use crate::samples::Samples;
use crate::scope::{Limits, RescopedAs};
use crate::snapshot::Snapshot;

/// The most answers that are kept of a view.
const ANSWERS_MAX: usize = 256;

/// The source at one moment.
#[derive(Debug)]
pub struct View {
    /// Which of the looks that followed one another it is of.
    pub(super) look: u64,
    pub(super) moment: Moment,
    /// By number.
    pub(super) entities: Vec<Watched>,
    /// When the scopes of entities that have one were changed.
    pub(super) scopes: Arc<ScopeChanges>,
    /// What callers for whom there was nothing new have been answered.
    pub(super) answers: Answers,
}

/// Answers that are given again to whoever asks the same: a fleet that is up to date asks with one
/// cursor.
pub(super) type Answers = Mutex<HashMap<Question, Arc<WholePage>>>;

/// What those have in common who are answered alike. Of a cursor it is only its dates that go into the
/// answer: what else it says has been compared with the view.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    entities: Asked,
    limits: Limits,
    newest: Timestamp,
    last_sync_date: Timestamp,
    format: Format,
}

/// An entity at that moment.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) entity: Entity,
    /// The first moment since the server's start at which its latest change had been seen. Whoever
    /// has seen as much lacks nothing of the entity.
    pub(super) changed: Arc<Ground>,
}

/// What had been seen at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ground {
    /// Which of the looks that followed one another has shown it: the later one has the greater number. Snapshots do not
    /// tell, since transactions that end in another order than they began in leave both of their bounds as they are.
    pub(super) look: u64,
    pub(super) snapshot: Snapshot,
    /// The last byte of the log that it may stand on.
    pub(super) wal: Lsn,
}

impl View {
    /// The entities, by number.
    pub fn entities(&self) -> impl Iterator<Item = &Entity> {
        self.entities.iter().map(|watched| &watched.entity)
    }

    /// The answer to a caller for whom there is nothing new; `None` where there may be something,
    /// or where only a page can tell.
    pub fn nothing_new(
        &self,
        request: &PageRequest,
        limits: &Limits,
        samples: &Samples,
    ) -> Result<Option<Arc<WholePage>>, ReadError> {
        let Some((cursor, asked)) = self.lacks_nothing(&request.since, &request.entities, limits) else {
            return Ok(None);
        };
        let last_sync_date = samples.last_sync_date(&self.moment, cursor.last_sync_date, cursor.newest);
        let question = Question {
            entities: request.entities.clone(),
            limits: limits.clone(),
            newest: cursor.newest,
            last_sync_date,
            format: request.format,
        };
        if let Some(page) = self.answers().get(&question) {
            return Ok(Some(Arc::clone(page)));
        }
        let trailer = self.trailer(cursor, &asked, limits, last_sync_date);
        let page = Arc::new(WholePage::empty(request.format, &trailer)?);
        let mut answers = self.answers();
        if answers.len() < ANSWERS_MAX {
            answers.insert(question, Arc::clone(&page));
        }
        Ok(Some(page))
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Question, Arc<WholePage>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How this view stands to a cursor; a caller that may see other rows than before lacks something in any case.
    fn standing(&self, since: &Since, asked: &Asked, limits: &Limits) -> Result<Standing, ReadError> {
        let is_asked = |number| {
            let mut entities = self.entities.iter().map(|watched| &watched.entity);
            entities.any(|entity| entity.covered.number == number && asked.holds(&entity.name))
        };
        let sight = Sight {
            is_asked: &is_asked,
            limits,
            rescoped: RescopedAs::Resync,
        };
        page::check(since, &self.moment, &Evidence::default(), sight)
    }

    /// The cursor of a caller for whom there is nothing new, and the entities that it asks for.
    fn lacks_nothing<'r>(
        &self,
        since: &'r Since,
        asked: &Asked,
        limits: &Limits,
    ) -> Option<(&'r Cursor, Vec<&Watched>)> {
        let Since::Cursor(cursor) = since else {
            return None;
        };
        let Seen::Snapshot(seen) = &cursor.seen else {
            return None;
        };
        let standing = self.standing(since, asked, limits);
        if cursor.pull.is_some() || !matches!(standing, Ok(Standing::Level)) {
            return None;
        }
        let asked = self.asked(asked)?;
        let lacks_nothing = asked.iter().all(|watched| {
            seen.covers(&self.changed(watched, limits).snapshot)
                && !watched
                    .entity
                    .begins_anew(&cursor.seen, &cursor.covered, PurgedAs::Reset)
        });
        lacks_nothing.then_some((cursor, asked))
    }

    /// Whether whoever stands there lacks something; `None` where that cannot be told: of a date, or where more has
    /// been seen than there is here.
    pub(crate) fn lacks(&self, since: &Since, asked: &Asked, limits: &Limits) -> Option<bool> {
        let Since::Cursor(cursor) = since else {
            return None;
        };
        let standing = self.standing(since, asked, limits);
        if matches!(cursor.seen, Seen::Date(_)) || matches!(standing, Ok(Standing::Behind)) {
            return None;
        }
        Some(self.lacks_nothing(since, asked, limits).is_none())
    }

    /// Whether a page with this snapshot holds every change that this view knows of.
    pub fn is_seen_by(&self, snapshot: &Snapshot, asked: &Asked, limits: &Limits) -> bool {
        let is_seen = |watched: &&Watched| snapshot.covers(&self.changed(watched, limits).snapshot);
        self.asked(asked).is_some_and(|asked| asked.iter().all(is_seen))
    }

    /// When what a caller may see of an entity was changed last.
    fn changed<'v>(&'v self, watched: &'v Watched, limits: &Limits) -> &'v Arc<Ground> {
        let number = watched.entity.covered.number;
        let limited = limits
            .of(number)
            .and_then(|scopes| self.scopes.latest(number, scopes));
        limited.unwrap_or(&watched.changed)
    }

    /// The entities asked for; `None` where one of them cannot be served as this view has it.
    pub(super) fn asked(&self, asked: &Asked) -> Option<Vec<&Watched>> {
        let is_asked = |watched: &&Watched| {
            let entity = &watched.entity;
            entity.fault.is_none() && asked.holds(&entity.name)
        };
        let found: Vec<&Watched> = self.entities.iter().filter(is_asked).collect();
        let is_served = |name: &EntityName| found.iter().any(|watched| watched.entity.name == *name);
        asked.needed().iter().all(is_served).then_some(found)
    }

    /// Whether an entity that is asked for has changed since `earlier`, as far as a caller may see it.
    pub(super) fn differs(&self, earlier: &Self, asked: &Asked, limits: &Limits) -> bool {
        let (Some(now), Some(then)) = (self.asked(asked), earlier.asked(asked)) else {
            return true;
        };
        let covered = |asked: &[&Watched]| -> Vec<Covered> {
            asked.iter().map(|watched| watched.entity.covered).collect()
        };
        let is_new = |watched: &&Watched| {
            let changed = self.changed(watched, limits);
            !earlier.moment.snapshot.covers(&changed.snapshot)
        };
        covered(&now) != covered(&then) || now.iter().any(is_new)
    }

    fn trailer(
        &self,
        cursor: &Cursor,
        asked: &[&Watched],
        limits: &Limits,
        last_sync_date: Timestamp,
    ) -> Trailer {
        // Since the latest change of any of them nothing of theirs has changed, so all who lack nothing
        // get the same cursor, whenever they ask and whatever else was committed. They share a page then.
        let changed = asked.iter().map(|watched| self.changed(watched, limits));
        let ground = changed.max_by_key(|ground| ground.look);
        let (seen, wal) = ground.map_or_else(
            || (self.moment.snapshot.clone(), self.moment.stands_on()),
            |ground| (ground.snapshot.clone(), ground.wal),
        );
        let mut next = Cursor {
            source: self.moment.source,
            wal,
            seen: Seen::Snapshot(seen),
            covered: asked.iter().map(|watched| watched.entity.covered).collect(),
            last_sync_date,
            ..cursor.clone()
        };
        next.scope = limits.hash(next.entities());
        next.scopes = limits.remembered(next.entities());
        Trailer {
            next: next.encode(),
            more: false,
            last_sync_date,
            rows: 0,
            entities: asked.iter().map(|watched| watched.entity.name.clone()).collect(),
        }
    }
}
