//! Decides what a page sends: which entities, from where, and which begin anew. Pure.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use highwater_shared::ResyncReason;

use super::sql::Range;
use super::{ReadError, Since};
use crate::cursor::{Covered, Cursor, Lsn, Position, Pull, Seen, Source, Step};
use crate::database::{LogEnd, Moment};
use crate::entity::{Entity, Hidden, PurgedAs};
use crate::lineage::Kept;
use crate::scope::{Limits, Rescoped, RescopedAs};
use crate::snapshot::{Snapshot, XIDS_IN_FLIGHT_MAX, Xid};

/// What is said where a database was restored or copied, and its rows bear ids of another.
pub(crate) const MOVED: &str = "this database was restored or copied from another; run `highwater-server rebase` on it, \
    or `rebase --new-id` where the other lives on";

/// What a page is to send.
#[derive(Debug)]
pub(super) struct Plan {
    /// What the caller has seen.
    pub(super) seen: Seen,
    /// The snapshot that the pull leads to.
    pub(super) target: Snapshot,
    /// Whether the page's own snapshot is the target. Then nothing visible is left out, and the
    /// pull may end with this page.
    pub(super) fresh: bool,
    /// The entities that the end of the pull will cover.
    pub(super) pulled: Vec<Covered>,
    /// What is still to be sent, in order.
    pub(super) parts: Vec<Part>,
}

impl Plan {
    /// What bounds the statements of the page.
    pub(super) fn bound(&self) -> Option<&Snapshot> {
        (!self.fresh).then_some(&self.target)
    }

    /// What the caller has seen when all parts have been sent to their end.
    pub(super) fn seen_at_end(&self) -> Snapshot {
        match &self.seen {
            Seen::Snapshot(seen) if !self.fresh => seen.union(&self.target),
            Seen::Snapshot(_) | Seen::Date(_) => self.target.clone(),
        }
    }
}

/// An entity's part of a page.
#[derive(Debug)]
pub(super) struct Part {
    /// The entity's place in the list it was planned from.
    pub(super) entity: usize,
    /// Whether it begins anew.
    pub(super) anew: bool,
    /// Where it goes on, when earlier pages have sent some of it.
    pub(super) from: Option<Position>,
    /// Where keys lie of deletions that were purged and that the caller has not seen.
    pub(super) purged: Vec<Range>,
    /// What has become of the scopes in which the caller has seen something.
    pub(super) rescoped: Rescoped,
}

impl Part {
    /// All of an entity's part, for the holder of a cursor or for who has none.
    fn new(place: usize, entity: &Entity, anew: bool, cursor: Option<&Cursor>, limits: &Limits) -> Self {
        let number = entity.covered.number;
        // What begins anew is told whole.
        let cursor = cursor.filter(|_| !anew);
        let purged = match (&entity.purged, cursor.map(|cursor| &cursor.seen)) {
            (Some(purged), Some(Seen::Snapshot(seen))) => purged.hidden_from(seen),
            _ => Vec::new(),
        };
        let range = |hidden| match hidden {
            Hidden::Xid(xid) => Range::Xid(xid),
            Hidden::From(xid) => Range::From(xid),
        };
        let rescoped = cursor.map(|cursor| cursor.scopes.rescoped(number, limits.of(number)));
        Self {
            entity: place,
            anew,
            from: None,
            purged: purged.into_iter().map(range).collect(),
            rescoped: rescoped.unwrap_or_default(),
        }
    }

    /// Whether more is to be told than what has changed.
    pub(super) fn tells_more(&self) -> bool {
        self.anew || !self.purged.is_empty() || self.rescoped != Rescoped::default()
    }
}

/// What the caller had before the pull, as far as it concerns single entities.
pub(super) fn seen(since: &Since) -> (Seen, &[Covered]) {
    match since {
        Since::Nothing => (Seen::Snapshot(Snapshot::nothing()), &[]),
        Since::Date(date) => (Seen::Date(*date), &[]),
        Since::Cursor(cursor) => (cursor.seen.clone(), &cursor.covered),
    }
}

/// What is asked of Postgres where a cursor's place in its history is in question.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Where the cursor's timeline ended, if it is known to be an earlier one of the same history.
    pub(crate) timeline_end: Option<Lsn>,
    /// The end of the ids that a primary has given out.
    pub(crate) ids_end: Option<Xid>,
    /// What a mark tells of a cursor of the database whose dump this one was restored from, or of an earlier timeline.
    pub(crate) kept: Option<Kept>,
}

/// How a Postgres stands to a cursor of its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has all that the cursor has seen.
    Level,
    /// It will have it: a standby that lags, or a primary whose standby shows a commit that it still waits to
    /// complete itself.
    Behind,
}

/// What a caller asks for, and how it is told where it may see other rows of that than before.
#[derive(Clone, Copy)]
pub(crate) struct Sight<'a> {
    /// Whether the entity with this number is asked for.
    pub(crate) is_asked: &'a dyn Fn(i32) -> bool,
    pub(crate) limits: &'a Limits,
    pub(crate) rescoped: RescopedAs,
}

impl Sight<'_> {
    /// Whether this cursor can be answered by one who may see what its holder could, or is told of a change.
    fn serves(self, cursor: &Cursor) -> bool {
        // An entity that is not asked for, or is none any more, is left out of what comes. One that was withheld may be
        // none of the caller's business, which no rows tell.
        let concerned = || {
            let numbers = cursor.entities();
            numbers.filter(|number| (self.is_asked)(*number) || self.limits.forbids(*number))
        };
        let follows = || cursor.remembers_scopes() && self.limits.follows(&cursor.scopes, concerned());
        let is_as = || self.limits.is_as(&cursor.scopes, concerned());
        let is_told = || self.rescoped == RescopedAs::Rows && cursor.is_of_a_snapshot() && follows();
        let is_same = cursor.scope == self.limits.hash(cursor.entities());
        match &cursor.pull {
            None => is_same || (follows() && is_as()) || is_told(),
            // What was begun to be told by rows is told so to the end, and of one change at a time.
            Some(_) => is_same && (is_as() || is_told()),
        }
    }
}

/// Refuses a cursor that this database, as it is now, can never serve.
pub(crate) fn check(
    since: &Since,
    moment: &Moment,
    evidence: &Evidence,
    sight: Sight<'_>,
) -> Result<Standing, ReadError> {
    if moment.moved {
        return Err(ReadError::Unavailable(MOVED.to_owned()));
    }
    if moment.snapshot.in_flight().len() > XIDS_IN_FLIGHT_MAX {
        return Err(ReadError::Unavailable(format!(
            "more than {XIDS_IN_FLIGHT_MAX} transactions are in flight; try again when some have ended"
        )));
    }
    match since {
        Since::Cursor(cursor) => check_cursor(cursor, moment, evidence, sight),
        Since::Nothing | Since::Date(_) => Ok(Standing::Level),
    }
}

/// Refuses a cursor that this database can never serve.
pub(super) fn check_cursor(
    cursor: &Cursor,
    moment: &Moment,
    evidence: &Evidence,
    sight: Sight<'_>,
) -> Result<Standing, ReadError> {
    let resync = |reason, earlier| Err(ReadError::Resync { reason, earlier });
    let another = resync(ResyncReason::SourceChanged, false);
    let source = Source {
        timeline: moment.source.timeline,
        ..cursor.source
    };
    let is_restored = source != moment.source;
    if is_restored {
        let is_heir = cursor.source.own_id == moment.source.own_id;
        match evidence.kept.filter(|_| is_heir) {
            Some(Kept::All) => {}
            Some(Kept::NotAll) => return resync(ResyncReason::SourceChanged, true),
            None => return another,
        }
    }
    if !sight.serves(cursor) {
        return resync(ResyncReason::ScopeChanged, false);
    }
    if is_restored {
        // A standby may not yet know that ids of a later era have begun.
        let covers = cursor.snapshots().all(|seen| moment.snapshot.covers(seen));
        return Ok(if covers { Standing::Level } else { Standing::Behind });
    }
    let is_standby = matches!(moment.log, LogEnd::Standby { .. });
    match cursor.source.timeline.cmp(&moment.source.timeline) {
        Ordering::Equal => {}
        // A promotion that kept all that the cursor has seen goes on with the same history.
        Ordering::Less if evidence.timeline_end.is_some_and(|end| cursor.wal < end) => {}
        Ordering::Less if evidence.kept == Some(Kept::All) => {}
        // One that lost some of it kept what its holder had seen before.
        Ordering::Less if evidence.timeline_end.is_some() || evidence.kept.is_some() => {
            return resync(ResyncReason::SourceChanged, true);
        }
        // A standby learns late that it follows a promotion.
        Ordering::Greater if is_standby => return Ok(Standing::Behind),
        Ordering::Less | Ordering::Greater => return another,
    }
    // The log and the ids only grow while the history is one. A disk that was put back shows in one of
    // the two, until it has caught up with both; hence `rebase`.
    if let LogEnd::Primary { written, .. } = moment.log
        && cursor.wal > written
    {
        return another;
    }
    if moment.has(cursor) {
        return Ok(Standing::Level);
    }
    if is_standby {
        return Ok(Standing::Behind);
    }
    match evidence.ids_end {
        Some(end) if cursor.snapshots().all(|seen| seen.xmax() <= end) => Ok(Standing::Behind),
        _ => another,
    }
}

/// Plans a page over `entities`, which are in the order of their numbers.
pub(super) fn plan(
    since: &Since,
    entities: &[Entity],
    own: &Snapshot,
    limits: &Limits,
    purged: PurgedAs,
    is_truncated: impl Fn(i32) -> bool,
) -> Plan {
    let (seen, covered) = seen(since);
    let begins_anew =
        |entity: &Entity| entity.begins_anew(&seen, covered, purged) || is_truncated(entity.covered.number);
    let cursor = match since {
        Since::Cursor(cursor) => Some(&**cursor),
        Since::Nothing | Since::Date(_) => None,
    };
    if let Some(cursor) = cursor
        && let Some(pull) = &cursor.pull
    {
        return go_on(cursor, pull, entities, limits, begins_anew);
    }
    let begin =
        |(place, entity): (usize, &Entity)| Part::new(place, entity, begins_anew(entity), cursor, limits);
    Plan {
        parts: entities.iter().enumerate().map(begin).collect(),
        seen: seen.clone(),
        target: own.clone(),
        fresh: true,
        pulled: entities.iter().map(|entity| entity.covered).collect(),
    }
}

/// Plans a later page of a pull.
fn go_on(
    cursor: &Cursor,
    pull: &Pull,
    entities: &[Entity],
    limits: &Limits,
    begins_anew: impl Fn(&Entity) -> bool,
) -> Plan {
    let Pull {
        target,
        pulled,
        position,
    } = pull;
    let mut plan = Plan {
        seen: cursor.seen.clone(),
        target: target.clone(),
        fresh: false,
        pulled: Vec::new(),
        parts: Vec::new(),
    };
    for (place, entity) in entities.iter().enumerate() {
        let number = entity.covered.number;
        let anew = begins_anew(entity);
        let begun = number == position.entity;
        let Some(promised) = pulled.iter().find(|covered| covered.number == number) else {
            continue;
        };
        if number < position.entity {
            // Sent whole. Where it has changed its incarnation since, the old one is what stays
            // promised, and so the next round begins it anew.
            plan.pulled.push(*promised);
        } else if *promised != entity.covered || begun && anew && position.step != Step::Anew {
            // What was sent of it no longer adds up; left uncovered, it begins anew in the
            // next round.
        } else {
            plan.pulled.push(*promised);
            let anew = if begun { position.step == Step::Anew } else { anew };
            plan.parts.push(Part {
                from: begun.then(|| position.clone()),
                ..Part::new(place, entity, anew, Some(cursor), limits)
            });
        }
    }
    plan
}
