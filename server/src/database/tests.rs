//! What a moment can serve.

use super::*;
use crate::cursor::{Position, Pull, Seen, Step};
use crate::scope::Remembered;
use highwater_shared::Timestamp;

/// A page that was read later than its target has left out what had changed by then. A node that has
/// the target and not that would end the pull without it.
#[test]
fn in_the_middle_of_a_pull_a_standby_must_have_replayed_what_earlier_pages_were_read_at() {
    let snapshot = |text: &str| text.parse::<Snapshot>().unwrap();
    let source = Source {
        system_identifier: 1,
        database_oid: 2,
        own_id: Uuid::nil(),
        timeline: 1,
        era: Era::default(),
    };
    let standby = |replayed| Moment {
        source,
        snapshot: snapshot("20:20:"),
        next_xid: Xid(20),
        log: LogEnd::Standby {
            replayed: Lsn(replayed),
        },
        moved: false,
        taken: Instant::now(),
    };
    let settled = Cursor {
        source,
        scope: 0,
        scopes: Remembered::default(),
        wal: Lsn(100),
        seen: Seen::Snapshot(snapshot("10:10:")),
        covered: Vec::new(),
        last_sync_date: Timestamp::EPOCH,
        newest: Timestamp::EPOCH,
        pull: None,
    };
    let midway = Cursor {
        pull: Some(Pull {
            target: snapshot("15:15:"),
            pulled: Vec::new(),
            position: Position {
                entity: 1,
                step: Step::Rows,
                scope: 0,
                after: None,
            },
        }),
        ..settled.clone()
    };
    for (replayed, has_settled, has_midway) in [(99, true, false), (100, true, true), (101, true, true)] {
        let moment = standby(replayed);
        assert_eq!(moment.has(&settled), has_settled, "{replayed}");
        assert_eq!(moment.has(&midway), has_midway, "{replayed}");
    }
}
