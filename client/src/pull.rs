//! The pull: everything that decides. It speaks to a [`Remote`] and a [`Replica`], which do as
//! they are told, and takes its clock, so that it runs against simulated ones as well.
//!
//! A pull reads where the store stands, asks for the next page, and has it applied together with
//! the cursor that came with it. Since all that it remembers is in the store, it may be cut off
//! at any point, and the next one goes on from there.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use highwater_shared::{EntityName, ResyncReason, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::applied::{PageApplied, PullReport};
use crate::error::Error;
use crate::meter::{Meter, Progress};
use crate::plan::{Ask, next_ask};
use crate::spread::Spread;
use crate::sync_helper::{SourceId, SyncHelper};

/// The longest wait that a server's `Retry-After` is followed for.
const RETRY_AFTER_SECONDS_MAX: u64 = 300;

/// Pages in a row without a row, after which the server is taken to be going in circles.
const EMPTY_PAGES_MAX: u32 = 100;

/// Times that a pull tries to be cut short, each with attempts of its own, before entities begin anew.
const SHORTCUTS_MAX: u32 = 2;

/// Times that a pull begins entities anew because their columns changed under it.
const RENEWALS_MAX: u32 = 16;

/// Answers questions; over HTTP, or in a simulation.
pub(crate) trait Remote: Sync {
    /// The body of a page.
    type Body: PageBody + Send;

    /// Asks for a page.
    fn changes(&self, ask: &Ask) -> impl Future<Output = Result<Answer<Self::Body>, Error>> + Send;
}

/// A page on its way.
pub(crate) trait PageBody {
    /// The next piece; `None` at the proper end.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, Error>> + Send;
}

/// What the server said, and for which database it speaks.
#[derive(Debug)]
pub(crate) struct Answer<B> {
    pub(crate) source: SourceId,
    pub(crate) outcome: Outcome<B>,
}

/// What came of a question.
#[derive(Debug)]
pub(crate) enum Outcome<B> {
    /// A page begins.
    Page(B),
    /// The cursor cannot be served; ask again without one, or with an earlier one where that may be served.
    Resync {
        reason: Option<ResyncReason>,
        earlier: bool,
    },
}

/// Keeps the entities' rows and the SyncHelper rows; in SQLite, or in a simulation.
pub(crate) trait Replica: Sync {
    /// How the entities stand.
    fn helpers(&self) -> impl Future<Output = Result<Vec<SyncHelper>, Error>> + Send;

    /// Applies a page and its cursor, both or neither.
    fn apply<B: PageBody + Send>(
        &self,
        order: Order,
        body: B,
        meter: &Meter,
    ) -> impl Future<Output = Result<PageApplied, Error>> + Send;

    /// Has an entity begin anew with the next pull, its rows still readable.
    fn begin_anew(&self, entity: &EntityName) -> impl Future<Output = Result<(), Error>> + Send;

    /// The error for a server that speaks for another database.
    fn other_source(&self, kept: &SourceId, offered: &SourceId) -> Error;
}

/// Brings a store whose cursor is worth nothing any more to the source as it is now, by what differs.
pub(crate) trait Shortcut: Sync {
    /// What was changed; the pull goes on from the cursor that comes with it. `None` where every entity is to
    /// begin anew instead, and nothing was changed.
    fn take<'a>(&'a self, refused: Refused, meter: &'a Meter) -> Taking<'a>;

    /// An entity with so many rows, or more, is compared rather than begun anew.
    fn rows_min(&self) -> u64;
}

/// How the server refused the cursor of a store.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refused {
    /// Whether what the caller may see has changed.
    pub(crate) scope_changed: bool,
    /// Whether an earlier cursor may be served.
    pub(crate) earlier: bool,
}

/// A shortcut while it is taken.
pub(crate) type Taking<'a> = Pin<Box<dyn Future<Output = Result<Option<PageApplied>, Error>> + Send + 'a>>;

/// Tells the time, and passes it.
pub(crate) trait Clock: Sync {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// A point in time that never goes back.
    fn monotonic(&self) -> Instant;

    /// Lets time pass.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;
}

/// How a page is to be applied.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The question that the page answers.
    pub(crate) ask: Ask,
    pub(crate) writing: Writing,
    pub(crate) keep_deleted: bool,
    /// An entity with so many rows, or more, is not begun anew by this page: see
    /// [`Error::BeginsAnew`].
    pub(crate) anew_rows_max: Option<u64>,
    /// Whether what the caller may see has changed. Then nothing is kept of what is not sent again.
    pub(crate) scope_changed: bool,
    pub(crate) source: SourceId,
    pub(crate) now: Timestamp,
}

/// The order in which the rows of a page are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    /// As they come, each in place.
    InPlace,
    /// All old versions are removed, then all new ones inserted: two rows may trade a value of a
    /// unique index of the user's.
    DeletesFirst,
}

/// What happens during a pull, for those who watch.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Something arrived.
    Progress(Progress),
    /// Something of a seed arrived.
    SeedDownload {
        /// Bytes that are there, those of an earlier attempt included.
        bytes: u64,
        /// Bytes that there will be, where that is known.
        bytes_total: Option<u64>,
    },
    /// A page was applied and committed.
    Applied(&'a PageApplied),
    /// An attempt failed, and is made again after `delay`.
    Retrying {
        /// What the attempt failed with.
        error: &'a Error,
        /// How long to wait.
        delay: Duration,
    },
    /// The server can no longer serve the cursor. After `delay` the store is compared with the source and gets
    /// what differs, or every entity begins anew.
    Resync {
        /// Why, where the server said it.
        reason: Option<ResyncReason>,
        /// How long to wait; zero but for [`Client::follow`](crate::Client::follow).
        delay: Duration,
    },
    /// The columns of an entity changed; it begins anew.
    SchemaChanged(&'a EntityName),
}

/// One pull, with all that it needs.
pub(crate) struct Pull<'a, R, S, C> {
    pub(crate) remote: &'a R,
    pub(crate) store: &'a S,
    pub(crate) clock: &'a C,
    /// The entities to pull; `None` for all that the caller may read.
    pub(crate) wanted: Option<&'a [EntityName]>,
    pub(crate) keep_deleted: bool,
    /// How long the server may hold the first request while nothing is new.
    pub(crate) wait: Duration,
    pub(crate) retries: ExponentialBuilder,
    /// How the wait is chosen before every entity begins anew because the server says so. It says
    /// so to all its clients at once.
    pub(crate) resyncs: Spread,
    /// What is tried once before entities begin anew.
    pub(crate) shortcut: Option<&'a dyn Shortcut>,
    /// Whether a change of what the caller may see may be told by rows. Not where the store is made of a seed, which serves
    /// no other scope than its own.
    pub(crate) takes_rescoped: bool,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) observer: &'a (dyn Fn(Event<'_>) + Send + Sync),
}

/// What a pull keeps in mind from page to page; none of it needs to outlive it.
struct Course {
    meter: Meter,
    report: PullReport,
    writing: Writing,
    /// Whether the server refused the cursor, so that the next question goes without.
    anew: bool,
    /// Whether it did so since the caller's scopes or entities have changed.
    scope_changed: bool,
    /// Whether the shortcut has not been taken yet.
    may_cut_short: bool,
    /// How often that broke off.
    broken_off: u32,
    delays: Option<ExponentialBackoff>,
    renewals: u32,
    empty_pages: u32,
}

impl<R: Remote, S: Replica, C: Clock> Pull<'_, R, S, C> {
    /// Pulls until the store stands at one cut of the source.
    pub(crate) async fn run(&self) -> Result<PullReport, Error> {
        let begun = self.clock.monotonic();
        let mut course = Course {
            meter: Meter::default(),
            report: PullReport::default(),
            writing: Writing::InPlace,
            anew: false,
            scope_changed: false,
            may_cut_short: self.shortcut.is_some(),
            broken_off: 0,
            delays: None,
            renewals: 0,
            empty_pages: 0,
        };
        loop {
            let helpers = self.store.helpers().await?;
            let mut ask = if course.anew {
                Ask::anew(self.wanted)
            } else {
                next_ask(self.wanted, &helpers)
            };
            // Who is to be brought together with others waits for nothing.
            if ask.whole && ask.held.is_empty() && course.report.pages == 0 {
                ask.wait = self.wait;
            }
            ask.takes_rescoped &= self.takes_rescoped;
            let whole = ask.whole;
            match self.page(&ask, &helpers, &course).await {
                Ok(page) => {
                    self.applied(&page, &mut course)?;
                    if !page.more && whole {
                        break;
                    }
                }
                Err(error) => self.recover(error, &ask, &mut course).await?,
            }
        }
        course.report.bytes = course.meter.read().bytes;
        course.report.elapsed = self.clock.monotonic().saturating_duration_since(begun);
        Ok(course.report)
    }

    /// Asks for one page and has it applied.
    async fn page(&self, ask: &Ask, helpers: &[SyncHelper], course: &Course) -> Result<PageApplied, Error> {
        let answer = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Error::Stopped),
            answer = self.remote.changes(ask) => answer?,
        };
        let kept = helpers.iter().find_map(|helper| helper.source.as_ref());
        if let Some(kept) = kept
            && *kept != answer.source
        {
            return Err(self.store.other_source(kept, &answer.source));
        }
        let body = match answer.outcome {
            Outcome::Page(body) => body,
            Outcome::Resync { reason, earlier } => return Err(Error::Resync { reason, earlier }),
        };
        let order = Order {
            ask: ask.clone(),
            writing: course.writing,
            keep_deleted: self.keep_deleted,
            anew_rows_max: self
                .shortcut
                .filter(|_| course.may_cut_short && ask.since.is_some())
                .map(Shortcut::rows_min),
            scope_changed: course.scope_changed,
            source: answer.source,
            now: self.clock.now(),
        };
        let watched = Watched {
            body,
            stop: self.stop,
            meter: &course.meter,
            observer: self.observer,
        };
        self.store.apply(order, watched, &course.meter).await
    }

    fn applied(&self, page: &PageApplied, course: &mut Course) -> Result<(), Error> {
        course.report.add(page);
        course.writing = Writing::InPlace;
        course.anew = false;
        course.delays = None;
        let came = page.rows + page.deleted;
        course.empty_pages = if page.more && came == 0 {
            course.empty_pages + 1
        } else {
            0
        };
        (self.observer)(Event::Applied(page));
        if course.empty_pages > EMPTY_PAGES_MAX {
            return Err(Error::Stalled);
        }
        Ok(())
    }

    /// Prepares another attempt where that can help; otherwise the error ends the pull.
    async fn recover(&self, error: Error, ask: &Ask, course: &mut Course) -> Result<(), Error> {
        course.meter.set_rows(course.report.rows + course.report.deleted);
        match &error {
            Error::Resync { reason, earlier } if ask.since.is_some() => {
                let (reason, delay) = (*reason, self.resyncs.delay());
                (self.observer)(Event::Resync { reason, delay });
                self.pause(delay).await?;
                course.scope_changed |= reason == Some(ResyncReason::ScopeChanged);
                course.anew = !self.cut_short(*earlier, course).await?;
            }
            // Where that does not help, it begins anew in the next attempt.
            Error::BeginsAnew { .. } => drop(self.cut_short(false, course).await?),
            // The question named entities of the store to leave others out; one of them is no
            // longer served. All begin anew then, with what is served now.
            Error::Refused {
                status: 403 | 404, ..
            } if !ask.whole => course.anew = true,
            Error::SchemaChanged { entity } if course.renewals < RENEWALS_MAX => {
                (self.observer)(Event::SchemaChanged(entity));
                course.renewals += 1;
                match self.store.begin_anew(entity).await {
                    Err(error) if error.is_retryable() => return self.wait(error, course).await,
                    begun => begun?,
                }
            }
            Error::UniqueIndex { .. } if course.writing == Writing::InPlace => {
                course.writing = Writing::DeletesFirst;
            }
            retryable if retryable.is_retryable() => return self.wait(error, course).await,
            _ => return Err(error),
        }
        Ok(())
    }

    /// Brings the store to the source as it is now by what differs. Tells whether the next question is to
    /// be asked with the cursor of the store.
    async fn cut_short(&self, earlier: bool, course: &mut Course) -> Result<bool, Error> {
        let Some(shortcut) = self.shortcut.filter(|_| course.may_cut_short) else {
            return Ok(false);
        };
        let refused = Refused {
            scope_changed: course.scope_changed,
            earlier,
        };
        let taken = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Error::Stopped),
            taken = shortcut.take(refused, &course.meter) => taken,
        };
        // The rows that were looked at have not come.
        course.meter.set_rows(course.report.rows + course.report.deleted);
        match taken {
            Ok(Some(page)) => {
                course.may_cut_short = false;
                self.applied(&page, course)?;
                Ok(true)
            }
            Ok(None) => {
                course.may_cut_short = false;
                Ok(false)
            }
            // It is taken up again from the same answer of the server, but not for ever: something on the way may let no
            // such answer through.
            Err(error) if error.is_retryable() => {
                course.broken_off += 1;
                course.may_cut_short = course.broken_off < SHORTCUTS_MAX;
                self.wait(error, course).await.map(|()| course.may_cut_short)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits before another attempt; without attempts left, the error ends the pull.
    async fn wait(&self, error: Error, course: &mut Course) -> Result<(), Error> {
        let delays = course.delays.get_or_insert_with(|| self.retries.build());
        let Some(delay) = delays.next() else {
            return Err(error);
        };
        let delay = error.delay(delay, Duration::from_secs(RETRY_AFTER_SECONDS_MAX));
        course.report.retries += 1;
        (self.observer)(Event::Retrying { error: &error, delay });
        self.pause(delay).await
    }

    /// Lets time pass, unless the pull is stopped meanwhile.
    async fn pause(&self, delay: Duration) -> Result<(), Error> {
        if delay.is_zero() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Error::Stopped),
            () = self.clock.sleep(delay) => Ok(()),
        }
    }
}

/// A body that ends when the pull is stopped, and tells how much of it has arrived.
struct Watched<'a, B> {
    body: B,
    stop: &'a CancellationToken,
    meter: &'a Meter,
    observer: &'a (dyn Fn(Event<'_>) + Send + Sync),
}

impl<B: PageBody + Send> PageBody for Watched<'_, B> {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Error::Stopped),
            chunk = self.body.chunk() => chunk?,
        };
        if let Some(chunk) = &chunk {
            self.meter.bytes(chunk.len());
            (self.observer)(Event::Progress(self.meter.read()));
        }
        Ok(chunk)
    }
}
