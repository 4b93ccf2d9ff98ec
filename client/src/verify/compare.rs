//! Decides what to compare: all parts of all entities, then smaller parts of those that differ, then
//! the keys in them.
//!
//! Each question is answered on both sides at once: the source scans its tables while the store
//! scans its own. Every answer names what the store's cursor has not seen the last of, and that is
//! taken out on this side; so any question may be asked at any time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use highwater_shared::digests::PARTS_BITS_MAX;
use highwater_shared::{Code, DigestsRequest, EntityName, PageParser, Trailer, Want};
use rusqlite::InterruptHandle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::found::{Depth, EntityVerified, VerifyReport};
use super::question::{Answered, Here, Question, answers};
use super::received::Received;
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{Event, Outcome, PageBody as _};
use crate::remote::{HttpBody, HttpRemote};
use crate::store::{View, from_page};
use crate::sync_helper::{Cursor, SourceId};

/// Bytes of a store's file that a part stands for, so that there are some dozens of rows in it.
const PART_BYTES: u64 = 4096;

/// The longest wait that a server's `Retry-After` is followed for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// Chunks of a body that wait to be read; the network pauses beyond that.
const CHUNKS_WAITING_MAX: usize = 16;

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
    pub(crate) stop: &'a CancellationToken,
}

/// What a comparison keeps in mind.
struct Course {
    view: Arc<Mutex<View>>,
    meter: Meter,
    source: Option<SourceId>,
}

impl Verification<'_> {
    /// Compares the store with its source.
    pub(crate) async fn run(&self) -> Result<VerifyReport, Error> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Error::Stopped),
            report = self.compare() => report,
        }
    }

    async fn compare(&self) -> Result<VerifyReport, Error> {
        let begun = Instant::now();
        let (path, wanted) = (self.store.to_owned(), self.wanted.map(<[EntityName]>::to_vec));
        let view = blocking(move || View::open(&path, wanted.as_deref())).await?;
        let _interrupted = Interrupted(view.interrupt_handle());
        let (helpers, bytes) = (view.helpers().to_vec(), view.bytes());
        let mut course = Course {
            view: Arc::new(Mutex::new(view)),
            meter: Meter::default(),
            source: helpers.iter().find_map(|helper| helper.source.clone()),
        };
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
        // Where a file has few bytes for a part, a table in it has few rows.
        let bits = (bytes / PART_BYTES).max(1).ilog2().min(PARTS_BITS_MAX);
        let mut report = VerifyReport::default();
        for (cursor, entities) in at {
            report
                .entities
                .extend(self.at(&mut course, &cursor, &entities, bits).await?);
        }
        report.entities.sort_by(|a, b| a.entity.cmp(&b.entity));
        report.bytes = course.meter.read().bytes;
        report.elapsed = begun.elapsed();
        Ok(report)
    }

    /// Compares the entities that stand at one cursor.
    async fn at(
        &self,
        course: &mut Course,
        cursor: &Cursor,
        entities: &[EntityName],
        bits: u32,
    ) -> Result<Vec<EntityVerified>, Error> {
        let mut found = BTreeMap::new();
        let mut pending = Vec::new();
        for entity in entities {
            let (view, name, deep) = (
                Arc::clone(&course.view),
                entity.clone(),
                self.depth == Depth::Values,
            );
            let compared = blocking(move || locked(&view).compared(&name, deep)).await?;
            pending.push(Question::parts(entity, compared, bits, None));
            found.insert(entity.clone(), EntityVerified::new(entity, cursor));
        }
        while !pending.is_empty() {
            let asked = one_of_each(&mut pending);
            let (here, there) = self.ask(course, cursor, &asked).await?;
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
                }
                found.missing.extend(keys.missing);
                found.extra.extend(keys.extra);
                found.stale.extend(keys.stale);
                pending.extend(question.next(&differing));
            }
        }
        let mut found: Vec<EntityVerified> = found.into_values().collect();
        found.iter_mut().for_each(EntityVerified::sort);
        Ok(found)
    }

    /// Has both sides answer questions at one time.
    async fn ask(
        &self,
        course: &mut Course,
        cursor: &Cursor,
        asked: &[Question],
    ) -> Result<(Vec<Here>, Received), Error> {
        let request = DigestsRequest {
            since: Some(cursor.as_str().to_owned()),
            deep: self.depth == Depth::Values,
            entities: asked.iter().map(|question| question.of.clone()).collect(),
        };
        let keys_max = asked.iter().map(|question| question.keys_max).sum();
        let scanned = {
            let (view, asked) = (Arc::clone(&course.view), asked.to_vec());
            let (meter, observer) = (course.meter.clone(), Arc::clone(&self.observer));
            blocking(move || {
                let view = locked(&view);
                asked
                    .iter()
                    .map(|question| question.scan(&view, &meter, &*observer))
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
        let mut delays = self.retries.build();
        loop {
            let error = match self.receive(course, request, keys_max).await {
                Err(error) if error.is_retryable() => error,
                received => return received,
            };
            let Some(delay) = delays.next() else {
                return Err(error);
            };
            let delay = delay + error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
            (self.observer)(Event::Retrying { error: &error, delay });
            tokio::time::sleep(delay).await;
        }
    }

    async fn receive(
        &self,
        course: &Course,
        request: &DigestsRequest,
        keys_max: u64,
    ) -> Result<Received, Error> {
        let body = answer(
            self.remote,
            self.store,
            course.source.as_ref(),
            request,
            self.wanted.is_some(),
        )
        .await?;
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        let reading = blocking(move || read(receiver, keys_max));
        let feeding = feed(body, sender, &course.meter, &*self.observer);
        match tokio::join!(reading, feeding) {
            // Why there was no end, the network knows.
            (Err(Error::Incomplete), Err(error)) => Err(error),
            (read, _) => read,
        }
    }
}

/// What the source answers a request with; an error where the store has to be pulled first.
pub(super) async fn answer(
    remote: &HttpRemote,
    store: &Path,
    source: Option<&SourceId>,
    request: &DigestsRequest,
    is_named: bool,
) -> Result<HttpBody, Error> {
    let answer = match remote.digests(request).await {
        // It was withdrawn since the store was pulled, which the next pull will find.
        Err(Error::Refused {
            status: 403 | 404,
            code: Some(Code::ForbiddenEntity | Code::UnknownEntity),
            detail,
            ..
        }) if !is_named => return Err(pull_first(detail)),
        answer => answer?,
    };
    match source {
        Some(kept) if *kept != answer.source => Err(Error::OtherSource {
            store: store.to_owned(),
            kept: kept.as_str().to_owned(),
            offered: answer.source.as_str().to_owned(),
        }),
        _ => match answer.outcome {
            Outcome::Page(body) => Ok(body),
            Outcome::Resync(_) => Err(pull_first("the server can no longer serve its cursor".to_owned())),
        },
    }
}

pub(super) fn pull_first(reason: String) -> Error {
    Error::PullFirst { reason }
}

/// The first question about each entity, taken from those that are pending: an answer has one for each.
fn one_of_each(pending: &mut Vec<Question>) -> Vec<Question> {
    let mut asked: Vec<Question> = Vec::new();
    for question in std::mem::take(pending) {
        if asked.iter().any(|other| other.of.entity == question.of.entity) {
            pending.push(question);
        } else {
            asked.push(question);
        }
    }
    asked
}

/// Passes a body on, chunk by chunk. Its end is the end of the channel only where it ended properly.
async fn feed(
    mut body: HttpBody,
    sender: mpsc::Sender<Option<Bytes>>,
    meter: &Meter,
    observer: &(dyn Fn(Event<'_>) + Send + Sync),
) -> Result<(), Error> {
    loop {
        let chunk = body.chunk().await?;
        let is_end = chunk.is_none();
        if let Some(chunk) = &chunk {
            meter.bytes(chunk.len());
            observer(Event::Progress(meter.read()));
        }
        // Whoever no longer listens has failed, and says so.
        if sender.send(chunk).await.is_err() || is_end {
            return Ok(());
        }
    }
}

fn read(mut chunks: mpsc::Receiver<Option<Bytes>>, keys_max: u64) -> Result<Received, Error> {
    let mut received = Received::new(usize::try_from(keys_max).unwrap_or(usize::MAX))?;
    let mut parser = PageParser::new();
    loop {
        match chunks.blocking_recv() {
            Some(Some(chunk)) => parser.push(&chunk, &mut received).map_err(from_page)?,
            Some(None) => {
                let _: Trailer = parser.finish().map_err(from_page)?;
                return Ok(received);
            }
            None => return Err(Error::Incomplete),
        }
    }
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Task(Box::new(error)))?
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
