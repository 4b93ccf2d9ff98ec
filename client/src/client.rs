//! The library's front: a store and a server, and what can be done with the two.

mod builder;
mod resync;
mod verify;
mod why;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBuilder;
use highwater_shared::{EntityList, EntityName, Timestamp};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

pub use self::builder::ClientBuilder;
use self::resync::Difference;
use crate::applied::{PageApplied, PullReport};
use crate::error::Error;
use crate::pull::{Clock, Event, Pull};
use crate::remote::HttpRemote;
use crate::spread::Spread;
use crate::store::Store;
use crate::verify::Observer;

/// The first wait before another attempt.
const RETRY_MILLISECONDS_MIN: u64 = 500;

/// The longest wait before another attempt, the server's own wish aside.
const RETRY_SECONDS_MAX: u64 = 60;

/// Attempts of [`Client::pull`] after the first.
const PULL_RETRIES_MAX: usize = 5;

/// How long a live client has the server hold a request; the server allows a minute.
const LONG_POLL_SECONDS: u64 = 50;

/// The least time between two requests of a live client that brought nothing: whatever stands
/// before the server may not hold them.
const LIVE_PAUSE_SECONDS_MIN: u64 = 1;

/// Keeps a [`Store`] current from a server.
#[derive(Clone)]
pub struct Client {
    store: Store,
    remote: Arc<HttpRemote>,
    entities: Option<Vec<EntityName>>,
    keep_deleted: bool,
    resync_spread: Duration,
    /// See [`Pull::takes_rescoped`].
    takes_rescoped: bool,
    observer: Observer,
    applied: broadcast::Sender<Arc<PageApplied>>,
}

/// How a client follows its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// By long poll: a change arrives when it has been committed.
    Live,
    /// By a pull at every interval.
    Every(Duration),
}

impl Client {
    /// A client of the server at an address such as `http://127.0.0.1:8080`.
    pub fn builder(server: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(server.into())
    }

    /// The store that is kept current.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Pulls once, until the store stands at one cut of the source.
    ///
    /// What can be tried again is tried again, for about half a minute besides what the attempts take. Dropped before its
    /// end it leaves the store whole, and the next pull goes on from there. A page that had arrived by then may still be
    /// committed, which nobody is told of; until then the store is in use.
    pub async fn pull(&self) -> Result<PullReport, Error> {
        self.pull_until(&CancellationToken::new()).await
    }

    /// As [`Client::pull`], but ends with [`Error::Stopped`] soon after `stop` is cancelled.
    pub async fn pull_until(&self, stop: &CancellationToken) -> Result<PullReport, Error> {
        // Somebody waits for the end of it.
        let retries = retries().with_max_times(PULL_RETRIES_MAX);
        self.run(Duration::ZERO, retries, Spread::none(), stop).await
    }

    /// Pulls again and again, at the pace that is asked for, until `stop` is cancelled. What can be
    /// tried again is tried again without end; what cannot ends it with an error.
    ///
    /// A live client asks the server to hold its requests, and other pulls of this store wait as
    /// long; so they do while it tries again.
    /// Where the server has every entity begin anew, it waits first, as
    /// [`ClientBuilder::resync_spread`] says; readers of the store have the old rows meanwhile, and
    /// another pull of the same store waits as well.
    pub async fn follow(&self, pace: Pace, stop: &CancellationToken) -> Result<(), Error> {
        let wait = match pace {
            Pace::Live => Duration::from_secs(LONG_POLL_SECONDS),
            Pace::Every(_) => Duration::ZERO,
        };
        loop {
            let resyncs = Spread::over(self.resync_spread);
            let report = match self.run(wait, retries().without_max_times(), resyncs, stop).await {
                Ok(report) => report,
                Err(Error::Stopped) => return Ok(()),
                Err(error) => return Err(error),
            };
            let pause = match pace {
                Pace::Every(interval) => interval,
                Pace::Live if report.rows + report.deleted > 0 => continue,
                Pace::Live => Duration::from_secs(LIVE_PAUSE_SECONDS_MIN).saturating_sub(report.elapsed),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = SystemClock.sleep(pause) => {}
            }
        }
    }

    /// Every page that is applied from now on, after it was committed.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<PageApplied>> {
        self.applied.subscribe()
    }

    /// What the server has for this caller, with estimates of the rows.
    pub async fn entities(&self) -> Result<EntityList, Error> {
        self.remote.entities().await
    }

    async fn run(
        &self,
        wait: Duration,
        retries: ExponentialBuilder,
        resyncs: Spread,
        stop: &CancellationToken,
    ) -> Result<PullReport, Error> {
        let _turn = self.store.turn(stop).await?;
        let introduction = self.remote.introduction();
        let observer = |event: Event<'_>| {
            match event {
                Event::Applied(page) => {
                    introduction.succeeded();
                    // Nobody may be listening, which is fine.
                    let _ = self.applied.send(Arc::new(page.clone()));
                }
                Event::Retrying { error, .. } => introduction.failed(error),
                _ => {}
            }
            (self.observer)(event);
        };
        let shortcut = Difference { client: self, stop };
        let pull = Pull {
            remote: self.remote.as_ref(),
            store: &self.store,
            clock: &SystemClock,
            wanted: self.entities.as_deref(),
            keep_deleted: self.keep_deleted,
            wait,
            retries,
            resyncs,
            shortcut: Some(&shortcut),
            takes_rescoped: self.takes_rescoped,
            stop,
            observer: &observer,
        };
        let pulled = pull.run().await;
        if let Err(error) = &pulled {
            introduction.failed(error);
        }
        pulled
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("store", &self.store)
            .field("entities", &self.entities)
            .finish_non_exhaustive()
    }
}

fn retries() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(RETRY_MILLISECONDS_MIN))
        .with_max_delay(Duration::from_secs(RETRY_SECONDS_MAX))
        .with_jitter()
}

/// The clock of the machine.
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
