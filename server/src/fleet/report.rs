//! What is told of all devices at one moment, worst first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use highwater_shared::status::{DeviceError, DeviceStatus, ErrorCount, FleetStatus};
use highwater_shared::{EntityName, Timestamp};

use super::Fleet;
use super::device::{Failure, State, is_error};
use crate::cursor::Cursor;
use crate::page::{Asked, Since};
use crate::scope::Limits;
use crate::watch::View;

/// All devices at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// The counts, and no device.
    counts: FleetStatus,
    /// Worst first.
    devices: Vec<DeviceStatus>,
}

impl Fleet {
    /// How all devices stand beside this view of the source.
    pub(crate) fn report(&self, view: Option<&View>, now: Timestamp) -> Report {
        let mut judge = Judge {
            view,
            now,
            decoded: HashMap::new(),
        };
        // One after the other, so that no request waits for more than one.
        let states = self.all().into_iter().map(|known| known.state().clone());
        let mut devices: Vec<DeviceStatus> = states.map(|state| judge.device(state)).collect();
        devices.sort_by_cached_key(badness);
        let count =
            |holds: fn(&DeviceStatus) -> bool| devices.iter().filter(|device| holds(device)).count() as u64;
        let counts = FleetStatus {
            known: devices.len() as u64,
            known_max: self.known_max() as u64,
            waiting: count(|device| device.waits),
            up_to_date: count(|device| device.up_to_date == Some(true)),
            behind: count(|device| device.up_to_date == Some(false)),
            failing: count(|device| device.is_failing),
            matching: 0,
            devices: Vec::new(),
        };
        Report { counts, devices }
    }
}

impl Report {
    /// The worst of those whose name, or whose caller's, has this text in it.
    pub(crate) fn worst(&self, search: &str, devices_max: usize) -> FleetStatus {
        let search = search.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&search);
        let matches = |device: &&DeviceStatus| {
            search.is_empty() || has(&device.device) || device.caller.as_deref().is_some_and(has)
        };
        let matching = self.devices.iter().filter(matches);
        FleetStatus {
            matching: matching.clone().count() as u64,
            devices: matching.take(devices_max).cloned().collect(),
            ..self.counts.clone()
        }
    }
}

/// What says how a device stands.
struct Judge<'v> {
    view: Option<&'v View>,
    now: Timestamp,
    /// Cursors that were read before: a fleet that is up to date sends one.
    decoded: HashMap<String, Option<Since>>,
}

impl Judge<'_> {
    fn device(&mut self, state: State) -> DeviceStatus {
        let waits = state.waiting > 0;
        let now = self.now;
        let (up_to_date, cursor_date) = self.stands(&state);
        let current_as_of = match up_to_date {
            Some(true) => Some(now),
            _ => state.current.max(cursor_date),
        };
        let behind = |current: Timestamp| {
            let seconds = now.micros().saturating_sub(current.micros()) / 1_000_000;
            u64::try_from(seconds).unwrap_or_default()
        };
        let mut errors: BTreeMap<u16, u64> = BTreeMap::new();
        for status in state.latest().filter(|status| is_error(*status)) {
            *errors.entry(status).or_default() += 1;
        }
        let is_failing = state.is_failing();
        DeviceStatus {
            caller: state.caller.name().map(str::to_owned),
            version: state.version,
            first_seen: state.first_seen,
            last_seen: if waits { now } else { state.last_seen },
            waits,
            up_to_date,
            current_as_of,
            behind_seconds: up_to_date.and(current_as_of).map(behind),
            since: (!state.since.is_empty()).then_some(state.since),
            entities: named(&state.asked),
            requests: state.requests,
            errors: errors
                .into_iter()
                .map(|(status, times)| ErrorCount { status, times })
                .collect(),
            last_error: state.error.map(told),
            is_failing,
            device: state.name,
        }
    }

    /// Whether it lacks nothing, where that can be told, and the date that its cursor vouches for.
    fn stands(&mut self, state: &State) -> (Option<bool>, Option<Timestamp>) {
        if state.since.is_empty() {
            return (None, None);
        }
        if !self.decoded.contains_key(&state.since) {
            self.decoded.insert(state.since.clone(), since(&state.since));
        }
        let Some(Some(since)) = self.decoded.get(&state.since) else {
            return (None, None);
        };
        let date = match since {
            Since::Cursor(cursor) if cursor.is_settled() => cursor.last_sync_date,
            Since::Date(date) => *date,
            Since::Cursor(_) | Since::Nothing => Timestamp::EPOCH,
        };
        let date = (date > Timestamp::EPOCH).then_some(date);
        let everything = Limits::default();
        let limits = match &state.limits {
            Some(limits) => limits,
            None if state.caller.is_unrestricted() => &everything,
            None => return (None, date),
        };
        let lacks = self.view.and_then(|view| view.lacks(since, &state.asked, limits));
        (lacks.map(|lacks| !lacks), date)
    }
}

/// What a device has sent, which was read once before.
fn since(text: &str) -> Option<Since> {
    if text.contains(':') {
        return text.parse().ok().map(Since::Date);
    }
    let cursor = Cursor::decode(text).ok()?;
    Some(Since::Cursor(Box::new(cursor)))
}

fn named(asked: &Asked) -> Option<Vec<EntityName>> {
    match asked {
        Asked::These(names) => Some(names.clone()),
        Asked::All | Asked::AmongThese(_) => None,
    }
}

fn told(failure: Failure) -> DeviceError {
    DeviceError {
        code: failure.code,
        heard: failure.heard,
        by_device: failure.by_device,
    }
}

/// The order of a report: who fails, then who is behind for longest, then of whom nothing is known.
fn badness(device: &DeviceStatus) -> impl Ord + use<> {
    let standing = match device.up_to_date {
        Some(false) => 0,
        None => 1,
        Some(true) => 2,
    };
    (
        !device.is_failing,
        standing,
        Reverse(device.behind_seconds.unwrap_or(u64::MAX)),
        device.last_seen,
        device.device.clone(),
        device.caller.clone(),
    )
}
