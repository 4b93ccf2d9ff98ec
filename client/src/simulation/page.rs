//! The pages of a model of exact servers before the source. A server may sit on a standby that lags.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use highwater_shared::{BlockHeader, BlockKind, Column, ColumnRole, EntityName, Timestamp, Trailer};
use serde::{Deserialize, Serialize};

use super::source::{Entity, Row, Source, Teams};
use crate::plan::Ask;

/// What a cursor of the model says. The client must not look into it; the checks of the
/// simulation do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) commit: u64,
    target: Option<u64>,
    position: Option<Position>,
    /// The newest commit that any page so far was read at. A row that changed after the target
    /// drops out of a page and comes later, so nothing older may answer from then on.
    pub(crate) replayed: u64,
    /// The timeline that these commits are of.
    timeline: usize,
    /// What the caller might see when the pull began.
    pub(crate) scope: Teams,
    /// What it might see when all this was seen; in the middle of a pull, before that.
    before: Teams,
    /// Incarnation, and whether the entity's part is a first pull.
    entities: BTreeMap<EntityName, (u64, bool)>,
}

/// The source as a server sees it.
struct Node<'a> {
    now: u64,
    timeline: usize,
    entities: &'a BTreeMap<EntityName, Entity>,
}

/// What an entity's part of a page sends, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Step {
    Reset,
    /// Which teams' rows are left, where the caller may see fewer than before.
    Within,
    Deletes,
    Rows,
    /// The rows of teams that the caller may see now, and might not before.
    Added,
    /// Deletions that were purged, last: one that was purged in the middle of a pull is there by now.
    Purged,
}

impl Step {
    pub(super) const ALL: [Self; 6] = [
        Self::Reset,
        Self::Within,
        Self::Deletes,
        Self::Rows,
        Self::Added,
        Self::Purged,
    ];

    fn block_kind(self) -> BlockKind {
        match self {
            Self::Reset => BlockKind::Reset,
            Self::Within => BlockKind::Within,
            Self::Deletes | Self::Purged => BlockKind::Delete,
            Self::Rows | Self::Added => BlockKind::Upsert,
        }
    }
}

/// Entity, step, commit (0 where all rows are sent), key.
type Position = (EntityName, Step, u64, i64);

struct Item {
    position: Position,
    line: Option<String>,
}

/// A page, and what it sends.
pub(super) struct Page {
    pub(super) body: Bytes,
    pub(super) steps: BTreeSet<Step>,
}

/// The page that a server at the commit `at` answers with, or at a later one: it serves a
/// cursor only when it has replayed it. `Err` names an entity that is not there.
pub(super) fn page(
    source: &Source,
    ask: &Ask,
    scope: &Teams,
    limit: usize,
    at: u64,
) -> Result<Page, EntityName> {
    let mut seen = match &ask.since {
        Some(cursor) => serde_json::from_str(cursor.as_str()).expect("a cursor of ours"),
        None => Seen {
            before: scope.clone(),
            ..Seen::default()
        },
    };
    seen.scope = scope.clone();
    let now = at.max(seen.replayed);
    let node = Node {
        now,
        timeline: source.timeline(),
        entities: source.entities_at(now),
    };
    node.page(ask, limit, seen)
}

impl Seen {
    /// All that these entities hold at a commit, told by a server that has replayed the latest one.
    pub(super) fn all_at(
        commit: u64,
        source: &Source,
        scope: &Teams,
        entities: impl Iterator<Item = (EntityName, u64)>,
    ) -> Self {
        Self {
            commit,
            replayed: source.now(),
            timeline: source.timeline(),
            scope: scope.clone(),
            before: scope.clone(),
            entities: entities
                .map(|(name, incarnation)| (name, (incarnation, false)))
                .collect(),
            ..Self::default()
        }
    }

    /// Whether its commits are of this timeline.
    pub(super) fn is_of(&self, timeline: usize) -> bool {
        self.timeline == timeline
    }

    /// Whether a caller who may see this goes on from it, a change told by rows or not.
    pub(super) fn is_for(&self, scope: &Teams, is_told: bool) -> bool {
        // What was begun is told to the end.
        let is_another = self.target.is_some() && self.scope != *scope;
        !is_another && (self.before == *scope || is_told)
    }

    /// Whether the source keeps all that was seen.
    pub(super) fn is_kept_by(&self, source: &Source) -> bool {
        source.has(self.timeline, self.replayed)
    }

    /// The entities that it covers, with their incarnations.
    pub(super) fn covered(&self) -> impl Iterator<Item = (EntityName, u64)> {
        let entities = self.entities.iter();
        entities.map(|(name, (incarnation, _))| (name.clone(), *incarnation))
    }
}

impl Node<'_> {
    fn page(&self, ask: &Ask, limit: usize, mut seen: Seen) -> Result<Page, EntityName> {
        let asked: BTreeSet<EntityName> = match &ask.entities {
            Some(names) => names.iter().cloned().collect(),
            None => self.entities.keys().cloned().collect(),
        };
        if let Some(unknown) = asked.iter().find(|name| !self.entities.contains_key(*name)) {
            return Err(unknown.clone());
        }
        (seen.replayed, seen.timeline) = (self.now, self.timeline);
        let is_fresh = seen.target.is_none();
        let target = seen.target.unwrap_or(self.now);
        seen.entities.retain(|name, (incarnation, anew)| {
            let unseen_from = if *anew { target } else { seen.commit };
            asked.contains(name)
                && self.entities.get(name).is_some_and(|entity| {
                    entity.incarnation == *incarnation && entity.forgotten <= unseen_from
                })
        });
        if is_fresh {
            for name in &asked {
                if let Some(entity) = self.entities.get(name) {
                    seen.entities
                        .entry(name.clone())
                        .or_insert((entity.incarnation, true));
                }
            }
        }
        let items: Vec<Item> = self
            .items(&seen, target)
            .into_iter()
            .filter(|item| {
                seen.position
                    .as_ref()
                    .is_none_or(|position| item.position > *position)
            })
            .collect();
        let mut room = limit;
        let sent: Vec<&Item> = items
            .iter()
            .take_while(|item| {
                let fits = item.line.is_none() || room > 0;
                room -= usize::from(item.line.is_some() && fits);
                fits
            })
            .collect();
        let is_all = sent.len() == items.len();
        if is_all {
            seen.commit = target;
            seen.target = None;
            seen.position = None;
            seen.before = seen.scope.clone();
            for (_, anew) in seen.entities.values_mut() {
                *anew = false;
            }
        } else {
            seen.target = Some(target);
            seen.position = sent.last().map(|item| item.position.clone()).or(seen.position);
        }
        let more = !(is_all && is_fresh);
        Ok(Page {
            body: self.write(&sent, &seen, &asked, more),
            steps: sent.iter().map(|item| item.position.1).collect(),
        })
    }

    /// What `target` sees and `seen` has not, in the order of the wire.
    fn items(&self, seen: &Seen, target: u64) -> Vec<Item> {
        let mut items = Vec::new();
        let may_see = |row: &Row| seen.scope.contains(&row.team);
        let is_added = |row: &Row| may_see(row) && !seen.before.contains(&row.team);
        for (name, (_, anew)) in &seen.entities {
            let Some(entity) = self.entities.get(name) else {
                continue;
            };
            let mut push = |step, commit, key, line| {
                items.push(Item {
                    position: (name.clone(), step, commit, key),
                    line,
                });
            };
            let rows = entity.rows.iter().filter(|(_, row)| row.commit <= target);
            if *anew {
                push(Step::Reset, 0, 0, None);
                for (key, row) in rows.filter(|(_, row)| may_see(row)) {
                    push(Step::Rows, 0, *key, Some(upsert_line(*key, row, entity.schema)));
                }
                continue;
            }
            if !seen.before.is_subset(&seen.scope) {
                push(Step::Within, 0, 0, None);
            }
            let is_news = |commit: u64| commit > seen.commit && commit <= target;
            for (step, deletions) in [
                (Step::Deletes, &entity.tombstones),
                (Step::Purged, &entity.purged),
            ] {
                for (key, commit) in deletions.iter().filter(|(_, commit)| is_news(**commit)) {
                    push(step, *commit, *key, Some(delete_line(*key, *commit)));
                }
            }
            for (key, row) in rows {
                let line = || Some(upsert_line(*key, row, entity.schema));
                if is_news(row.commit) && may_see(row) {
                    push(Step::Rows, row.commit, *key, line());
                } else if is_news(row.commit) {
                    // The caller may have seen it in another team.
                    push(
                        Step::Deletes,
                        row.commit,
                        *key,
                        Some(delete_line(*key, row.commit)),
                    );
                } else if is_added(row) {
                    push(Step::Added, 0, *key, line());
                }
            }
        }
        items.sort_by(|a, b| a.position.cmp(&b.position));
        items
    }

    fn write(&self, sent: &[&Item], seen: &Seen, asked: &BTreeSet<EntityName>, more: bool) -> Bytes {
        let mut body = String::new();
        let mut open: Option<(&EntityName, Step)> = None;
        for item in sent {
            let (name, step, _, _) = &item.position;
            if open != Some((name, *step)) {
                if open.is_some() {
                    body.push_str("\\.\n");
                }
                open = Some((name, *step));
                let schema = self.entities.get(name).map_or(0, |entity| entity.schema);
                let mut header = header(name, step.block_kind(), schema);
                if *step == Step::Within {
                    header.values = seen.scope.iter().map(u8::to_string).collect();
                }
                body.push_str(&serde_json::to_string(&header).expect("a header"));
                body.push('\n');
            }
            if let Some(line) = &item.line {
                body.push_str(line);
                body.push('\n');
            }
        }
        if open.is_some() {
            body.push_str("\\.\n");
        }
        let trailer = Trailer {
            next: serde_json::to_string(seen).expect("a cursor"),
            more,
            last_sync_date: timestamp(if more { 0 } else { seen.commit }),
            rows: sent.iter().filter(|item| item.line.is_some()).count() as u64,
            entities: asked.iter().cloned().collect(),
        };
        body.push_str(&serde_json::to_string(&trailer).expect("a trailer"));
        body.push('\n');
        Bytes::from(body)
    }
}

/// What a row holds in a column that was added by `alter`.
pub(crate) fn added_value(key: i64, column: u64) -> String {
    format!("{key}+{column}")
}

pub(crate) fn timestamp(commit: u64) -> Timestamp {
    Timestamp::from_micros(i64::try_from(commit).expect("small") * 1_000_000)
}

pub(super) fn upsert_line(key: i64, row: &Row, schema: u64) -> String {
    // Added columns come first, so that a value by place instead of by name would show.
    let added = (1..=schema).map(|column| added_value(key, column));
    let fields: Vec<String> = std::iter::once(key.to_string())
        .chain(added)
        .chain([row.team.to_string(), row.value.clone(), date(row.commit)])
        .collect();
    fields.join("\t")
}

fn delete_line(key: i64, commit: u64) -> String {
    format!("{key}\t{}\tdeleted", date(commit))
}

fn date(commit: u64) -> String {
    let date = timestamp(commit).to_string().replace('T', " ").replace('Z', "");
    format!("{date}+00")
}

pub(super) fn header(entity: &EntityName, kind: BlockKind, schema: u64) -> BlockHeader {
    let column = |name: String, type_name: &str, role| Column {
        name,
        type_name: type_name.to_owned(),
        place: (role == Some(ColumnRole::Key)).then_some(1),
        role,
    };
    let date = column(
        "changed_date".to_owned(),
        "timestamp with time zone",
        Some(ColumnRole::ChangedDate),
    );
    let key = column("id".to_owned(), "bigint", Some(ColumnRole::Key));
    let team = column("team".to_owned(), "smallint", None);
    let columns = match kind {
        BlockKind::Delete => vec![
            key,
            date,
            column("reason".to_owned(), "text", Some(ColumnRole::Reason)),
        ],
        BlockKind::Within => vec![team],
        _ => {
            let added = (1..=schema).map(|added| column(format!("added_{added}"), "text", None));
            let value = column("value".to_owned(), "text", None);
            std::iter::once(key)
                .chain(added)
                .chain([team, value, date])
                .collect()
        }
    };
    BlockHeader {
        version: highwater_shared::block::BLOCK_VERSION,
        entity: entity.clone(),
        kind,
        columns,
        fingerprint: format!("schema-{schema}"),
        values: Vec::new(),
    }
}
