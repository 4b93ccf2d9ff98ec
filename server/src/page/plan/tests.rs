use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::scope::Remembered;
use crate::scope::tests::limits;
use crate::snapshot::Era;
use highwater_shared::{EntityName, Timestamp};

const TIMELINE: u32 = 4;
const WRITTEN: Lsn = Lsn(1_000);

fn source(timeline: u32) -> Source {
    Source {
        system_identifier: 1,
        database_oid: 2,
        own_id: Uuid::from_u128(3),
        timeline,
        era: Era::default(),
    }
}

fn up_to(xmax: u64) -> Snapshot {
    Snapshot::new(Xid(xmax), Vec::new())
}

/// A primary that has written so much of the log.
fn primary() -> Moment {
    Moment {
        source: source(TIMELINE),
        snapshot: up_to(50),
        next_xid: Xid(50),
        log: LogEnd::Primary {
            written: WRITTEN,
            flushed: WRITTEN,
        },
        moved: false,
        taken: Instant::now(),
    }
}

fn standby() -> Moment {
    Moment {
        log: LogEnd::Standby { replayed: WRITTEN },
        ..primary()
    }
}

/// A cursor of that primary, a little earlier.
fn cursor() -> Cursor {
    Cursor {
        source: source(TIMELINE),
        scope: Limits::default().hash([]),
        scopes: Remembered::default(),
        wal: Lsn(900),
        seen: Seen::Snapshot(up_to(40)),
        covered: Vec::new(),
        last_sync_date: Timestamp::EPOCH,
        newest: Timestamp::EPOCH,
        pull: None,
    }
}

/// What a caller who may see everything asks for; it does not matter here.
fn unlimited(limits: &Limits) -> Sight<'_> {
    Sight {
        is_asked: &|_| true,
        limits,
        rescoped: RescopedAs::Resync,
    }
}

/// What is said of a cursor: how it stands, or why it is refused.
fn said(cursor: Cursor, moment: &Moment, evidence: &Evidence) -> Result<Standing, String> {
    let since = Since::Cursor(Box::new(cursor));
    check(&since, moment, evidence, unlimited(&Limits::default())).map_err(|error| match error {
        ReadError::Resync { reason, earlier } => {
            let or_earlier = if earlier { ", an earlier one may do" } else { "" };
            format!("{reason:?}{or_earlier}")
        }
        error => error.to_string(),
    })
}

fn plain(cursor: Cursor, moment: &Moment) -> Result<Standing, String> {
    said(cursor, moment, &Evidence::default())
}

fn changed<T>() -> Result<T, String> {
    Err("SourceChanged".to_owned())
}

#[test]
fn a_cursor_of_this_history_is_served() {
    assert_eq!(plain(cursor(), &primary()), Ok(Standing::Level));
    assert_eq!(plain(cursor(), &standby()), Ok(Standing::Level));
}

#[test]
fn a_cursor_of_any_other_database_is_refused() {
    for other in [
        Source {
            system_identifier: 9,
            ..source(TIMELINE)
        },
        Source {
            database_oid: 9,
            ..source(TIMELINE)
        },
        Source {
            own_id: Uuid::nil(),
            ..source(TIMELINE)
        },
    ] {
        let foreign = Cursor {
            source: other,
            ..cursor()
        };
        assert_eq!(plain(foreign, &primary()), changed(), "{other:?}");
    }
    let of_others = Cursor {
        scope: 77,
        ..cursor()
    };
    assert_eq!(plain(of_others, &primary()), Err("ScopeChanged".to_owned()));
}

#[test]
fn a_promotion_keeps_the_cursors_that_lie_before_it() {
    let earlier = |wal| Cursor {
        source: source(TIMELINE - 1),
        wal: Lsn(wal),
        ..cursor()
    };
    let promoted_at = |end| Evidence {
        timeline_end: Some(Lsn(end)),
        ..Evidence::default()
    };
    assert_eq!(
        said(earlier(499), &primary(), &promoted_at(500)),
        Ok(Standing::Level)
    );
    // What it had seen before may still be served, with an earlier cursor.
    assert_eq!(
        said(earlier(500), &primary(), &promoted_at(500)),
        Err("SourceChanged, an earlier one may do".to_owned())
    );
    // Of a timeline that is not known to belong to this history.
    assert_eq!(plain(earlier(1), &primary()), changed());
    // What lies before a mark was kept.
    for (kept, expected) in [
        (Kept::All, Ok(Standing::Level)),
        (
            Kept::NotAll,
            Err("SourceChanged, an earlier one may do".to_owned()),
        ),
    ] {
        let marked = Evidence {
            kept: Some(kept),
            ..Evidence::default()
        };
        assert_eq!(said(earlier(499), &primary(), &marked), expected);
    }
}

#[test]
fn a_dump_that_has_all_that_a_cursor_has_seen_goes_on_with_it() {
    let foreign = |own_id| Cursor {
        source: Source {
            system_identifier: 9,
            own_id,
            ..source(TIMELINE)
        },
        // Of another log.
        wal: Lsn(WRITTEN.0 + 1),
        ..cursor()
    };
    let own_id = source(TIMELINE).own_id;
    let kept = |kept| Evidence {
        kept: Some(kept),
        ..Evidence::default()
    };
    let all = kept(Kept::All);
    assert_eq!(said(foreign(own_id), &primary(), &all), Ok(Standing::Level));
    assert_eq!(
        said(foreign(own_id), &primary(), &kept(Kept::NotAll)),
        Err("SourceChanged, an earlier one may do".to_owned())
    );
    // A copy that was given an id of its own.
    assert_eq!(said(foreign(Uuid::nil()), &primary(), &all), changed());
    // Only what may be seen now.
    let of_others = Cursor {
        scope: 77,
        ..foreign(own_id)
    };
    assert_eq!(said(of_others, &primary(), &all), Err("ScopeChanged".to_owned()));
    // A standby that has not yet heard of the era.
    let ahead = Cursor {
        seen: Seen::Snapshot(up_to(60)),
        ..foreign(own_id)
    };
    assert_eq!(said(ahead, &standby(), &all), Ok(Standing::Behind));
}

#[test]
fn a_later_timeline_is_waited_for_by_a_standby_alone() {
    let later = Cursor {
        source: source(TIMELINE + 1),
        ..cursor()
    };
    assert_eq!(plain(later.clone(), &standby()), Ok(Standing::Behind));
    assert_eq!(plain(later, &primary()), changed());
}

#[test]
fn a_primary_whose_log_ends_before_the_cursor_was_put_back() {
    let at = |wal| Cursor { wal, ..cursor() };
    assert_eq!(plain(at(WRITTEN), &primary()), Ok(Standing::Level));
    let beyond = at(Lsn(WRITTEN.0 + 1));
    assert_eq!(plain(beyond.clone(), &primary()), changed());
    // A standby has not come so far.
    let lagging = Cursor {
        seen: Seen::Snapshot(up_to(60)),
        ..beyond
    };
    assert_eq!(plain(lagging, &standby()), Ok(Standing::Behind));
}

#[test]
fn ids_that_a_primary_has_given_out_will_be_seen_and_others_never() {
    let ahead = Cursor {
        seen: Seen::Snapshot(up_to(60)),
        ..cursor()
    };
    let given_out = |end| Evidence {
        ids_end: Some(Xid(end)),
        ..Evidence::default()
    };
    assert_eq!(
        said(ahead.clone(), &primary(), &given_out(60)),
        Ok(Standing::Behind)
    );
    assert_eq!(said(ahead.clone(), &primary(), &given_out(59)), changed());
    assert_eq!(plain(ahead, &primary()), changed());
}

#[test]
fn what_would_make_a_cursor_too_long_is_refused_before_there_is_one() {
    let busy = |number: usize| Moment {
        snapshot: Snapshot::new(Xid(10_000), (0..number).map(|xid| Xid(xid as u64)).collect()),
        ..primary()
    };
    let begun = |moment: &Moment| {
        check(
            &Since::Nothing,
            moment,
            &Evidence::default(),
            unlimited(&Limits::default()),
        )
        .map_err(|error| error.to_string())
    };
    assert_eq!(begun(&busy(XIDS_IN_FLIGHT_MAX)), Ok(Standing::Level));
    let error = begun(&busy(XIDS_IN_FLIGHT_MAX + 1)).expect_err("too many");
    assert!(error.contains("4000 transactions"), "{error}");
    let moved = Moment {
        moved: true,
        ..primary()
    };
    assert!(begun(&moved).expect_err("moved").contains("rebase"));
}

fn entity(number: i32, incarnation: u64) -> Entity {
    Entity {
        covered: Covered { number, incarnation },
        name: EntityName::new(format!("e{number}")),
        table: String::new(),
        columns: Vec::new(),
        key: Vec::new(),
        scope: None,
        fingerprint: String::new(),
        estimated_rows: None,
        is_row_secured: false,
        began_date: Timestamp::EPOCH,
        purged: None,
        fault: None,
    }
}

/// A cursor in the middle of a pull of the entities 1 to 3, of which the first is sent.
fn midway(step: Step) -> Cursor {
    let covered: Vec<Covered> = (1..4).map(|number| entity(number, 1).covered).collect();
    Cursor {
        covered: covered.clone(),
        pull: Some(Pull {
            target: up_to(45),
            pulled: covered,
            position: Position {
                entity: 2,
                step,
                scope: 0,
                after: None,
            },
        }),
        ..cursor()
    }
}

/// The parts of the next page, as numbers, and whether each begins anew; then what the pull will cover.
fn next(cursor: &Cursor, entities: &[Entity], truncated: &[i32]) -> (Vec<(i32, bool)>, Vec<Covered>) {
    let since = Since::Cursor(Box::new(cursor.clone()));
    let plan = plan(
        &since,
        entities,
        &up_to(50),
        &Limits::default(),
        PurgedAs::Reset,
        |number| truncated.contains(&number),
    );
    let parts = plan.parts.iter().map(|part| {
        let entity = entities.get(part.entity).expect("an entity");
        let is_under_way = part.from.is_some();
        assert_eq!(is_under_way, entity.covered.number == 2);
        (entity.covered.number, part.anew)
    });
    (parts.collect(), plan.pulled.clone())
}

#[test]
fn a_pull_goes_on_with_what_is_left_of_it() {
    let entities = [entity(1, 1), entity(2, 1), entity(3, 1), entity(4, 1)];
    let (parts, pulled) = next(&midway(Step::Rows), &entities, &[]);
    // What came to be since is left to the next.
    assert_eq!(parts, [(2, false), (3, false)]);
    assert_eq!(pulled, midway(Step::Rows).covered);
}

#[test]
fn what_was_sent_of_another_incarnation_is_not_covered_by_the_end() {
    // Sent whole, under way, and not begun.
    for (renewed, parts_left, covered_left) in [
        (1, vec![(2, false), (3, false)], vec![1, 2, 3]),
        (2, vec![(3, false)], vec![1, 3]),
        (3, vec![(2, false)], vec![1, 2]),
    ] {
        let incarnation = |number| if number == renewed { 2 } else { 1 };
        let entities: Vec<Entity> = (1..4).map(|number| entity(number, incarnation(number))).collect();
        let (parts, pulled) = next(&midway(Step::Rows), &entities, &[]);
        assert_eq!(parts, parts_left, "{renewed}");
        let numbers: Vec<i32> = pulled.iter().map(|covered| covered.number).collect();
        assert_eq!(numbers, covered_left, "{renewed}");
        assert!(
            pulled.iter().all(|covered| covered.incarnation == 1),
            "{pulled:?}"
        );
    }
}

#[test]
fn a_truncate_in_the_middle_ends_what_is_under_way_and_begins_what_is_not() {
    let entities = [entity(1, 1), entity(2, 1), entity(3, 1)];
    let (parts, pulled) = next(&midway(Step::Rows), &entities, &[2]);
    assert_eq!((parts, pulled.len()), (vec![(3, false)], 2));
    let (parts, pulled) = next(&midway(Step::Rows), &entities, &[3]);
    assert_eq!((parts, pulled.len()), (vec![(2, false), (3, true)], 3));
    // What is being sent anew has the truncate in it.
    let (parts, pulled) = next(&midway(Step::Anew), &entities, &[2]);
    assert_eq!((parts, pulled.len()), (vec![(2, true), (3, false)], 3));
}

#[test]
fn the_end_of_a_pull_has_seen_what_was_seen_before_and_what_it_led_to() {
    let since = |cursor: Cursor| Since::Cursor(Box::new(cursor));
    let own = Snapshot::new(Xid(60), vec![Xid(30)]);
    let of =
        |since: &Since| plan(since, &[], &own, &Limits::default(), PurgedAs::Reset, |_| false).seen_at_end();
    // The page's own snapshot is all that can be seen.
    assert_eq!(of(&since(cursor())), own);
    assert_eq!(of(&Since::Nothing), own);
    assert_eq!(of(&Since::Date(Timestamp::EPOCH)), own);
    // One that was taken on a standby may have seen less than the cursor had: both count.
    let mut led = midway(Step::Rows);
    if let Some(pull) = &mut led.pull {
        pull.target = Snapshot::new(Xid(45), vec![Xid(30)]);
    }
    assert_eq!(of(&since(led)), up_to(45));
}

/// A cursor of the entities 1 and 2, whose holder might see this of them.
fn limited(limits: &Limits) -> Cursor {
    Cursor {
        scope: limits.hash([1, 2]),
        scopes: limits.remembered([1, 2]),
        covered: vec![entity(1, 1).covered, entity(2, 1).covered],
        ..cursor()
    }
}

/// Whether a cursor is served to who asks for these entities and may see this: as it is, and where a change may be told by rows.
fn serves(cursor: &Cursor, asked: &[i32], limits: &Limits) -> (bool, bool) {
    let by = |rescoped| {
        let sight = Sight {
            is_asked: &|number| asked.contains(&number),
            limits,
            rescoped,
        };
        sight.serves(cursor)
    };
    (by(RescopedAs::Resync), by(RescopedAs::Rows))
}

#[test]
fn who_may_see_other_rows_is_told_of_them_or_begins_anew() {
    let before = limits(&[(1, &["a"]), (2, &["a", "b"])]);
    let cursor = limited(&before);
    assert_eq!(serves(&cursor, &[1, 2], &before), (true, true));
    let after = limits(&[(1, &["a"]), (2, &["b", "c"])]);
    assert_eq!(serves(&cursor, &[1, 2], &after), (false, true));
    // What has changed is not asked for, and so is not covered by what comes.
    assert_eq!(serves(&cursor, &[1], &after), (true, true));
    assert_eq!(serves(&cursor, &[2], &after), (false, true));
    // It is there no more.
    assert_eq!(serves(&cursor, &[1], &limits(&[(1, &["a"])])), (true, true));
    // It is limited no more.
    assert_eq!(serves(&cursor, &[1, 2], &limits(&[(1, &["a"])])), (false, false));
    // It was withheld, whether it is asked for or not.
    let mut withheld = limits(&[(1, &["a"])]);
    withheld.forbid(2);
    assert_eq!(serves(&cursor, &[1], &withheld), (false, false));
}

#[test]
fn who_had_more_scopes_than_a_cursor_remembers_begins_anew_with_others() {
    let many: Vec<String> = (100..200).map(|scope| scope.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let before = limits(&[(1, &many)]);
    let cursor = limited(&before);
    assert_eq!(serves(&cursor, &[1, 2], &before), (true, true));
    for after in [
        limits(&[(1, &many[1..])]),
        limits(&[(1, &["a"])]),
        Limits::default(),
    ] {
        assert_eq!(serves(&cursor, &[1, 2], &after), (false, false), "{after:?}");
    }
    // It is not known any more which entity of the two was limited.
    assert_eq!(serves(&cursor, &[2], &Limits::default()), (false, false));
}

#[test]
fn a_change_is_told_by_rows_to_the_end_and_one_at_a_time() {
    let before = limits(&[(1, &["a"]), (2, &["a"])]);
    let after = limits(&[(1, &["a"]), (2, &["b"])]);
    let begun = Cursor {
        scope: after.hash([1, 2]),
        pull: midway(Step::Rows).pull,
        ..limited(&before)
    };
    assert_eq!(serves(&begun, &[1, 2], &after), (false, true));
    assert_eq!(
        serves(&begun, &[1], &after),
        (true, true),
        "it is not of what has changed"
    );
    for once_more in [before, limits(&[(1, &["a"]), (2, &["c"])])] {
        assert_eq!(serves(&begun, &[1, 2], &once_more), (false, false));
    }
    // In the middle of a pull it is not told apart what has changed.
    let midway = Cursor {
        scope: after.hash([1, 2]),
        pull: midway(Step::Rows).pull,
        ..limited(&after)
    };
    assert_eq!(serves(&midway, &[1, 2], &after), (true, true));
    assert_eq!(serves(&midway, &[1], &limits(&[(1, &["a"])])), (false, false));
}
