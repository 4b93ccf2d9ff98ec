//! What a page, and a whole pull, did to the store.

use std::time::Duration;

use highwater_shared::{EntityName, Timestamp};

use crate::sync_helper::Cursor;

/// A page that was applied and committed. Readers of the store see it when this is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageApplied {
    /// Where the store now stands.
    pub cursor: Cursor,
    /// Whether the pull goes on; if not, the store is at one consistent cut of the source.
    pub more: bool,
    /// The date up to which nothing is missing, once `more` is false.
    pub last_sync_date: Timestamp,
    /// Rows that came, new or changed.
    pub rows: u64,
    /// Rows that are gone: keys that came, and rows of an entity that began anew which did not come again.
    pub deleted: u64,
    /// What changed for readers, by entity; entities of which nothing came are left out.
    pub entities: Vec<EntityApplied>,
    /// Entities that the server offered until now, and no longer does.
    pub withdrawn: Vec<EntityName>,
}

/// What changed for readers in one entity.
///
/// An entity that begins anew changes for readers all at once, when its pull ends; until then
/// its counts are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntityApplied {
    /// The entity, and the name of its table.
    pub entity: EntityName,
    /// Rows written, new or changed.
    pub upserts: u64,
    /// Rows removed, or flagged where deleted rows are kept.
    pub deletes: u64,
    /// Indexes, triggers and columns of the user's that did not fit new columns, and are gone.
    pub dropped: Vec<String>,
    /// Views of the user's that could be read before columns changed, and no longer can. They are
    /// kept as they were.
    pub broken: Vec<String>,
}

impl EntityApplied {
    pub(crate) fn new(entity: EntityName) -> Self {
        Self {
            entity,
            upserts: 0,
            deletes: 0,
            dropped: Vec::new(),
            broken: Vec::new(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.upserts += other.upserts;
        self.deletes += other.deletes;
        self.dropped.extend_from_slice(&other.dropped);
        self.broken.extend_from_slice(&other.broken);
    }
}

/// What a pull did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullReport {
    /// Rows that came, new or changed.
    pub rows: u64,
    /// Rows that are gone: keys that came, and rows of an entity that began anew which did not come again.
    pub deleted: u64,
    /// Pages that were applied.
    pub pages: u64,
    /// Bytes of the bodies that arrived, those of attempts that failed included.
    pub bytes: u64,
    /// Attempts that failed and were made again.
    pub retries: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// What changed for readers, by entity.
    pub entities: Vec<EntityApplied>,
    /// Entities that the server offered until now, and no longer does.
    pub withdrawn: Vec<EntityName>,
}

impl PullReport {
    pub(crate) fn add(&mut self, page: &PageApplied) {
        self.rows += page.rows;
        self.deleted += page.deleted;
        self.pages += 1;
        self.withdrawn.extend_from_slice(&page.withdrawn);
        for entity in &page.entities {
            match self
                .entities
                .iter_mut()
                .find(|known| known.entity == entity.entity)
            {
                Some(known) => known.add(entity),
                None => self.entities.push(entity.clone()),
            }
        }
    }
}
