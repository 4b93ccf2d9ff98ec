//! What the watcher knows of the source at one moment, and what follows for a caller. Pure.

use std::sync::Arc;

use highwater_shared::{EntityName, Trailer};

use crate::cursor::{Cursor, Lsn, Seen};
use crate::database::Moment;
use crate::entity::Entity;
use crate::page::{self, Evidence, NO_SCOPE, PageRequest, Since, Standing};
use crate::samples::Samples;
use crate::snapshot::Snapshot;

/// The source at one moment.
#[derive(Debug)]
pub struct View {
    pub(super) moment: Moment,
    /// By number.
    pub(super) entities: Vec<Watched>,
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
    pub(super) snapshot: Snapshot,
    /// The last byte of the log that it may stand on.
    pub(super) wal: Lsn,
}

impl View {
    /// The answer to a caller for whom there is nothing new; `None` where there may be something,
    /// or where only a page can tell.
    pub fn nothing_new(&self, request: &PageRequest, samples: &Samples) -> Option<Trailer> {
        let Since::Cursor(cursor) = &request.since else {
            return None;
        };
        let Seen::Snapshot(seen) = &cursor.seen else {
            return None;
        };
        let standing = page::check(&request.since, &self.moment, &Evidence::default(), NO_SCOPE);
        if cursor.pull.is_some() || !matches!(standing, Ok(Standing::Level)) {
            return None;
        }
        let asked = self.asked(request.entities.as_deref())?;
        let lacks_nothing = asked.iter().all(|watched| {
            seen.covers(&watched.changed.snapshot)
                && !watched.entity.begins_anew(&cursor.seen, &cursor.covered)
        });
        lacks_nothing.then(|| self.trailer(cursor, &asked, samples))
    }

    /// Whether a page with this snapshot holds every change that this view knows of.
    pub fn is_seen_by(&self, snapshot: &Snapshot, names: Option<&[EntityName]>) -> bool {
        let asked = self.asked(names);
        asked.is_some_and(|asked| {
            asked
                .iter()
                .all(|watched| snapshot.covers(&watched.changed.snapshot))
        })
    }

    /// The entities asked for; `None` where one of them cannot be served as this view has it.
    pub(super) fn asked(&self, names: Option<&[EntityName]>) -> Option<Vec<&Watched>> {
        let is_asked = |watched: &&Watched| {
            let entity = &watched.entity;
            entity.fault.is_none() && names.is_none_or(|names| names.contains(&entity.name))
        };
        let asked: Vec<&Watched> = self.entities.iter().filter(is_asked).collect();
        let is_served = |name: &EntityName| asked.iter().any(|watched| watched.entity.name == *name);
        names.unwrap_or_default().iter().all(is_served).then_some(asked)
    }

    /// Whether an entity that is asked for has changed since `earlier`.
    pub(super) fn differs(&self, earlier: &Self, names: Option<&[EntityName]>) -> bool {
        let state = |view: &Self| {
            view.asked(names).map(|asked| {
                let each = |watched: &&Watched| (watched.entity.covered, Arc::clone(&watched.changed));
                asked.iter().map(each).collect::<Vec<_>>()
            })
        };
        state(self) != state(earlier)
    }

    fn trailer(&self, cursor: &Cursor, asked: &[&Watched], samples: &Samples) -> Trailer {
        let last_sync_date = samples.last_sync_date(&self.moment, cursor.last_sync_date, cursor.newest);
        // Since the latest change of any of them nothing of theirs has changed, so all who lack nothing
        // get the same cursor, whenever they ask and whatever else was committed. They share a page then.
        let changed = asked.iter().map(|watched| &watched.changed);
        let ground = changed.max_by_key(|ground| (ground.snapshot.xmax(), ground.snapshot.xmin()));
        let (seen, wal) = ground.map_or_else(
            || (self.moment.snapshot.clone(), self.moment.stands_on()),
            |ground| (ground.snapshot.clone(), ground.wal),
        );
        let next = Cursor {
            source: self.moment.source,
            wal,
            seen: Seen::Snapshot(seen),
            covered: asked.iter().map(|watched| watched.entity.covered).collect(),
            last_sync_date,
            ..cursor.clone()
        };
        Trailer {
            next: next.encode(),
            more: false,
            last_sync_date,
            rows: 0,
            entities: asked.iter().map(|watched| watched.entity.name.clone()).collect(),
        }
    }
}
