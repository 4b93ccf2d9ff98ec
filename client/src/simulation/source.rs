//! A model of the source: commits are numbered one by one, and a snapshot is the number of the last commit it sees.
//! A standby that is promoted loses the commits that had not reached it, whose numbers are given again.

use std::collections::{BTreeMap, BTreeSet};

use highwater_shared::EntityName;

/// The rows of an entity: key to value.
pub(crate) type Rows = BTreeMap<i64, String>;

/// What a caller may see: the rows of these teams.
pub(crate) type Teams = BTreeSet<u8>;

/// How many teams there are, numbered from 0.
pub(super) const TEAMS: u8 = 3;

#[derive(Clone, Debug)]
pub(super) struct Row {
    /// The commit that wrote it.
    pub(super) commit: u64,
    pub(super) team: u8,
    /// It begins with the team's number.
    pub(super) value: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Entity {
    pub(super) incarnation: u64,
    /// Columns that the application added; the fingerprint goes with it.
    pub(super) schema: u64,
    pub(super) rows: BTreeMap<i64, Row>,
    /// By key the commit that deleted the row.
    pub(super) tombstones: BTreeMap<i64, u64>,
    /// The same of deletions that were purged.
    pub(super) purged: BTreeMap<i64, u64>,
    /// The latest deletion of which not even the key was kept.
    pub(super) forgotten: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) id: String,
    now: u64,
    incarnations: u64,
    entities: BTreeMap<EntityName, Entity>,
    /// What every commit left behind.
    history: Vec<BTreeMap<EntityName, Entity>>,
    /// The commits at which earlier timelines ended.
    ends: Vec<u64>,
}

impl Source {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            history: vec![BTreeMap::new()],
            ..Self::default()
        }
    }

    pub(crate) fn names(&self) -> Vec<EntityName> {
        self.entities.keys().cloned().collect()
    }

    /// The entities as the commit left them.
    pub(super) fn entities_at(&self, commit: u64) -> &BTreeMap<EntityName, Entity> {
        &self.history[usize::try_from(commit).expect("small")]
    }

    /// The rows of these teams as the commit left them.
    pub(crate) fn rows_at(&self, commit: u64, entity: &EntityName, scope: &Teams) -> Option<Rows> {
        let entities = self.history.get(usize::try_from(commit).ok()?)?;
        let rows = entities.get(entity)?.rows.iter();
        let rows = rows.filter(|(_, row)| scope.contains(&row.team));
        Some(rows.map(|(key, row)| (*key, row.value.clone())).collect())
    }

    /// The keys that were live in these teams at every commit from `commit` on.
    pub(crate) fn keys_live_since(&self, commit: u64, entity: &EntityName, scope: &Teams) -> Vec<i64> {
        let rows = self.rows_at(commit, entity, scope).unwrap_or_default();
        rows.into_keys()
            .filter(|key| {
                (commit..=self.now).all(|commit| {
                    let entity = self.entities_at(commit).get(entity);
                    let row = entity.and_then(|entity| entity.rows.get(key));
                    row.is_some_and(|row| scope.contains(&row.team))
                })
            })
            .collect()
    }

    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    pub(crate) fn enable(&mut self, entity: &EntityName) {
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let known = self.entities.entry(entity.clone()).or_default();
        known.incarnation = incarnation;
        self.commit();
    }

    pub(crate) fn disable(&mut self, entity: &EntityName) {
        self.entities.remove(entity);
        self.commit();
    }

    /// A standby takes over that had replayed this commit.
    pub(crate) fn promote(&mut self, at: u64) {
        self.history.truncate(usize::try_from(at).expect("small") + 1);
        self.entities = self.entities_at(at).clone();
        self.ends.push(at);
        self.now = at;
    }

    /// How many promotions there were.
    pub(crate) fn timeline(&self) -> usize {
        self.ends.len()
    }

    /// Whether what a timeline had at a commit was kept.
    pub(super) fn has(&self, timeline: usize, commit: u64) -> bool {
        self.ends.iter().skip(timeline).all(|end| commit <= *end)
    }

    pub(crate) fn upsert(&mut self, entity: &EntityName, key: i64, team: u8) {
        let (commit, timeline) = (self.now + 1, self.timeline());
        if let Some(entity) = self.entities.get_mut(entity) {
            let value = format!("{team}:{key}@{timeline}.{commit}");
            entity.rows.insert(key, Row { commit, team, value });
            entity.tombstones.remove(&key);
            entity.purged.remove(&key);
        }
        self.commit();
    }

    pub(crate) fn delete(&mut self, entity: &EntityName, key: i64) {
        let commit = self.now + 1;
        if let Some(entity) = self.entities.get_mut(entity)
            && entity.rows.remove(&key).is_some()
        {
            entity.tombstones.insert(key, commit);
        }
        self.commit();
    }

    pub(crate) fn truncate(&mut self, entity: &EntityName) {
        if let Some(known) = self.entities.get_mut(entity) {
            known.rows.clear();
            known.tombstones.clear();
            known.purged.clear();
        }
        // A truncate leaves no tombstones, so whoever has not seen it begins anew.
        self.enable(entity);
    }

    /// Removes all deletions, and keeps their keys apart, or forgets them with those that were kept.
    pub(crate) fn purge(&mut self, entity: &EntityName, keeps_keys: bool) {
        if let Some(entity) = self.entities.get_mut(entity) {
            let tombstones = std::mem::take(&mut entity.tombstones);
            entity.purged.extend(tombstones);
            if !keeps_keys {
                let newest = std::mem::take(&mut entity.purged).into_values().max();
                entity.forgotten = newest.unwrap_or(entity.forgotten);
            }
        }
        self.commit();
    }

    /// Adds a column, with a value in every row and without stamping one.
    pub(crate) fn alter(&mut self, entity: &EntityName) {
        if let Some(entity) = self.entities.get_mut(entity) {
            entity.schema += 1;
        }
        self.commit();
    }

    fn commit(&mut self) {
        self.now += 1;
        self.history.push(self.entities.clone());
    }
}
