//! Decides what to compare: all parts of all entities, then smaller parts of those that differ, then
//! the keys in them.
//!
//! Each question is answered on both sides at once: the source scans its tables while the store
//! scans its own. Every answer names what the store's cursor has not seen the last of, and that is
//! taken out on this side; so any question may be asked at any time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use backon::ExponentialBuilder;
use highwater_shared::digests::PARTS_BITS_MAX;
use highwater_shared::{DigestsOf, DigestsRequest, EntityName, Want};
use rusqlite::InterruptHandle;
use tokio_util::sync::CancellationToken;

use super::answer::{answer, blocking, pull_first, receive};
use super::found::{Depth, EntityVerified, VerifyReport, json_bytes, lists};
use super::parts::rows_of;
use super::patience::Patience;
use super::question::{Answered, Here, Question, answers};
use super::received::Received;
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::Event;
use crate::remote::HttpRemote;
use crate::store::{Compared, KeysOf, Look, View};
use crate::sync_helper::{Cursor, SourceId, State, SyncHelper};

/// Bytes of a store's file that a part stands for, so that there are some dozens of rows in it.
const PART_BYTES: u64 = 4096;

/// The most parts of an entity that is expected to be the same on both sides, as bits: what each side has to keep
/// of 4,096 stays in a processor's cache, and 65,536 take twice the time. Those that differ are split.
const PARTS_BITS_EQUAL: u32 = 12;

/// Where all is brought to the source as it is now: parts are by so much smaller, as bits.
const FINER_BITS: u32 = 2;

/// At most this share of the rows may lie in parts that differ; it is reached where one row in seven does,
/// spread over the table. Then to fetch all is shorter.
const IN_DIFFERING_PERCENT_MAX: u64 = 90;

/// At most so many rows may differ: each is sent as a key and then as a whole.
const DIFFERENT_PERCENT_MAX: u64 = 30;

/// The longest questions that are asked at once, in bytes of JSON. A request has a cursor besides, and a server
/// reads 1 MiB.
const QUESTIONS_BYTES_MAX: usize = 768 * 1024;

/// Told what happens.
pub(crate) type Observer = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// A comparison, with all that it needs.
pub(crate) struct Verification<'a> {
    pub(crate) remote: &'a HttpRemote,
    pub(crate) store: &'a Path,
    /// The entities to compare; `None` for all that the store holds.
    pub(crate) wanted: Option<&'a [EntityName]>,
    pub(crate) depth: Depth,
    pub(crate) retries: ExponentialBuilder,
    pub(crate) observer: Observer,
    /// Counts what is looked at, and what arrives.
    pub(crate) meter: Meter,
    pub(crate) stop: &'a CancellationToken,
}

/// What a comparison keeps in mind.
struct Course {
    view: Arc<Mutex<View>>,
    /// How large the store's file is.
    bytes: u64,
    source: Option<SourceId>,
}

/// What a comparison begins with.
enum Begin<'a> {
    /// All rows, in parts that so many bits name.
    Parts(u32),
    /// The rows that were found to differ.
    Rows(&'a [EntityVerified]),
    /// The rows that have these keys.
    Keys(&'a KeysOf),
}

/// What a comparison is as of.
#[derive(Clone, Debug)]
enum AsOf {
    /// The cursor that entities stand at, and go on from.
    Cursor(Cursor),
    /// A cursor of the store's past, that entities are to go on from.
    Past(Cursor),
    /// The source as it is now, that entities are to go on from.
    Now,
}

impl Begin<'_> {
    fn questions(&self, entity: &EntityName, compared: &Compared) -> Vec<Question> {
        let (mut lists, mut extra) = match self {
            Self::Parts(bits) => return vec![Question::parts(entity, compared.clone(), *bits)],
            Self::Rows(found) => match found.iter().find(|found| found.entity == *entity) {
                Some(found) => (found.keys(), found.extra_lines()),
                None => return Vec::new(),
            },
            Self::Keys(keys) => {
                let keys = keys.get(entity).into_iter().flatten();
                (lists(keys.cloned()), Vec::new())
            }
        };
        // What is extra goes with the first list, which is empty where nothing else differs. An empty one still
        // asks whether the cursor is served.
        if lists.is_empty() {
            lists.push(Vec::new());
        }
        let question = |keys| Question::rows(entity, compared.clone(), keys, std::mem::take(&mut extra));
        lists.into_iter().map(question).collect()
    }
}

impl Verification<'_> {
    /// Compares the store with its source: these rows, where some are named.
    pub(crate) async fn run(&self, again: Option<&[EntityVerified]>) -> Result<VerifyReport, Error> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Error::Stopped),
            report = self.compare(again) => report,
        }
    }

    /// Compares the store, whatever its cursors are worth, with the source as it is now: returns a cursor of
    /// now, and what differs. `None` where a store cannot be brought there row by row, or where that
    /// is longer than to fetch all.
    pub(crate) async fn against_now(&self) -> Result<Option<(Cursor, Vec<EntityVerified>)>, Error> {
        let (mut course, _interrupted) = self.look(Look::Now).await?;
        // Small parts, since some of them do differ.
        let bits = (bits(course.bytes) + FINER_BITS).min(PARTS_BITS_MAX);
        self.moving(&mut course, AsOf::Now, &Begin::Parts(bits)).await
    }

    /// Compares the rows of these keys with the source as this cursor of the store's past has seen it: returns a
    /// cursor that leads on from there, and what differs. `None` where a store cannot be brought there row by row.
    ///
    /// # Errors
    ///
    /// [`Error::PullFirst`] where the source cannot serve the cursor, or an entity would begin anew after it.
    pub(crate) async fn against_past(
        &self,
        cursor: &Cursor,
        keys: &KeysOf,
    ) -> Result<Option<(Cursor, Vec<EntityVerified>)>, Error> {
        let (mut course, _interrupted) = self.look(Look::Now).await?;
        self.moving(&mut course, AsOf::Past(cursor.clone()), &Begin::Keys(keys))
            .await
    }

    /// Compares a store that is to go on from where it is compared.
    async fn moving(
        &self,
        course: &mut Course,
        as_of: AsOf,
        begin: &Begin<'_>,
    ) -> Result<Option<(Cursor, Vec<EntityVerified>)>, Error> {
        let helpers = locked(&course.view).helpers().to_vec();
        let is_whole =
            |helper: &SyncHelper| helper.complete && matches!(helper.state, State::Current | State::Pulling);
        if helpers.is_empty() || !helpers.iter().all(is_whole) {
            return Ok(None);
        }
        let entities: Vec<EntityName> = helpers.into_iter().map(|helper| helper.entity).collect();
        let found = self.at(course, as_of, &entities, begin).await?;
        Ok(found.and_then(|found| Some((found.first()?.cursor.clone()?, found))))
    }

    async fn compare(&self, again: Option<&[EntityVerified]>) -> Result<VerifyReport, Error> {
        let begun = Instant::now();
        let (mut course, _interrupted) = self.look(Look::BetweenPulls).await?;
        let helpers = locked(&course.view).helpers().to_vec();
        let mut at: BTreeMap<Cursor, Vec<EntityName>> = BTreeMap::new();
        for helper in helpers {
            let cursor = helper
                .cursor
                .ok_or_else(|| pull_first(format!("{} has no cursor", helper.entity)))?;
            at.entry(cursor).or_default().push(helper.entity);
        }
        if at.is_empty() {
            return Err(pull_first("nothing was pulled into it yet".to_owned()));
        }
        let first = again.map_or_else(
            || Begin::Parts(bits(course.bytes).min(PARTS_BITS_EQUAL)),
            Begin::Rows,
        );
        let mut report = VerifyReport::default();
        for (cursor, entities) in at {
            let found = self
                .at(&mut course, AsOf::Cursor(cursor), &entities, &first)
                .await?;
            report.entities.extend(found.into_iter().flatten());
        }
        report.entities.sort_by(|a, b| a.entity.cmp(&b.entity));
        report.bytes = self.meter.read().bytes;
        report.elapsed = begun.elapsed();
        Ok(report)
    }

    /// Opens the store. What is read of it ends with the second part.
    async fn look(&self, look: Look) -> Result<(Course, Interrupted), Error> {
        let (path, wanted) = (self.store.to_owned(), self.wanted.map(<[EntityName]>::to_vec));
        let stop = self.stop.clone();
        let view = blocking(move || View::open(&path, wanted.as_deref(), look, &stop)).await?;
        let interrupted = Interrupted(view.interrupt_handle());
        let source = view.helpers().iter().find_map(|helper| helper.source.clone());
        let course = Course {
            bytes: view.bytes(),
            view: Arc::new(Mutex::new(view)),
            source,
        };
        Ok((course, interrupted))
    }

    /// Compares entities as of one cursor. Where they are to move, `None` is returned if they cannot row by row, or
    /// if too much differs from the source as it is now.
    async fn at(
        &self,
        course: &mut Course,
        as_of: AsOf,
        entities: &[EntityName],
        begin: &Begin<'_>,
    ) -> Result<Option<Vec<EntityVerified>>, Error> {
        let (mut cursor, moves, is_bounded) = match as_of {
            AsOf::Cursor(cursor) => (Some(cursor), false, false),
            AsOf::Past(cursor) => (Some(cursor), true, false),
            AsOf::Now => (None, true, true),
        };
        let mut found = BTreeMap::new();
        let mut pending = Vec::new();
        for entity in entities {
            let (view, name, deep) = (
                Arc::clone(&course.view),
                entity.clone(),
                self.depth == Depth::Values,
            );
            let compared = blocking(move || locked(&view).compared(&name, deep)).await?;
            if moves && compared.keeps_deleted() {
                return Ok(None);
            }
            pending.extend(begin.questions(entity, &compared));
            found.insert(entity.clone(), EntityVerified::new(entity));
        }
        let (mut rows, mut in_differing) = (0, 0);
        while !pending.is_empty() {
            let asked = one_of_each(&mut pending, |question| &question.of);
            let (here, there) = self.ask(course, cursor.as_ref(), &asked).await?;
            if moves {
                // It is as of the first answer, and leads to where the last one was given.
                cursor.clone_from(&there.next);
            }
            let view = Arc::clone(&course.view);
            let answered = blocking(move || answers(&locked(&view), asked, here, there)).await?;
            for Answered {
                question,
                totals,
                differing,
                keys,
            } in answered
            {
                let Some(found) = found.get_mut(&question.of.entity) else {
                    continue;
                };
                if question.of.want == Want::Parts && question.of.within.is_none() {
                    (found.rows, found.parts, found.left_out) = totals;
                    rows += found.rows;
                    // Of both sides together.
                    in_differing += rows_of(&differing) / 2;
                }
                found.missing.extend(keys.missing);
                found.extra.extend(keys.extra);
                found.stale.extend(keys.stale);
                pending.extend(question.next(&differing));
            }
            let differ: u64 = found.values().map(EntityVerified::differences).sum();
            if is_bounded
                && (exceeds(in_differing, IN_DIFFERING_PERCENT_MAX, rows)
                    || exceeds(differ, DIFFERENT_PERCENT_MAX, rows))
            {
                return Ok(None);
            }
        }
        let mut found: Vec<EntityVerified> = found.into_values().collect();
        for found in &mut found {
            found.cursor.clone_from(&cursor);
            found.sort();
        }
        Ok(Some(found))
    }

    /// Has both sides answer questions at one time.
    async fn ask(
        &self,
        course: &mut Course,
        cursor: Option<&Cursor>,
        asked: &[Question],
    ) -> Result<(Vec<Here>, Received), Error> {
        let request = DigestsRequest {
            since: cursor.map(|cursor| cursor.as_str().to_owned()),
            deep: self.depth == Depth::Values,
            entities: asked.iter().map(|question| question.of.clone()).collect(),
        };
        let keys_max = asked.iter().map(|question| question.keys_max).sum();
        let scanned = {
            let (view, asked) = (Arc::clone(&course.view), asked.to_vec());
            let (meter, observer) = (self.meter.clone(), Arc::clone(&self.observer));
            blocking(move || {
                let view = locked(&view);
                asked
                    .iter()
                    .map(|question| question.look(&view, &meter, &*observer))
                    .collect()
            })
        };
        let received = self.there(course, &request, keys_max);
        tokio::try_join!(scanned, received)
    }

    /// The source's answer. What can be tried again is tried again.
    async fn there(
        &self,
        course: &Course,
        request: &DigestsRequest,
        keys_max: u64,
    ) -> Result<Received, Error> {
        let mut patience = Patience::new(self.retries, Arc::clone(&self.observer));
        loop {
            let received = async {
                let (store, source) = (self.store, course.source.as_ref());
                let body = answer(self.remote, store, source, request, self.wanted.is_some()).await?;
                receive(body, keys_max, &self.meter, &*self.observer).await
            };
            match received.await {
                Err(error) => patience.wait(error).await?,
                received => return received,
            }
        }
    }
}

/// How many bits name a part: where a file has few bytes for a part, a table in it has few rows.
fn bits(bytes: u64) -> u32 {
    (bytes / PART_BYTES).max(1).ilog2().min(PARTS_BITS_MAX)
}

fn exceeds(some: u64, percent: u64, all: u64) -> bool {
    some.saturating_mul(100) > all.saturating_mul(percent)
}

/// The first question about each entity, taken from those that are pending, as far as they fit into a request:
/// an answer has one for each.
fn one_of_each<T>(pending: &mut Vec<T>, of: impl Fn(&T) -> &DigestsOf) -> Vec<T> {
    let mut asked: Vec<T> = Vec::new();
    let mut bytes = 0;
    for question in std::mem::take(pending) {
        let more = json_bytes(of(&question));
        let is_another = asked.iter().all(|other| of(other).entity != of(&question).entity);
        if is_another && (asked.is_empty() || bytes + more <= QUESTIONS_BYTES_MAX) {
            bytes += more;
            asked.push(question);
        } else {
            pending.push(question);
        }
    }
    asked
}

fn locked(view: &Mutex<View>) -> MutexGuard<'_, View> {
    // It is only read, so that nothing can have been left half done.
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends what a view reads when nobody waits for it any more.
struct Interrupted(InterruptHandle);

impl Drop for Interrupted {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_as_many_parts_as_there_are_bytes_for() {
        let twice = 2 * PART_BYTES;
        let found = [0, PART_BYTES, twice - 1, twice, 1_024 * PART_BYTES, u64::MAX].map(bits);
        assert_eq!(found, [0, 0, 0, 1, 10, PARTS_BITS_MAX]);
    }

    #[test]
    fn what_differs_is_too_much_above_a_share() {
        assert!(!exceeds(10, 10, 100) && exceeds(11, 10, 100));
        assert!(!exceeds(0, 10, 0), "nothing of nothing");
    }

    #[test]
    fn a_request_asks_once_about_each_entity_and_no_more_than_a_server_reads() {
        let of = |entity: &str, bytes| DigestsOf {
            entity: EntityName::new(entity),
            want: Want::Keys,
            bits: 0,
            within: None,
            keys: Some(vec!["k".repeat(bytes)]),
        };
        let half = QUESTIONS_BYTES_MAX / 2;
        let mut pending = vec![
            of("a", half),
            of("a", 1),
            of("b", half),
            of("c", 9),
            of("d", 2 * half),
        ];
        let mut asked = || {
            let asked = one_of_each(&mut pending, |of| of);
            asked
                .iter()
                .map(|of| of.entity.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        // Two halves and their names are too much; one alone is asked for whatever its length is.
        assert_eq!(asked(), ["a", "c"]);
        assert_eq!(asked(), ["a", "b"]);
        assert_eq!(asked(), ["d"]);
        assert_eq!(asked(), Vec::<String>::new());
    }
}
