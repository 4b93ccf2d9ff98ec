//! Devices met, remembered and forgotten, without a server.

use super::device::SINCE_BYTES_MAX;
use super::*;
use crate::caller::Grant;
use crate::cursor::{Cursor, Lsn, Seen, Source};
use crate::metrics::Metrics;
use crate::page::{Asked, Since};
use crate::scope::Remembered;
use crate::snapshot::{Era, Snapshot};

fn fleet(known_max: usize) -> Fleet {
    Fleet::new(known_max, Metrics::default().limits())
}

fn named(name: &str) -> Caller {
    Caller::with(Grant {
        name: name.to_owned(),
        ..Grant::default()
    })
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn visit(fleet: &Fleet, device: &str, caller: &Caller, now: Timestamp) -> Visit {
    fleet.visit(&Device::new(device).unwrap(), caller, now).unwrap()
}

/// A cursor of a pull that has ended.
fn cursor() -> Since {
    Since::Cursor(Box::new(Cursor {
        source: Source {
            system_identifier: 1,
            database_oid: 2,
            own_id: uuid::Uuid::nil(),
            timeline: 1,
            era: Era::default(),
        },
        scope: 0,
        scopes: Remembered::default(),
        wal: Lsn(1),
        seen: Seen::Snapshot(Snapshot::nothing()),
        covered: Vec::new(),
        last_sync_date: Timestamp::EPOCH,
        newest: Timestamp::EPOCH,
        pull: None,
    }))
}

#[test]
fn two_callers_may_have_a_device_of_one_name() {
    let fleet = fleet(9);
    for caller in [&named("a"), &named("b"), &named("a")] {
        visit(&fleet, "till", caller, at(1));
    }
    let report = fleet.report(None, at(2)).worst("till", 9);
    assert_eq!((report.known, report.matching), (2, 2));
    assert_eq!(fleet.find("till", None).unwrap_err(), NotFound::Several);
    assert_eq!(fleet.find("till", Some("b")).unwrap().caller, named("b"));
    assert_eq!(fleet.find("till", Some("c")).unwrap_err(), NotFound::Nobody);
    assert_eq!(fleet.find("TILL", None).unwrap_err(), NotFound::Nobody);
}

#[test]
fn whoever_comes_with_a_new_cursor_has_what_it_was_given_last() {
    let (fleet, caller) = (fleet(9), Caller::anyone());
    let current = |seconds| {
        let report = fleet.report(None, at(seconds)).worst("", 9);
        report.devices.first().unwrap().current_as_of
    };
    let first = visit(&fleet, "till", &caller, at(1));
    first.asks("", &Since::Nothing, &Asked::All);
    first.served(false, at(2));
    assert_eq!(current(3), None, "whether it has arrived is not known");
    let second = visit(&fleet, "till", &caller, at(10));
    second.asks("A", &cursor(), &Asked::All);
    assert_eq!(current(11), Some(at(2)));
    second.served(false, at(12));
    // It asks again from there: the page has not arrived.
    visit(&fleet, "till", &caller, at(20)).asks("A", &cursor(), &Asked::All);
    assert_eq!(current(21), Some(at(2)));
    let third = visit(&fleet, "till", &caller, at(30));
    third.asks("B", &cursor(), &Asked::All);
    assert_eq!(current(31), Some(at(12)));
    third.served(true, at(32));
    assert_eq!(current(33), Some(at(32)), "an empty page says it at once");
}

#[test]
fn a_cursor_that_is_too_long_is_not_kept() {
    let (fleet, caller) = (fleet(9), Caller::anyone());
    let till = visit(&fleet, "till", &caller, at(1));
    for (bytes, is_kept) in [(SINCE_BYTES_MAX, true), (SINCE_BYTES_MAX + 1, false)] {
        till.asks(&"x".repeat(bytes), &cursor(), &Asked::All);
        assert_eq!(!fleet.find("till", None).unwrap().since.is_empty(), is_kept);
    }
}

#[test]
fn of_many_requests_the_latest_count() {
    let (fleet, caller) = (fleet(9), Caller::anyone());
    let till = visit(&fleet, "till", &caller, at(1));
    let told = || fleet.report(None, at(9)).worst("", 9).devices.remove(0);
    for _ in 0..100 {
        till.answered(503, Some("unavailable"), at(2));
    }
    let device = told();
    let errors: Vec<_> = device.errors.iter().map(|of| (of.status, of.times)).collect();
    assert_eq!((errors, device.is_failing), (vec![(503, 16)], true));
    for _ in 0..10 {
        till.answered(200, None, at(3));
    }
    let device = told();
    let errors: Vec<_> = device.errors.iter().map(|of| (of.status, of.times)).collect();
    assert_eq!((errors, device.is_failing), (vec![(503, 6)], false));
    assert_eq!(device.last_error.unwrap().heard, at(2));
}

#[test]
fn one_that_waits_is_seen_now_and_does_not_fail() {
    let (fleet, caller) = (fleet(9), Caller::anyone());
    let device = Device::new("till").unwrap().having_failed(Some("unreachable"));
    let visit = fleet.visit(&device, &caller, at(1)).unwrap();
    let told = || fleet.report(None, at(50)).worst("", 9).devices.remove(0);
    assert!(told().is_failing);
    let waiting = visit.waits();
    let device = told();
    assert_eq!(
        (device.waits, device.is_failing, device.last_seen),
        (true, false, at(50))
    );
    drop(waiting);
    assert_eq!((told().waits, told().last_seen), (false, at(1)));
}
