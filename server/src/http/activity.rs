//! What goes on on one connection, and when it has stood still for too long.
//!
//! The HTTP library leaves three gaps that this closes: a caller that connects and says nothing, one
//! with HTTP/2 that asks and never takes the answer, and one with HTTP/2 that neither asks nor goes.
//! It is the caller's turn once a piece of a response is at hand, until it comes for the next one;
//! while the server itself is busy or waits, no time runs.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::Version;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// No request has come, or not all of its head.
    Request,
    /// A response is not taken.
    Taking,
    /// Nothing more is asked.
    Asking,
}

/// How long a caller may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For its first request, with TLS and all.
    pub(super) head: Duration,
    /// To ask for something again.
    pub(super) idle: Duration,
    /// To take a piece of a response.
    pub(super) take: Duration,
}

/// What goes on on a connection.
#[derive(Debug)]
pub(super) struct Activity {
    patience: Patience,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many requests have come.
    requests: u64,
    /// How many of them are not answered to the end.
    open: usize,
    is_http2: bool,
    /// When the last request came or ended.
    last: Instant,
    /// Since when pieces of responses wait for the caller, by the number of the request.
    offered: HashMap<u64, Instant>,
}

impl Activity {
    pub(super) fn new(patience: Patience) -> Arc<Self> {
        let begun = Instant::now();
        Arc::new(Self {
            patience,
            begun,
            state: Mutex::new(State {
                requests: 0,
                open: 0,
                is_http2: false,
                last: begun,
                offered: HashMap::new(),
            }),
        })
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> Exchange {
        let mut state = self.state();
        state.requests += 1;
        state.open += 1;
        state.is_http2 = version == Version::HTTP_2;
        state.last = Instant::now();
        Exchange {
            activity: Arc::clone(self),
            number: state.requests,
        }
    }

    /// Why the connection has to end, if it has to.
    pub(super) fn overdue(&self, now: Instant) -> Option<Overdue> {
        let (state, patience) = (self.state(), self.patience);
        let since = |then: Instant| now.saturating_duration_since(then);
        if state.requests == 0 && since(self.begun) >= patience.head {
            return Some(Overdue::Request);
        }
        if state
            .offered
            .values()
            .any(|offered| since(*offered) >= patience.take)
        {
            return Some(Overdue::Taking);
        }
        // With HTTP/1.1 the library knows better, since the end of a response may still be on its way.
        if state.is_http2 && state.open == 0 && since(state.last) >= patience.idle {
            return Some(Overdue::Asking);
        }
        None
    }

    /// The first moment at which [`Activity::overdue`] can have something to say, whatever happens
    /// until then.
    pub(super) fn next_look(&self) -> Instant {
        let (state, patience) = (self.state(), self.patience);
        // What begins from now on cannot be overdue before that.
        let mut next = Instant::now() + patience.take.min(patience.idle);
        if state.requests == 0 {
            next = next.min(self.begun + patience.head);
        }
        if let Some(oldest) = state.offered.values().min() {
            next = next.min(*oldest + patience.take);
        }
        if state.is_http2 && state.open == 0 {
            next = next.min(state.last + patience.idle);
        }
        next
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request and its response, until the latter is done with.
#[derive(Debug)]
pub(super) struct Exchange {
    activity: Arc<Activity>,
    number: u64,
}

impl Exchange {
    /// The response's body, which is at hand now.
    pub(super) fn watch(self, body: Body) -> Watched {
        self.offer();
        Watched { body, exchange: self }
    }

    fn offer(&self) {
        let mut state = self.activity.state();
        state.offered.insert(self.number, Instant::now());
    }

    fn take(&self) {
        self.activity.state().offered.remove(&self.number);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.offered.remove(&self.number);
        state.open -= 1;
        state.last = Instant::now();
    }
}

/// A body that notes when it is asked for more.
#[derive(Debug)]
pub(super) struct Watched {
    body: Body,
    exchange: Exchange,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.exchange.take();
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.exchange.offer();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        take: Duration::from_mins(1),
    };

    /// What there is to say when so much time has passed without anything.
    fn after(activity: &Activity, seconds: u64) -> Option<Overdue> {
        let then = Instant::now() + Duration::from_secs(seconds);
        let why = activity.overdue(then);
        assert!(
            why.is_none() || activity.next_look() <= then,
            "it is looked at in time"
        );
        why
    }

    #[test]
    fn the_first_request_must_come_soon() {
        let activity = Activity::new(PATIENCE);
        assert_eq!(after(&activity, 9), None);
        assert!(after(&activity, 10).is_some());
        let _exchange = activity.begin(Version::HTTP_11);
        assert_eq!(after(&activity, 1_000), None, "the server may take its time");
    }

    #[tokio::test]
    async fn a_piece_must_be_taken_soon_whatever_else_goes_on() {
        let activity = Activity::new(PATIENCE);
        let _busy = activity.begin(Version::HTTP_2);
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let pieces = futures_util::stream::unfold(receiver, |mut receiver| async {
            let piece: Bytes = receiver.recv().await?;
            Some((Ok::<_, axum::Error>(piece), receiver))
        });
        let mut body = activity.begin(Version::HTTP_2).watch(Body::from_stream(pieces));
        assert_eq!(after(&activity, 59), None);
        assert!(after(&activity, 60).is_some());
        let mut come_for_more = async || {
            let polled = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            futures_util::poll!(std::pin::pin!(polled)).is_ready()
        };
        assert!(!come_for_more().await);
        assert_eq!(after(&activity, 1_000), None, "it waits for the server");
        sender.send(Bytes::from_static(b"x")).await.unwrap();
        assert!(come_for_more().await);
        assert_eq!(after(&activity, 59), None);
        assert!(after(&activity, 60).is_some());
        drop(body);
        assert_eq!(after(&activity, 1_000), None);
    }

    #[test]
    fn a_connection_with_nothing_more_to_ask_is_ended() {
        let activity = Activity::new(PATIENCE);
        drop(activity.begin(Version::HTTP_2));
        assert_eq!(after(&activity, 74), None);
        assert!(after(&activity, 75).is_some());
        let _exchange = activity.begin(Version::HTTP_2);
        assert_eq!(after(&activity, 1_000), None);
    }
}
