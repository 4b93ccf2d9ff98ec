use super::*;
use crate::snapshot::{XIDS_IN_FLIGHT_MAX, Xid};
use proptest::prelude::*;

fn snapshots() -> impl Strategy<Value = Snapshot> {
    (any::<u64>(), proptest::collection::vec(any::<u64>(), 0..20))
        .prop_map(|(xmax, list)| Snapshot::new(Xid(xmax), list.into_iter().map(Xid).collect()))
}

fn dates() -> impl Strategy<Value = Timestamp> {
    // The years 1 to 9999.
    (-62_135_596_800_000_000_i64..253_402_300_800_000_000).prop_map(Timestamp::from_micros)
}

fn covered() -> impl Strategy<Value = Vec<Covered>> {
    proptest::collection::vec(
        (any::<i32>(), any::<u64>()).prop_map(|(number, incarnation)| Covered { number, incarnation }),
        0..5,
    )
}

fn pulls() -> impl Strategy<Value = Pull> {
    let step = prop_oneof![
        Just(Step::Anew),
        Just(Step::Tombstones),
        Just(Step::Flagged),
        Just(Step::Rows),
        Just(Step::Purged)
    ];
    let key = proptest::collection::vec("[^\0]{0,9}", 0..4);
    let after = proptest::option::of((any::<u64>(), key).prop_map(|(order, key)| After { order, key }));
    (snapshots(), covered(), any::<i32>(), step, any::<u32>(), after).prop_map(
        |(target, pulled, entity, step, scope, after)| Pull {
            target,
            pulled,
            position: Position {
                entity,
                step,
                scope,
                after,
            },
        },
    )
}

fn cursors() -> impl Strategy<Value = Cursor> {
    let seen = prop_oneof![snapshots().prop_map(Seen::Snapshot), dates().prop_map(Seen::Date)];
    let source = (
        any::<u64>(),
        any::<u32>(),
        any::<u128>(),
        any::<u32>(),
        any::<u16>(),
    );
    let source = source.prop_map(|(a, b, c, d, e)| Source {
        system_identifier: a,
        database_oid: b,
        own_id: Uuid::from_u128(c),
        timeline: d,
        era: Era(e),
    });
    let scopes =
        proptest::collection::btree_map(any::<i32>(), proptest::collection::vec(any::<u64>(), 0..4), 0..3);
    let rest = (
        any::<u64>(),
        scopes.prop_map(Remembered),
        any::<u64>(),
        dates(),
        dates(),
    );
    (source, seen, covered(), rest, proptest::option::of(pulls())).prop_map(
        |(source, seen, covered, (scope, scopes, wal, date, newest), pull)| Cursor {
            source,
            scope,
            scopes,
            wal: Lsn(wal),
            seen,
            covered,
            last_sync_date: date,
            newest,
            pull,
        },
    )
}

fn with_check(body: &[u8]) -> String {
    let mut bytes = body.to_vec();
    bytes.extend(crc32fast::hash(body).to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn a_cursor_has_one_text() {
    let body = |system: &[u8], in_flight: &[u8], follows: u8| {
        // Database, own id, timeline, scope, log; then the snapshot up to 9, nothing covered, no dates.
        let head = [&[VERSION], system, &[5], &[7; 16], &[1, 0, 0, 0, 9]].concat();
        [&head, in_flight, &[0, 0, 0, follows]].concat()
    };
    let largest = [&[0xff; 9][..], &[1]].concat();
    for system in [&[3][..], &largest] {
        assert!(Cursor::decode(&with_check(&body(system, &[2, 1, 1], 0))).is_ok());
    }
    let beyond = [&[0xff; 9][..], &[3]].concat();
    for (system, in_flight, follows) in [
        // The same number, with a zero before it, and with bits that no number has room for.
        (&[0x83, 0][..], &[2, 1, 1][..], 0),
        (&beyond, &[2, 1, 1], 0),
        // An id twice, and one that is not below xmax.
        (&[3], &[2, 1, 0], 0),
        (&[3], &[2, 0, 1], 0),
        // A mark for something that cursors do not have.
        (&[3], &[2, 1, 1], 8),
    ] {
        let text = with_check(&body(system, in_flight, follows));
        assert_eq!(Cursor::decode(&text), Err(CursorError::Damaged));
    }
}

#[test]
fn as_many_ids_are_read_as_may_be_in_flight() {
    let busy = |in_flight: usize| {
        let ids = (0..in_flight as u64).map(Xid).collect();
        let seen = Seen::Snapshot(Snapshot::new(Xid(10_000), ids));
        Cursor { seen, ..cursor() }
    };
    let most = busy(XIDS_IN_FLIGHT_MAX);
    assert_eq!(Cursor::decode(&most.encode()), Ok(most));
    assert_eq!(
        Cursor::decode(&busy(XIDS_IN_FLIGHT_MAX + 1).encode()),
        Err(CursorError::Damaged)
    );
}

proptest! {
    #[test]
    fn a_cursor_comes_back(cursor in cursors()) {
        let text = cursor.encode();
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        prop_assert_eq!(Cursor::decode(&text), Ok(cursor));
    }

    #[test]
    fn a_cut_or_changed_cursor_is_refused(cursor in cursors(), place: usize, other in "[A-Za-z0-9_-]") {
        let text = cursor.encode();
        let place = place % text.len();
        prop_assert!(Cursor::decode(&text[..place]).is_err());
        let mut changed = text.clone();
        changed.replace_range(place..=place, &other);
        prop_assert!(changed == text || Cursor::decode(&changed).is_err());
    }

    #[test]
    fn any_text_is_read_without_panic(text in ".{0,200}", bytes: Vec<u8>) {
        let _ = Cursor::decode(&text);
        // With a right check sum, so that the reader itself meets nonsense.
        let mut body = vec![VERSION];
        body.extend(&bytes);
        let _ = Cursor::decode(&with_check(&body));
    }
}

fn cursor() -> Cursor {
    let covered = |number| Covered {
        number,
        incarnation: 1,
    };
    Cursor {
        source: Source {
            system_identifier: 1,
            database_oid: 2,
            own_id: Uuid::from_u128(3),
            timeline: 4,
            era: Era(0),
        },
        scope: 5,
        scopes: Remembered::default(),
        wal: Lsn(100),
        seen: Seen::Snapshot(Snapshot::new(Xid(50), vec![Xid(40)])),
        covered: vec![covered(7), covered(3)],
        last_sync_date: Timestamp::EPOCH,
        newest: Timestamp::EPOCH,
        pull: None,
    }
}

#[test]
fn who_is_led_to_a_snapshot_has_been_sent_nothing_and_must_hear_all_of_it() {
    let settled = cursor();
    let to = |xmax, in_flight| Snapshot::new(Xid(xmax), in_flight);
    let later = Source {
        timeline: settled.source.timeline + 1,
        ..settled.source
    };
    let led = settled.leading_to(later, &to(60, vec![Xid(55)]), Lsn(200));
    assert_eq!(
        led.source, later,
        "the position in the log is one of this timeline"
    );
    assert!(settled.is_settled() && led.is_settled());
    assert_eq!(
        (led.wal, settled.leading_to(later, &to(60, vec![]), Lsn(50)).wal),
        (Lsn(200), Lsn(100))
    );
    assert_eq!((&led.seen, &led.covered), (&settled.seen, &settled.covered));
    let pull = led.pull.clone().expect("a pull");
    assert_eq!(
        (pull.pulled.as_slice(), pull.position.entity),
        (settled.covered.as_slice(), 3)
    );
    assert_eq!(led.snapshots().count(), 2);
    assert_eq!(led.entities().collect::<Vec<_>>(), [7, 3, 7, 3]);
    // Led on, it must hear of what it was promised before as well.
    let on = led.leading_to(later, &to(58, vec![Xid(57)]), Lsn(200));
    let target = on.pull.expect("a pull").target;
    assert!(target.sees(Xid(59)) && target.sees(Xid(57)), "{target:?}");
    // Once something was sent it stands in the middle.
    let mut sent = led;
    if let Some(pull) = &mut sent.pull {
        pull.position.step = Step::Rows;
    }
    assert!(!sent.is_settled());
}

#[test]
fn a_cursor_of_a_date_has_the_snapshot_of_its_pull_alone() {
    let of_date = Cursor {
        seen: Seen::Date(Timestamp::EPOCH),
        ..cursor()
    };
    assert_eq!(of_date.snapshots().count(), 0);
    let led = of_date.leading_to(of_date.source, &Snapshot::new(Xid(60), vec![]), Lsn(200));
    assert_eq!(led.snapshots().count(), 1);
}

#[test]
fn what_is_no_cursor_of_this_version_is_told_from_one_of_a_later() {
    let of_version = |version: u8| Cursor::decode(&with_check(&[version]));
    assert_eq!(of_version(VERSION + 1), Err(CursorError::Newer));
    assert_eq!(of_version(VERSION - 1), Err(CursorError::Damaged));
    assert_eq!(Cursor::decode(&with_check(&[])), Err(CursorError::Damaged));
}

#[test]
fn the_longest_cursor_is_read_and_none_that_is_longer() {
    let with_key = |bytes: usize| {
        let mut cursor = cursor();
        cursor = cursor.leading_to(cursor.source, &Snapshot::nothing(), Lsn(0));
        if let Some(pull) = &mut cursor.pull {
            let key = (0..4).map(|place| "k".repeat((bytes + place) / 4)).collect();
            pull.position.after = Some(After { order: 0, key });
        }
        cursor.encode()
    };
    let long = 45_000;
    let more = CURSOR_CHARS_MAX * 3 / 4 - with_key(long).len() * 3 / 4;
    let longest = with_key(long + more);
    assert_eq!(longest.len(), CURSOR_CHARS_MAX);
    assert!(Cursor::decode(&longest).is_ok());
    assert_eq!(
        Cursor::decode(&with_key(long + more + 1)),
        Err(CursorError::Damaged)
    );
}
