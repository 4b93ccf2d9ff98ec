//! What is remembered of one device, and how its requests change that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_shared::{Device, Timestamp};

use crate::caller::Caller;
use crate::cursor::Cursor;
use crate::page::{Asked, Since};
use crate::scope::Limits;

/// The longest cursor that is kept of a device, in bytes. Most have 100; one with thousands of transactions in flight
/// has more, and of ten thousand devices that would be too much to keep.
pub(super) const SINCE_BYTES_MAX: usize = 2 * 1024;

/// How many of its latest requests a device's errors are counted among.
const LATEST_MAX: usize = 16;

/// A device.
#[derive(Debug)]
pub(super) struct Known(Mutex<State>);

/// How a device stands.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) name: String,
    /// Whom it came as last.
    pub(super) caller: Caller,
    pub(super) version: Option<String>,
    pub(super) first_seen: Timestamp,
    pub(super) last_seen: Timestamp,
    /// Requests of it that wait.
    pub(super) waiting: usize,
    pub(super) requests: u64,
    /// What it sent as `since`, empty where that was nothing or too long.
    pub(super) since: String,
    pub(super) asked: Asked,
    /// What it may see of entities with a scope.
    pub(super) limits: Option<Limits>,
    /// When it was given a page last.
    served: Option<Timestamp>,
    /// When it was known to lack nothing.
    pub(super) current: Option<Timestamp>,
    pub(super) error: Option<Failure>,
    /// The code that its latest request came with.
    failed: Option<String>,
    /// The statuses of its latest requests, the newest at `requests - 1`; 0 where there were none yet.
    latest: [u16; LATEST_MAX],
    answered: u64,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) heard: Timestamp,
    pub(super) by_device: bool,
}

/// A request of a device. A copy is the same request.
#[derive(Clone, Debug)]
pub(crate) struct Visit(Arc<Known>);

/// A request of a device that waits; until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Known>);

impl Known {
    pub(super) fn new(state: State) -> Self {
        Self(Mutex::new(state))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come.
    pub(super) fn came(&self, device: &Device<'_>, caller: &Caller, now: Timestamp) {
        let mut state = self.state();
        state.last_seen = now;
        state.requests += 1;
        if state.caller != *caller {
            state.caller = caller.clone();
            state.limits = None;
        }
        if state.version.as_deref() != device.version() {
            state.version = device.version().map(str::to_owned);
        }
        if state.failed.as_deref() != device.failed() {
            state.failed = device.failed().map(str::to_owned);
        }
        if let Some(code) = device.failed() {
            state.fail(code, now, true);
        }
    }
}

impl State {
    pub(super) fn new(name: &str, caller: &Caller, now: Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            caller: caller.clone(),
            version: None,
            first_seen: now,
            last_seen: now,
            waiting: 0,
            requests: 0,
            since: String::new(),
            asked: Asked::All,
            limits: None,
            served: None,
            current: None,
            error: None,
            failed: None,
            latest: [0; LATEST_MAX],
            answered: 0,
        }
    }

    /// Whether its last attempt failed, by its own word or by what it was answered. One that waits has got through.
    pub(super) fn is_failing(&self) -> bool {
        self.waiting == 0 && (self.failed.is_some() || is_error(self.latest_status()))
    }

    /// The statuses of its latest requests.
    pub(super) fn latest(&self) -> impl Iterator<Item = u16> {
        self.latest.into_iter().filter(|status| *status > 0)
    }

    fn latest_status(&self) -> u16 {
        let place = self.answered.wrapping_sub(1) % LATEST_MAX as u64;
        let status = usize::try_from(place)
            .ok()
            .and_then(|place| self.latest.get(place));
        status.copied().unwrap_or_default()
    }

    fn fail(&mut self, code: &str, heard: Timestamp, by_device: bool) {
        match &mut self.error {
            Some(error) if error.code == code && error.by_device == by_device => error.heard = heard,
            error => {
                *error = Some(Failure {
                    code: code.to_owned(),
                    heard,
                    by_device,
                });
            }
        }
    }
}

impl Visit {
    pub(super) fn of(known: Arc<Known>) -> Self {
        Self(known)
    }

    /// It asks for changes. Tells whether it stands elsewhere than before, or what it may see is not known.
    pub(crate) fn asks(&self, text: &str, since: &Since, asked: &Asked) -> bool {
        let mut state = self.0.state();
        let text = if text.len() <= SINCE_BYTES_MAX { text } else { "" };
        if state.asked != *asked {
            state.asked = asked.clone();
        }
        let moved = state.since != text;
        if moved {
            if is_settled(since) {
                // What it stands at now is what it was given last.
                state.current = state.current.max(state.served);
            }
            state.since.clear();
            state.since.push_str(text);
        }
        moved || state.limits.is_none()
    }

    /// What it may see of entities with a scope.
    pub(crate) fn may_see(&self, limits: Limits) {
        self.0.state().limits = Some(limits);
    }

    /// It waits for news.
    pub(crate) fn waits(&self) -> Waiting {
        self.0.state().waiting += 1;
        Waiting(Arc::clone(&self.0))
    }

    /// It is given a page; an empty one says that it lacks nothing.
    pub(crate) fn served(&self, is_empty: bool, now: Timestamp) {
        let mut state = self.0.state();
        state.served = Some(now);
        if is_empty {
            state.current = Some(now);
        }
    }

    /// It was answered, with the code of a problem where it was one.
    pub(crate) fn answered(&self, status: u16, code: Option<&str>, now: Timestamp) {
        let mut state = self.0.state();
        let place = usize::try_from(state.answered % LATEST_MAX as u64).unwrap_or_default();
        if let Some(latest) = state.latest.get_mut(place) {
            *latest = status;
        }
        state.answered += 1;
        if let Some(code) = code {
            state.fail(code, now, false);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting = state.waiting.saturating_sub(1);
    }
}

/// Whether its holder has all up to one moment: no pull is under way.
fn is_settled(since: &Since) -> bool {
    matches!(since, Since::Cursor(cursor) if Cursor::is_settled(cursor))
}

pub(super) fn is_error(status: u16) -> bool {
    status >= 400
}
