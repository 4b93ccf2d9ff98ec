//! Where the rows of a database come from that was restored from a dump, or promoted.
//!
//! A dump does not say when it was taken. So `highwater-server mark` writes down before it how far the database
//! has come: the position of its log, and a snapshot. Whoever finds that mark in a restored database knows that the dump
//! is later. A cursor that the same database gave out on the same timeline, whose position lies before that of the mark, and
//! whose snapshots the mark's has seen, has seen nothing that the dump lacks:
//!
//! - The commits that it has seen lie in the log before its position, so before the commit of the mark. A history
//!   that has the one has the others, also where standbys were promoted between.
//! - The dump's snapshot is later than the mark's, which has seen them too. Without this a dump could lack a commit that a
//!   standby has shown while it still waited on the primary.
//!
//! So the ids of its rows are still what the cursor means by them, as long as nothing was stamped with ids of the new cluster
//! among them: see `highwater.rebase`.
//!
//! The same holds of a standby that was promoted: what lies before a mark of the earlier timeline that it has was kept. Its
//! history file tells more ([`crate::timeline`]), to whom may read that.

use std::borrow::Cow;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::cursor::{Covered, Cursor, Lsn, Pull};
use crate::page::Since;
use crate::snapshot::{Era, Snapshot};
use crate::unprepared;

/// The marks that a database has: its own, and those of the database that was dumped, if it was restored.
#[derive(Clone, Debug)]
pub(crate) struct Lineage {
    here: Place,
    marks: Vec<Mark>,
}

/// A database of a cluster, and how often it was rebased there.
type Place = (u64, u32, Era);

/// How far a database had come on one of its timelines, and one of its entities.
#[derive(Clone, Debug)]
struct Mark {
    place: Place,
    timeline: u32,
    position: Lsn,
    snapshot: Snapshot,
    /// The entity as cursors of that database have it.
    then: Covered,
    /// Its incarnation here; `None` where it has become another one since.
    now: Option<u64>,
}

/// What there is of all that the holder of a cursor of another database, or of an earlier timeline, has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// All of it.
    All,
    /// Perhaps not all. Of what was given out before a mark there is.
    NotAll,
}

const HERE: &str = "select system_identifier, database::bigint, era from highwater.source";

const MARKS: &str = "
    select m.system_identifier, m.database::bigint, m.era, m.timeline, (m.position - '0/0')::bigint as position,
        m.snapshot::text as snapshot, m.entity, m.incarnation as entity_then,
        case when e.rebased_as = highwater.incarnation_of(e) then e.rebased_as end as entity_now
    from highwater.mark m
    join highwater.entity e on e.number = m.entity
    order by m.entity";

impl Lineage {
    /// Reads it, in the transaction that stands.
    pub(crate) async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let here = unprepared::query(HERE).fetch_one(&mut *connection).await?;
        let rows = unprepared::query(MARKS).fetch_all(connection).await?;
        let mark = |row: &PgRow| {
            let snapshot: String = row.try_get("snapshot")?;
            let now: Option<i64> = row.try_get("entity_now")?;
            Ok(Mark {
                place: place(row)?,
                timeline: u32::try_from(row.try_get::<i32, _>("timeline")?).map_err(decode)?,
                position: Lsn(row.try_get::<i64, _>("position")?.cast_unsigned()),
                snapshot: snapshot.parse().map_err(decode)?,
                then: Covered {
                    number: row.try_get("entity")?,
                    incarnation: row.try_get::<i64, _>("entity_then")?.cast_unsigned(),
                },
                now: now.map(i64::cast_unsigned),
            })
        };
        Ok(Self {
            here: place(&here)?,
            marks: rows.iter().map(mark).collect::<Result<_, sqlx::Error>>()?,
        })
    }

    /// Whether a cursor is of another database than this, or of an earlier era.
    pub(crate) fn is_foreign(&self, cursor: &Cursor) -> bool {
        place_of(cursor) != self.here
    }

    /// What there is of all that the holder of a cursor has seen; `None` where there is no mark of its database and timeline.
    pub(crate) fn kept(&self, cursor: &Cursor) -> Option<Kept> {
        let mut kept = None;
        for mark in self.of(cursor) {
            let has_all =
                cursor.wal < mark.position && cursor.snapshots().all(|seen| mark.snapshot.covers(seen));
            if has_all {
                return Some(Kept::All);
            }
            kept = Some(Kept::NotAll);
        }
        kept
    }

    /// The same of a cursor of another database; `None` also for one of this, of which its own marks say nothing.
    pub(crate) fn kept_of_another(&self, cursor: &Cursor) -> Option<Kept> {
        self.is_foreign(cursor).then(|| self.kept(cursor)).flatten()
    }

    /// What a caller has in terms of this database, where its cursor is of another and all is there that it has seen: entities
    /// as they are called here, and no position in a log that is another's.
    pub(crate) fn adopted<'a>(&self, since: &'a Since) -> Cow<'a, Since> {
        match since {
            Since::Cursor(cursor) if self.kept_of_another(cursor) == Some(Kept::All) => {
                let here = |covered: &Covered| Covered {
                    number: covered.number,
                    incarnation: self.now(cursor, covered).unwrap_or(covered.incarnation),
                };
                Cow::Owned(Since::Cursor(Box::new(Cursor {
                    wal: Lsn(0),
                    covered: cursor.covered.iter().map(here).collect(),
                    pull: cursor.pull.as_ref().map(|pull| Pull {
                        pulled: pull.pulled.iter().map(here).collect(),
                        ..pull.clone()
                    }),
                    ..(**cursor).clone()
                })))
            }
            since => Cow::Borrowed(since),
        }
    }

    fn now(&self, cursor: &Cursor, covered: &Covered) -> Option<u64> {
        self.of(cursor).find(|mark| mark.then == *covered)?.now
    }

    fn of(&self, cursor: &Cursor) -> impl Iterator<Item = &Mark> {
        let (place, timeline) = (place_of(cursor), cursor.source.timeline);
        self.marks
            .iter()
            .filter(move |mark| mark.place == place && mark.timeline == timeline)
    }
}

fn place_of(cursor: &Cursor) -> Place {
    let source = cursor.source;
    (source.system_identifier, source.database_oid, source.era)
}

fn place(row: &PgRow) -> Result<Place, sqlx::Error> {
    let system_identifier: i64 = row.try_get("system_identifier")?;
    let database: i64 = row.try_get("database")?;
    let era: i16 = row.try_get("era")?;
    Ok((
        system_identifier.cast_unsigned(),
        u32::try_from(database).map_err(decode)?,
        Era(u16::try_from(era).map_err(decode)?),
    ))
}

fn decode(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

#[cfg(test)]
mod tests {
    use highwater_shared::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::cursor::{Position, Seen, Source, Step};
    use crate::scope::Remembered;
    use crate::snapshot::Xid;

    const POSITION: Lsn = Lsn(500);

    fn source(database_oid: u32, era: u16, timeline: u32) -> Source {
        Source {
            system_identifier: 1,
            database_oid,
            own_id: Uuid::nil(),
            timeline,
            era: Era(era),
        }
    }

    fn up_to(xmax: u64) -> Snapshot {
        Snapshot::new(Xid(xmax), vec![Xid(30)])
    }

    fn covered(number: i32, incarnation: u64) -> Covered {
        Covered { number, incarnation }
    }

    /// A database with the number 9, restored from one with the number 2 that had come so far.
    fn restored() -> Lineage {
        let mark = |number, incarnation, now| Mark {
            place: (1, 2, Era(0)),
            timeline: 4,
            position: POSITION,
            snapshot: up_to(50),
            then: covered(number, incarnation),
            now,
        };
        Lineage {
            here: (1, 9, Era(1)),
            marks: vec![mark(7, 70, Some(71)), mark(8, 80, None)],
        }
    }

    fn cursor() -> Cursor {
        Cursor {
            source: source(2, 0, 4),
            scope: 0,
            scopes: Remembered::default(),
            wal: Lsn(499),
            seen: Seen::Snapshot(up_to(50)),
            covered: vec![covered(7, 70), covered(8, 80)],
            last_sync_date: Timestamp::EPOCH,
            newest: Timestamp::EPOCH,
            pull: None,
        }
    }

    #[test]
    fn all_is_kept_that_lies_before_a_mark_and_that_its_snapshot_has_seen() {
        let lineage = restored();
        let seen = |snapshot| Cursor {
            seen: Seen::Snapshot(snapshot),
            ..cursor()
        };
        let pulling = |target| Cursor {
            pull: Some(Pull {
                target,
                pulled: Vec::new(),
                position: Position {
                    entity: 7,
                    step: Step::Anew,
                    scope: 0,
                    after: None,
                },
            }),
            ..cursor()
        };
        let at = |wal| Cursor { wal, ..cursor() };
        for kept in [cursor(), seen(up_to(40)), pulling(up_to(50)), at(Lsn(0))] {
            assert_eq!(lineage.kept(&kept), Some(Kept::All), "{kept:?}");
        }
        // What was in flight when the mark was made may be missing, whatever is in flight no more.
        let later = Snapshot::new(Xid(50), Vec::new());
        for other in [at(POSITION), seen(up_to(51)), seen(later.clone()), pulling(later)] {
            assert_eq!(lineage.kept(&other), Some(Kept::NotAll), "{other:?}");
        }
        for elsewhere in [source(3, 0, 4), source(2, 1, 4), source(2, 0, 3), source(2, 0, 5)] {
            let elsewhere = Cursor {
                source: elsewhere,
                ..cursor()
            };
            assert_eq!(lineage.kept(&elsewhere), None, "{elsewhere:?}");
        }
    }

    #[test]
    fn a_cursor_of_the_dumped_database_is_told_what_its_entities_are_called_here() {
        let lineage = restored();
        let adopted = |cursor: Cursor| match lineage.adopted(&Since::Cursor(Box::new(cursor))).into_owned() {
            Since::Cursor(cursor) => *cursor,
            other => panic!("{other:?}"),
        };
        // The second one has become another, and the third was none when the mark was made.
        let mut whole = cursor();
        whole.covered.push(covered(9, 90));
        let whole = adopted(whole);
        assert_eq!(whole.covered, [covered(7, 71), covered(8, 80), covered(9, 90)]);
        assert_eq!(whole.wal, Lsn(0), "a position in the log of another");
        // One that may lack something stays what it is, and so does one of this database.
        let of_here = Cursor {
            source: source(9, 1, 4),
            ..cursor()
        };
        for other in [
            Cursor {
                wal: POSITION,
                ..cursor()
            },
            of_here,
        ] {
            assert_eq!(adopted(other.clone()), other);
        }
        assert!(!lineage.is_foreign(&Cursor {
            source: source(9, 1, 8),
            ..cursor()
        }));
        assert!(lineage.is_foreign(&Cursor {
            source: source(9, 0, 4),
            ..cursor()
        }));
    }
}
