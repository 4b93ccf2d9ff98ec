//! Sends a page: its rows in their order, and the trailer with the cursor that they lead to.

use std::cmp::Ordering;

use highwater_shared::{Timestamp, Trailer};
use tokio::time::Instant;

use super::delta::{Delta, ScopeDelta};
use super::open::OpenPage;
use super::plan::{Part, Plan};
use super::rows::{self, Budget, End};
use super::sql::{self, InScope, Range};
use super::{Output, ReadError, Since};
use crate::cursor::{After, Cursor, Lsn, Position, Pull, Seen, Step};
use crate::database::sqlstate;
use crate::entity::{Entity, Fault};
use crate::limit::Limit;
use crate::node::Node;
use crate::samples::Samples;
use crate::scope::Remembered;

/// Postgres' code for bytes that are no text.
const NOT_UTF8: &str = "22021";

impl OpenPage {
    /// Sends the page to its end, or to where it fails: then its reader sees it cut off.
    pub async fn send(mut self, node: &Node, samples: &Samples, mut out: Output) {
        let bounds = self.request.bounds;
        let mut budget = Budget {
            rows_left: self.request.limit.max(1),
            rows: 0,
            bytes_max: bounds.bytes_max,
            until: Instant::now() + bounds.time_max,
            newest: Vec::new(),
        };
        let mut begun = Vec::new();
        let sent = self.send_rows(node, &mut budget, &mut begun, &mut out).await;
        self.count(node, &begun, &budget, &out);
        let result = match sent {
            Ok(full) => self.close(node, full.as_ref()).await.map(|()| {
                let position = full.map(|(position, _)| position);
                self.trailer(position, &budget, samples)
            }),
            Err(error) => Err(error),
        };
        match result {
            Ok(trailer) => out.finish(&trailer).await,
            Err(error) => {
                if let Some(limit) = error.limit() {
                    node.metrics.reached(limit);
                }
                if let ReadError::Fault { covered, fault } = &error {
                    node.catalog.leave_out(covered, fault);
                }
                out.fail(error);
            }
        }
        let format = self.request.format;
        node.metrics.page_read(format, self.moment.taken.elapsed());
    }

    /// Sends rows until they end or the page is full, and then tells where and how. `begun` is told of
    /// each part where it begins.
    async fn send_rows(
        &mut self,
        node: &Node,
        budget: &mut Budget,
        begun: &mut Vec<Begun>,
        out: &mut Output,
    ) -> Result<Option<(Position, End)>, ReadError> {
        for part in &self.plan.parts {
            let Some(entity) = self.entities.get(part.entity) else {
                continue;
            };
            begun.push(Begun {
                entity: part.entity,
                rows: budget.rows,
                bytes: out.written(),
            });
            let number = entity.covered.number;
            let all = self.limits.of(number);
            for (step, scopes) in steps(part, self.delta.get(&number), all) {
                if step == Step::Anew && part.from.is_none() {
                    out.reset(entity).await?;
                }
                if step == Step::Tombstones && part.from.is_none() && part.rescoped.lost {
                    out.within(entity, all.unwrap_or_default()).await?;
                }
                out.begin_block(entity, sql::kind(step))?;
                for (place, ranges) in scopes {
                    let Entry::Open(at) = resumed(part, step, place) else {
                        continue;
                    };
                    let mut at = at.cloned();
                    let scope = in_scope(all, place);
                    for range in &ranges {
                        let Entry::Open(after) = entry(range, at.as_ref()) else {
                            continue;
                        };
                        let part = sql::Part {
                            entity,
                            step,
                            scope,
                            range,
                            after,
                            target: self.plan.bound(),
                            next_xid: self.moment.next_xid,
                            only: None,
                        };
                        // A cursor with a NUL was not made here.
                        let statement = sql::statement(part, self.request.format, budget.rows_left + 1)
                            .map_err(|_| ReadError::BadPosition)?;
                        let connection = self.connection.get()?;
                        let (end, last) = rows::pass(connection, &statement, budget, &node.coalescing, out)
                            .await
                            .map_err(|error| blame(error, entity, step, after))?;
                        at = last.or(at);
                        if end != End::Complete {
                            out.end_block().await?;
                            let position = Position {
                                entity: number,
                                step,
                                scope: number_of(place),
                                after: at,
                            };
                            return Ok(Some((position, end)));
                        }
                    }
                }
                out.end_block().await?;
            }
        }
        Ok(None)
    }

    /// Counts what was sent of each entity, by where the parts of the page began.
    fn count(&self, node: &Node, begun: &[Begun], budget: &Budget, out: &Output) {
        let ends = begun.iter().skip(1).map(|next| (next.rows, next.bytes));
        let ends = ends.chain([(budget.rows, out.written())]);
        for (begun, (rows, bytes)) in begun.iter().zip(ends) {
            let (rows, bytes) = (rows - begun.rows, bytes - begun.bytes);
            if bytes > 0
                && let Some(entity) = self.entities.get(begun.entity)
            {
                let format = self.request.format;
                node.metrics.entity_read(&entity.name, format, rows, bytes);
            }
        }
    }

    /// Ends the transaction, and waits until all that its snapshot has seen is on disk.
    pub(super) async fn close(
        &mut self,
        node: &Node,
        full: Option<&(Position, End)>,
    ) -> Result<(), ReadError> {
        let mut connection = std::mem::take(&mut self.connection);
        let limit = match full {
            Some((_, End::Abandoned(limit))) => Some(*limit),
            Some((_, End::Full)) => Some(Limit::PageRowsMax),
            Some((_, End::Complete)) | None => None,
        };
        if let Some(limit) = limit {
            node.metrics.reached(limit);
        }
        if matches!(full, Some((_, End::Abandoned(_)))) {
            // Let go of first: a page that held one connection while it waits for another could
            // wait for ever in a full pool.
            drop(connection);
            connection = node.connect().await?;
        } else {
            connection.end().await?;
        }
        connection.flushed(&self.moment).await?;
        connection.give_back();
        Ok(())
    }

    pub(super) fn trailer(&self, full: Option<Position>, budget: &Budget, samples: &Samples) -> Trailer {
        let (sent, before) = match &self.request.since {
            Since::Nothing => (Timestamp::EPOCH, Timestamp::EPOCH),
            Since::Date(date) => (*date, *date),
            Since::Cursor(cursor) => (cursor.last_sync_date, cursor.newest),
        };
        let here = std::str::from_utf8(&budget.newest)
            .ok()
            .and_then(Timestamp::from_postgres);
        let newest = here.map_or(before, |here| here.max(before));
        let more = full.is_some() || !self.plan.fresh;
        let last_sync_date = if more {
            sent
        } else {
            samples.last_sync_date(&self.moment, sent, newest)
        };
        let (covered, stood_on) = match &self.request.since {
            Since::Cursor(cursor) => (cursor.covered.clone(), cursor.wal),
            Since::Nothing | Since::Date(_) => (Vec::new(), Lsn(0)),
        };
        let Plan {
            seen, target, pulled, ..
        } = &self.plan;
        let (seen, covered, pull) = match full {
            Some(position) => {
                let pull = Pull {
                    target: target.clone(),
                    pulled: pulled.clone(),
                    position,
                };
                (seen.clone(), covered, Some(pull))
            }
            None => (Seen::Snapshot(self.plan.seen_at_end()), pulled.clone(), None),
        };
        // In the middle of a pull it goes on from what was seen in the scopes from before.
        let before = match &self.request.since {
            Since::Cursor(cursor) if pull.is_some() => cursor.scopes.clone(),
            _ => Remembered::default(),
        };
        let mut cursor = Cursor {
            source: self.moment.source,
            scope: 0,
            scopes: Remembered::default(),
            wal: self.moment.stands_on().max(stood_on),
            seen,
            covered,
            last_sync_date,
            newest,
            pull,
        };
        cursor.scope = self.limits.hash(cursor.entities());
        cursor.scopes = before.with(self.limits.remembered(cursor.entities()));
        Trailer {
            next: cursor.encode(),
            more,
            last_sync_date,
            rows: budget.rows,
            entities: self.entities.iter().map(|entity| entity.name.clone()).collect(),
        }
    }
}

/// Where a part of a page begins.
struct Begun {
    /// The place of its entity.
    entity: usize,
    /// What had been sent before.
    rows: u64,
    bytes: u64,
}

/// What a step walks: ranges, by the place of their scope.
pub(super) type Walk = Vec<(usize, Vec<Range>)>;

/// The steps of a part that are still to be taken, with what each walks.
pub(super) fn steps(part: &Part, delta: Option<&Delta>, limited: Option<&[String]>) -> Vec<(Step, Walk)> {
    if part.anew {
        // In the order of the key where all is sent; a scope has no index for that.
        let walk = limited.map_or_else(
            || vec![(0, vec![Range::Key])],
            |all| (0..all.len()).map(|place| (place, vec![Range::Scope])).collect(),
        );
        return vec![(Step::Anew, walk)];
    }
    // Of a scope that was added nothing is there yet.
    let added = &part.rescoped.added;
    let walk = |of: fn(&ScopeDelta) -> &Vec<Range>| -> Walk {
        let scopes = delta.into_iter().flat_map(|delta| &delta.scopes);
        let scopes = scopes.filter(|(place, _)| !added.contains(place));
        scopes.map(|(place, delta)| (*place, of(delta).clone())).collect()
    };
    let mut rows = walk(|delta| &delta.rows);
    rows.extend(added.iter().map(|place| (*place, vec![Range::Scope])));
    rows.sort_by_key(|(place, _)| *place);
    let from = part.from.as_ref().map_or(Step::Tombstones, |from| from.step);
    let scopes = if part.purged.is_empty() {
        0
    } else {
        limited.map_or(1, <[String]>::len)
    };
    let purged = (0..scopes)
        .filter(|place| !added.contains(place))
        .map(|place| (place, part.purged.clone()));
    let purged = purged.collect();
    [
        (Step::Tombstones, walk(|delta| &delta.tombstones)),
        (Step::Flagged, walk(|delta| &delta.flagged)),
        (Step::Rows, rows),
        (Step::Purged, purged),
    ]
    .into_iter()
    .filter(|(step, _)| *step >= from)
    .collect()
}

/// The scope in which a walk is, by its place among all that the caller may see.
pub(super) fn in_scope(all: Option<&[String]>, place: usize) -> Option<InScope<'_>> {
    let all = all?;
    let value = all.get(place)?;
    Some(InScope { value, all })
}

fn number_of(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// Where a step is entered in a scope, when earlier pages have sent some of the part.
pub(super) fn resumed(part: &Part, step: Step, place: usize) -> Entry<'_> {
    let Some(from) = part.from.as_ref().filter(|from| from.step == step) else {
        return Entry::Open(None);
    };
    match number_of(place).cmp(&from.scope) {
        Ordering::Less => Entry::Passed,
        Ordering::Equal => Entry::Open(from.after.as_ref()),
        Ordering::Greater => Entry::Open(None),
    }
}

/// Where something is entered, when the page stands at a row.
pub(super) enum Entry<'a> {
    /// At its start, or after a row in it.
    Open(Option<&'a After>),
    /// Not at all: it lies behind.
    Passed,
}

/// Where a range is entered, when the page stands `at` a row of its step.
pub(super) fn entry<'a>(range: &Range, at: Option<&'a After>) -> Entry<'a> {
    let Some(after) = at else { return Entry::Open(None) };
    match range {
        Range::Xid(xid) if after.order > xid.0 => Entry::Passed,
        Range::Xid(xid) | Range::From(xid) if after.order < xid.0 => Entry::Open(None),
        Range::Key | Range::Date(_) | Range::Xid(_) | Range::From(_) | Range::Scope => {
            Entry::Open(Some(after))
        }
    }
}

/// A value that Postgres cannot read, in a statement that takes up a position, came from the
/// cursor. In one that reads tombstones it may be a key from before its type was changed.
pub(super) fn blame(error: ReadError, entity: &Entity, step: Step, after: Option<&After>) -> ReadError {
    let ReadError::Postgres(error) = error else {
        return error;
    };
    let is_position = after.is_none_or(|after| {
        let [number] = after.key.as_slice() else {
            return false;
        };
        number.parse::<i64>().is_ok()
    });
    if !is_bad_value(&error) {
        ReadError::Postgres(error)
    } else if sqlstate(&error).as_deref() == Some(NOT_UTF8) {
        ReadError::Unavailable(format!(
            "a text of {} is none in UTF-8, in which all texts are sent ({error}); mend it, or hide the column: the database \
             takes texts of all encodings",
            entity.table
        ))
    } else if step.is_buried() && is_position {
        tracing::warn!(%error, entity = %entity.name, "a tombstone cannot be read");
        let table = entity.table.clone();
        ReadError::Fault {
            covered: entity.covered,
            fault: Fault::TombstoneUnread { table },
        }
    } else if after.is_some() {
        ReadError::BadPosition
    } else {
        ReadError::Postgres(error)
    }
}

fn is_bad_value(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| code.starts_with("22") || code.starts_with("42"))
}
