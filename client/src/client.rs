//! The library's front: a store and a server, and what can be done with the two.

mod resync;
mod verify;
mod why;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use backon::ExponentialBuilder;
use highwater_shared::{EntityList, EntityName, Timestamp};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use self::resync::Difference;
use crate::applied::{PageApplied, PullReport};
use crate::error::Error;
use crate::introduction::Introduction;
use crate::pull::{Clock, Event, Pull};
use crate::remote::{Access, HttpRemote};
use crate::seed::{self, SeedLocation, Seeding};
use crate::spread::Spread;
use crate::store::{Store, Vacant};
use crate::token::Token;
use crate::trust;
use crate::verify::Observer;

/// The first wait before another attempt.
const RETRY_MILLISECONDS_MIN: u64 = 500;

/// The longest wait before another attempt, the server's own wish aside.
const RETRY_SECONDS_MAX: u64 = 60;

/// Attempts of [`Client::pull`] after the first.
const PULL_RETRIES_MAX: usize = 5;

/// Over how long [`Client::follow`] spreads the resyncs of a fleet, where nothing else is said.
const RESYNC_SPREAD_SECONDS_MAX: u64 = 60;

/// How long a live client has the server hold a request; the server allows a minute.
const LONG_POLL_SECONDS: u64 = 50;

/// The least time between two requests of a live client that brought nothing: whatever stands
/// before the server may not hold them.
const LIVE_PAUSE_SECONDS_MIN: u64 = 1;

/// Pages that a slow subscriber may fall behind before it misses some.
const PAGES_BEHIND_MAX: usize = 1024;

/// Keeps a [`Store`] current from a server.
#[derive(Clone)]
pub struct Client {
    store: Store,
    remote: Arc<HttpRemote>,
    entities: Option<Vec<EntityName>>,
    keep_deleted: bool,
    resync_spread: Duration,
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

/// Sets up a [`Client`].
pub struct ClientBuilder {
    server: String,
    access: Access,
    entities: Option<Vec<EntityName>>,
    limit: Option<u64>,
    keep_deleted: bool,
    resync_spread: Duration,
    observer: Observer,
}

impl Client {
    /// A client of the server at an address such as `http://127.0.0.1:8080`.
    pub fn builder(server: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            server: server.into(),
            access: Access::default(),
            entities: None,
            limit: None,
            keep_deleted: false,
            resync_spread: Duration::from_secs(RESYNC_SPREAD_SECONDS_MAX),
            observer: Arc::new(|_| {}),
        }
    }

    /// The store that is kept current.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Pulls once, until the store stands at one cut of the source.
    ///
    /// What can be tried again is tried again, for about half a minute. Dropped before its end it
    /// leaves the store whole, and the next pull goes on from there.
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
    /// long.
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

    /// Pulls into a store that was made of a seed. The inner error says why the server cannot go
    /// on from it.
    async fn try_seed(
        &self,
        location: &SeedLocation,
        stop: &CancellationToken,
    ) -> Result<Result<PullReport, Error>, Error> {
        // To begin anew is to do without the seed, so the pull ends there.
        let refused = Arc::new(OnceLock::new());
        let ended = stop.child_token();
        let observer: Observer = {
            let (refused, ended, told) = (Arc::clone(&refused), ended.clone(), Arc::clone(&self.observer));
            Arc::new(move |event: Event<'_>| match event {
                Event::Resync { reason, .. } => {
                    let _ = refused.set(reason);
                    ended.cancel();
                }
                event => told(event),
            })
        };
        let trial = Self {
            observer,
            ..self.clone()
        };
        let pulled = trial.pull_until(&ended).await;
        if let Some(reason) = refused.get() {
            return Ok(Err(seed::not_served(location, *reason)));
        }
        match pulled {
            Ok(report) => Ok(Ok(report)),
            Err(error @ (Error::OtherSource { .. } | Error::Damaged { .. })) => {
                Ok(Err(seed::not_usable(location, error)))
            }
            Err(error) => Err(error),
        }
    }

    /// Lets go of the store, and makes the same client of another.
    fn without_store(self) -> impl FnOnce(Store) -> Self {
        let Self {
            store,
            remote,
            entities,
            keep_deleted,
            resync_spread,
            observer,
            applied,
        } = self;
        drop(store);
        move |store| Self {
            store,
            remote,
            entities,
            keep_deleted,
            resync_spread,
            observer,
            applied,
        }
    }

    async fn run(
        &self,
        wait: Duration,
        retries: ExponentialBuilder,
        resyncs: Spread,
        stop: &CancellationToken,
    ) -> Result<PullReport, Error> {
        let _turn = self.store.turn().await;
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

impl ClientBuilder {
    /// Sends `token` with every request, as `Authorization: Bearer`.
    ///
    /// It goes to the server and nowhere else: not where a redirect leads, not to where a seed comes
    /// from, and by plain HTTP to this machine only ([`Error::TokenOverHttp`]).
    #[must_use]
    pub fn token(mut self, token: impl Into<Token>) -> Self {
        self.access.token = Some(token.into());
        self
    }

    /// Lets the token travel over plain HTTP to other machines, where anyone on the way can read it.
    #[must_use]
    pub fn token_over_http(mut self, allow: bool) -> Self {
        self.access.token_over_http = allow;
        self
    }

    /// Believes a server's certificate where one of the authorities in this PEM file has signed it,
    /// and no other; without it, where one of the system's has.
    ///
    /// It holds for seeds from the server's host too, beside the system's, since these may be
    /// redirected elsewhere.
    #[must_use]
    pub fn ca_cert(mut self, file: impl Into<PathBuf>) -> Self {
        self.access.ca_cert = Some(file.into());
        self
    }

    /// Names this device to the server, whose operator sees by it which devices are behind. With the name
    /// goes the version of this library, and with the first request after a failure its
    /// [`code`](Error::code).
    ///
    /// Nothing is sent without it, nor where the name is empty, longer than 128 bytes, or holds control
    /// characters.
    #[must_use]
    pub fn device(mut self, name: &str) -> Self {
        self.access.introduction = Introduction::of(name);
        self
    }

    /// Pulls these entities only, rather than all that the caller may read.
    #[must_use]
    pub fn entities(mut self, entities: impl IntoIterator<Item = EntityName>) -> Self {
        let mut entities: Vec<EntityName> = entities.into_iter().collect();
        entities.sort_unstable();
        entities.dedup();
        self.entities = (!entities.is_empty()).then_some(entities);
        self
    }

    /// Asks for at most this many rows in a page; the server has a limit of its own.
    #[must_use]
    pub fn limit(mut self, rows: u64) -> Self {
        self.limit = Some(rows);
        self
    }

    /// Keeps deleted rows, with 1 in a column `deleted`, rather than removing them.
    #[must_use]
    pub fn keep_deleted(mut self, keep: bool) -> Self {
        self.keep_deleted = keep;
        self
    }

    /// Has [`Client::follow`] wait for a random part of this time before it begins every entity
    /// anew at the server's word, which all clients of a server hear in one moment. A minute when
    /// this is not called, a day at most; zero for no wait.
    #[must_use]
    pub fn resync_spread(mut self, over: Duration) -> Self {
        self.resync_spread = over;
        self
    }

    /// Has `observer` told what happens. It is called from the pull, so it must be quick.
    #[must_use]
    pub fn observer(mut self, observer: impl Fn(Event<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    /// A client that keeps `store` current. Nothing is sent yet.
    pub fn build(self, store: Store) -> Result<Client, Error> {
        let remote = self.remote()?;
        Ok(self.with(remote, store))
    }

    /// As [`ClientBuilder::build`], with the store at `path`, which is made when it is missing. An
    /// address that cannot be used is refused before.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Client, Error> {
        let remote = self.remote()?;
        let store = Store::open(path)?;
        Ok(self.with(remote, store))
    }

    /// As [`ClientBuilder::open`], but a store that is missing or empty begins with a seed, and is
    /// pulled up to date before it is put in its place. A seed that the server cannot go on from,
    /// or that is none, is left aside, and the store is empty then; [`Seeding`] says which it was.
    ///
    /// Fails, and leaves nothing behind but what was downloaded, where the server cannot be asked
    /// or `stop` is cancelled.
    pub async fn open_with_seed(
        self,
        path: impl AsRef<Path>,
        location: &SeedLocation,
        stop: &CancellationToken,
    ) -> Result<(Client, Seeding), Error> {
        let remote = self.remote()?;
        let Some(place) = Vacant::at(path.as_ref())? else {
            let store = Store::open(path)?;
            return Ok((self.with(remote, store), Seeding::NotNeeded));
        };
        seed::check_location(location)?;
        let authorities = match (&self.access.ca_cert, location) {
            (Some(file), SeedLocation::Url(url)) if remote.is_host_of(url) => trust::authorities(file)?,
            _ => Vec::new(),
        };
        let unpacked = match seed::unpack(location, place.path(), authorities, stop, &*self.observer).await {
            Ok(unpacked) => unpacked,
            Err(error @ Error::Seed { .. }) => {
                return Ok((self.with(remote, Store::begin(place)?), Seeding::Refused(error)));
            }
            Err(error) => return Err(error),
        };
        let client = self.with(remote, Store::open(unpacked.path())?);
        let tried = client.try_seed(location, stop).await;
        // Every connection to the store must be closed before it is moved.
        let client = client.without_store();
        let seeding = match tried? {
            Ok(pull) => Seeding::Began {
                seed: unpacked.install(place.path())?,
                pull,
            },
            Err(refusal) => {
                unpacked.discard();
                Seeding::Refused(refusal)
            }
        };
        Ok((client(Store::begin(place)?), seeding))
    }

    fn remote(&self) -> Result<HttpRemote, Error> {
        HttpRemote::new(&self.server, &self.access, self.limit)
    }

    fn with(self, remote: HttpRemote, store: Store) -> Client {
        Client {
            store,
            remote: Arc::new(remote),
            entities: self.entities,
            keep_deleted: self.keep_deleted,
            resync_spread: self.resync_spread,
            observer: self.observer,
            applied: broadcast::Sender::new(PAGES_BEHIND_MAX),
        }
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

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("server", &self.server)
            .field("access", &self.access)
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
