//! Sets up a client: what can be chosen of it, and the store that it begins with, which may come from a seed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use highwater_shared::EntityName;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::Client;
use crate::applied::PullReport;
use crate::error::Error;
use crate::introduction::Introduction;
use crate::pull::Event;
use crate::remote::{Access, HttpRemote};
use crate::seed::{self, SeedLocation, Seeding};
use crate::store::{Store, Vacant};
use crate::token::Token;
use crate::trust;
use crate::verify::Observer;

/// Over how long [`Client::follow`] spreads the resyncs of a fleet, where nothing else is said.
const RESYNC_SPREAD_SECONDS_MAX: u64 = 60;

/// Pages that a slow subscriber may fall behind before it misses some.
const PAGES_BEHIND_MAX: usize = 1024;

/// Sets up a [`Client`].
pub struct ClientBuilder {
    pub(super) server: String,
    pub(super) access: Access,
    pub(super) entities: Option<Vec<EntityName>>,
    limit: Option<u64>,
    keep_deleted: bool,
    resync_spread: Duration,
    pub(super) observer: Observer,
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

    /// Pulls these entities only, rather than all that the caller may read. Where none are named, it is all.
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
        let unpacked = match seed::unpack(location, &place, authorities, stop, &*self.observer).await {
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

    pub(super) fn new(server: String) -> Self {
        Self {
            server,
            access: Access::default(),
            entities: None,
            limit: None,
            keep_deleted: false,
            resync_spread: Duration::from_secs(RESYNC_SPREAD_SECONDS_MAX),
            observer: Arc::new(|_| {}),
        }
    }

    pub(super) fn remote(&self) -> Result<HttpRemote, Error> {
        HttpRemote::new(&self.server, &self.access, self.limit)
    }

    fn with(self, remote: HttpRemote, store: Store) -> Client {
        Client {
            store,
            remote: Arc::new(remote),
            entities: self.entities,
            keep_deleted: self.keep_deleted,
            resync_spread: self.resync_spread,
            takes_rescoped: true,
            observer: self.observer,
            applied: broadcast::Sender::new(PAGES_BEHIND_MAX),
        }
    }
}

impl Client {
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
            takes_rescoped: false,
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
            takes_rescoped,
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
            takes_rescoped,
            observer,
            applied,
        }
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
