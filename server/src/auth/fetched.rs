//! The issuer's keys from an address, fetched again from time to time, and when a token names a key
//! that is not among them. However many such tokens come, the issuer is asked once in a while.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use super::AuthError;
use super::jwks::{self, KeySet, SET_BYTES_MAX};
use super::watched::{FileFault, causes};

/// How old the keys grow: a key that the issuer withdraws is good for that much longer.
const AGE_MAX: Duration = Duration::from_mins(5);

/// When it is tried again after it failed.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The least time between two fetches that tokens with unknown keys have caused.
const DEMAND_PAUSE: Duration = Duration::from_secs(10);

/// How long a fetch may take, and with it a caller whose key is unknown.
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);

/// Why no keys were fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchFault {
    /// Whoever stands between could put keys of their own in the place of the issuer's.
    #[error("only https is safe, or http on this machine")]
    NotSafe,
    /// There was no answer, or not all of it.
    #[error("no answer")]
    Http(#[source] reqwest::Error),
    /// Another answer than 200. A redirect is not followed.
    #[error("the answer was {0}")]
    Status(u16),
    /// The answer is larger than a set of keys can be.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
    /// The answer is no set of keys.
    #[error("the answer")]
    Content(#[source] FileFault),
}

/// The keys that an address gave last.
pub(super) struct Fetched {
    url: Url,
    http: reqwest::Client,
    now: RwLock<Arc<KeySet>>,
    attempts: watch::Sender<Attempt>,
    /// A token names an unknown key.
    demanded: Notify,
    /// Somebody wants it done at once.
    wanted: Notify,
}

/// A fetch that has ended.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    number: u64,
    has_succeeded: bool,
    /// When the last one ended that a token has caused.
    demanded: Option<Instant>,
}

impl Fetched {
    /// Fetches the keys for the first time.
    pub(super) async fn open(url: Url) -> Result<Self, AuthError> {
        let failed = |url: &Url, fault| AuthError::Fetch {
            url: url.clone(),
            fault,
        };
        let is_here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
            return Err(failed(&url, FetchFault::NotSafe));
        }
        let mut http = reqwest::Client::builder()
            .timeout(FETCH_TIME_MAX)
            // It could lead to where nothing is safe.
            .redirect(reqwest::redirect::Policy::none());
        if is_here {
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|error| failed(&url, FetchFault::Http(error)))?;
        let first = fetch(&http, &url).await.map_err(|fault| failed(&url, fault))?;
        Ok(Self {
            url,
            http,
            now: RwLock::new(Arc::new(first)),
            attempts: watch::Sender::new(Attempt {
                number: 0,
                has_succeeded: true,
                demanded: None,
            }),
            demanded: Notify::new(),
            wanted: Notify::new(),
        })
    }

    /// The keys, as they were fetched last.
    pub(super) fn now(&self) -> Arc<KeySet> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has them fetched at once.
    pub(super) fn reload(&self) {
        self.wanted.notify_one();
    }

    /// Waits for keys that were fetched lately. False where they could not be had.
    pub(super) async fn fresh(&self) -> bool {
        let mut attempts = self.attempts.subscribe();
        let last = *attempts.borrow();
        if last.is_too_soon() {
            return last.has_succeeded;
        }
        self.demanded.notify_one();
        // It is done by `watch`, so that a caller who goes away does not cut it off.
        let ended = attempts.wait_for(|attempt| attempt.number > last.number);
        let ended = timeout(FETCH_TIME_MAX, ended).await;
        ended.is_ok_and(|ended| ended.is_ok_and(|attempt| attempt.has_succeeded))
    }

    /// Keeps the keys up to date, until told to stop.
    pub(super) async fn watch(&self, stop: &CancellationToken) {
        let mut last_ended = Instant::now();
        loop {
            let last = *self.attempts.borrow();
            let pause = if last.has_succeeded { AGE_MAX } else { RETRY_PAUSE };
            let is_demanded = tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => false,
                () = self.demanded.notified() => true,
                () = sleep_until(last_ended + pause) => false,
            };
            if is_demanded && last.is_too_soon() {
                continue;
            }
            let fetched = tokio::select! {
                () = stop.cancelled() => return,
                fetched = fetch(&self.http, &self.url) => fetched,
            };
            last_ended = Instant::now();
            let has_succeeded = fetched.is_ok();
            match fetched {
                Ok(set) => {
                    *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
                    tracing::debug!(url = %self.url, "keys of tokens fetched");
                }
                Err(fault) => tracing::error!(
                    url = %self.url,
                    fault = causes(&fault),
                    "cannot fetch the keys of tokens; those known stay in force"
                ),
            }
            self.attempts.send_replace(Attempt {
                number: last.number + 1,
                has_succeeded,
                demanded: if is_demanded {
                    Some(last_ended)
                } else {
                    last.demanded
                },
            });
        }
    }
}

impl Attempt {
    /// Whether no token may cause another one yet.
    fn is_too_soon(&self) -> bool {
        self.demanded.is_some_and(|ended| ended.elapsed() < DEMAND_PAUSE)
    }
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fetched").field(&self.url.as_str()).finish()
    }
}

async fn fetch(http: &reqwest::Client, url: &Url) -> Result<KeySet, FetchFault> {
    let no_answer = |error: reqwest::Error| FetchFault::Http(error.without_url());
    let mut response = http.get(url.clone()).send().await.map_err(no_answer)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(FetchFault::Status(response.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        if (body.len() + chunk.len()) as u64 > SET_BYTES_MAX {
            return Err(FetchFault::TooLarge(SET_BYTES_MAX));
        }
        body.extend_from_slice(&chunk);
    }
    jwks::read_set(&body).map_err(FetchFault::Content)
}
