//! The history of samples that makes dates safe.
//!
//! A date is safe to go on from when no transaction can still commit a row stamped before it.
//! A sample reads the clock, then the ids that hold a lock, then the snapshot. Every row stamped
//! up to that clock bears an id below the sample's bound: its transaction took the id before
//! the stamp, and so either still held its lock or had completed when the snapshot was taken.
//! (Or hardly later than the stamp: the sample stays behind the clock by that much.)
//! Once a page's snapshot has seen all ids below the bound, it has all rows up to that clock.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use highwater_shared::Timestamp;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::database::{LogEnd, Moment};
use crate::snapshot::{Era, Snapshot, Xid};
use crate::unprepared;

/// The most samples that are kept; beyond it every other of the older half goes.
const SAMPLES_MAX: usize = 4_096;

/// How far a sample stays behind the clock. A new row may bring a date of its own that is this
/// much older than its id; see the trigger `~~highwater_insert`.
const DATE_MARGIN_MICROSECONDS: i64 = 10_000;

/// The ids that hold a lock on themselves, as all do that are in flight. By the function that the view `pg_locks`
/// reads, since the view's plan takes longer to make than all else that a sample reads.
const LOCKED: &str = "select transactionid::text from pg_lock_status()
    where locktype = 'transactionid' and mode = 'ExclusiveLock' and granted";

/// What was so at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sample {
    clock: Timestamp,
    bound: Xid,
}

/// The history of samples.
#[derive(Debug, Default)]
pub struct Samples {
    history: Mutex<VecDeque<Sample>>,
    writing: Mutex<Option<Writing>>,
}

/// Who was writing at the time of the last sample.
#[derive(Clone, Copy, Debug)]
struct Writing {
    /// The first clock that was ever read, and the last.
    first: Timestamp,
    last: Timestamp,
    /// The lowest id that held a lock.
    oldest: Option<Xid>,
}

impl Samples {
    /// The latest date up to which a snapshot with this `xmin` has every row; `None` where the
    /// history does not reach back far enough to know.
    pub fn safe_date(&self, xmin: Xid) -> Option<Timestamp> {
        let samples = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let known = samples.partition_point(|sample| sample.bound <= xmin);
        samples.get(known.checked_sub(1)?).map(|sample| sample.clock)
    }

    /// The date that is safe to send next, for a caller that has sent `sent`, has got changes up to
    /// `newest`, and stands at this moment. On a standby it stays what it was.
    pub fn last_sync_date(&self, moment: &Moment, sent: Timestamp, newest: Timestamp) -> Timestamp {
        let safe = match moment.log {
            LogEnd::Primary { .. } => self.safe_date(moment.snapshot.xmin()),
            LogEnd::Standby { .. } => None,
        };
        safe.map_or(sent, |safe| sent.max(newest.min(safe)))
    }

    /// Takes a sample, and returns its snapshot. `None` on a standby, where nothing tells of locks.
    pub async fn take(&self, connection: &mut PgConnection) -> Result<Option<Snapshot>, sqlx::Error> {
        // One message, and in it statements with a snapshot each: within one statement the order of
        // reading is not ours to choose.
        let statements = format!(
            "begin isolation level read committed read only;
             show in_hot_standby;
             select ((extract(epoch from clock_timestamp()) * 1000000)::bigint)::text;
             {LOCKED};
             select pg_current_snapshot()::text;
             select era::text from highwater.source;
             commit"
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(statements))
            .fetch_all(connection)
            .await?;
        let texts: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let unreadable = || sqlx::Error::Protocol("a sample cannot be read".to_owned());
        let [standby, clock, locked @ .., snapshot, era] = texts.as_slice() else {
            return Err(unreadable());
        };
        if standby == "on" {
            *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return Ok(None);
        }
        let clock: i64 = clock.parse().map_err(|_| unreadable())?;
        let snapshot: Snapshot = snapshot.parse().map_err(|_| unreadable())?;
        let snapshot = snapshot.in_era(Era(era.parse().map_err(|_| unreadable())?));
        let locked = locked.iter().filter_map(|xid| xid.parse().ok());
        let locked: Vec<Xid> = locked.map(|low| widened(&snapshot, low)).collect();
        let clock = Timestamp::from_micros(clock - DATE_MARGIN_MICROSECONDS);
        self.note(clock, locked.iter().min().copied());
        self.add(Sample {
            clock,
            bound: bound(&snapshot, locked),
        });
        Ok(Some(snapshot))
    }

    /// The age of the oldest transaction that writes, to the time between two samples; zero where none
    /// does, and `None` where that is not known, as on a standby.
    pub fn oldest_writer(&self) -> Option<Duration> {
        let writing = *self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Writing { first, last, oldest } = writing?;
        let Some(oldest) = oldest else {
            return Some(Duration::ZERO);
        };
        // The last clock at which its id had not been given out; a history that does not reach back so far
        // knows at least its own length.
        let since = self.safe_date(oldest).unwrap_or(first);
        let age = last.micros().saturating_sub(since.micros());
        Some(Duration::from_micros(u64::try_from(age).unwrap_or_default()))
    }

    fn note(&self, clock: Timestamp, oldest: Option<Xid>) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let first = writing.map_or(clock, |writing| writing.first.min(clock));
        *writing = Some(Writing {
            first,
            last: clock,
            oldest,
        });
    }

    fn add(&self, sample: Sample) {
        let mut samples = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that stepped back, or another server's: what was known holds no longer.
        while samples
            .back()
            .is_some_and(|last| last.bound > sample.bound || last.clock > sample.clock)
        {
            samples.pop_back();
        }
        match samples.back_mut() {
            // Nothing happened since: the old bound holds for the new clock.
            Some(last) if last.bound == sample.bound => *last = sample,
            _ => samples.push_back(sample),
        }
        if samples.len() > SAMPLES_MAX {
            let older = samples.len() / 2;
            let mut place = 0;
            samples.retain(|_| {
                place += 1;
                place > older || place % 2 == 1
            });
        }
    }
}

/// The end of the ids that a primary has given out and that may still be in use.
pub(crate) async fn ids_end(connection: &mut PgConnection, snapshot: &Snapshot) -> Result<Xid, sqlx::Error> {
    let locked: Vec<String> = unprepared::query_scalar(LOCKED).fetch_all(connection).await?;
    let locked = locked.iter().filter_map(|xid| xid.parse().ok());
    Ok(bound(snapshot, locked.map(|low| widened(snapshot, low))))
}

/// The bound of a sample: above every id that had been given out when the locks were read. The
/// snapshot's `xmax` is the latest *completed* id + 1, and ids in flight lie above it.
fn bound(snapshot: &Snapshot, locked: impl IntoIterator<Item = Xid>) -> Xid {
    let ends = locked.into_iter().map(|xid| Xid(xid.0.saturating_add(1)));
    ends.fold(snapshot.xmax(), Xid::max)
}

/// The id that a lock names by its low 32 bits; an id in flight is within 2^31 of the snapshot, and of its era.
fn widened(snapshot: &Snapshot, low: u32) -> Xid {
    let near = snapshot.xmax().0;
    let distance = low.wrapping_sub((near & 0xffff_ffff) as u32).cast_signed();
    Xid(near.saturating_add_signed(i64::from(distance)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(clock: i64, bound: u64) -> Sample {
        Sample {
            clock: Timestamp::from_micros(clock),
            bound: Xid(bound),
        }
    }

    #[test]
    fn a_date_is_safe_once_the_bound_is_passed() {
        let samples = Samples::default();
        assert_eq!(samples.safe_date(Xid(100)), None, "nothing is known at first");
        samples.add(sample(1, 10));
        samples.add(sample(2, 20));
        assert_eq!(samples.safe_date(Xid(9)), None);
        assert_eq!(samples.safe_date(Xid(10)), Some(Timestamp::from_micros(1)));
        assert_eq!(samples.safe_date(Xid(25)), Some(Timestamp::from_micros(2)));
    }

    #[test]
    fn ids_in_flight_above_xmax_raise_the_bound() {
        let snapshot = Snapshot::new(Xid((7 << 32) + 50), Vec::new());
        let bound = |snapshot: &Snapshot, locked: &[u32]| {
            super::bound(snapshot, locked.iter().map(|low| widened(snapshot, *low)))
        };
        assert_eq!(bound(&snapshot, &[55, 40]), Xid((7 << 32) + 56));
        let early = Snapshot::new(Xid((7 << 32) + 0xffff_fff0), Vec::new());
        assert_eq!(
            bound(&early, &[3]),
            Xid((8 << 32) + 4),
            "the low half has turned over"
        );
    }

    #[test]
    fn the_oldest_writer_is_as_old_as_its_id() {
        let samples = Samples::default();
        assert_eq!(samples.oldest_writer(), None, "nothing is known at first");
        let look = |clock: i64, oldest: Option<u64>, bound: u64| {
            samples.note(Timestamp::from_micros(clock), oldest.map(Xid));
            samples.add(sample(clock, bound));
            samples.oldest_writer().unwrap().as_micros()
        };
        assert_eq!(look(1_000, Some(9), 10), 0, "it began before this history");
        assert_eq!(look(3_000, Some(9), 10), 2_000);
        assert_eq!(look(4_000, None, 10), 0);
        // Its id was given out after 4000. It stays the oldest while others come and go.
        assert_eq!(look(5_000, Some(10), 11), 1_000);
        assert_eq!(look(9_000, Some(10), 20), 5_000);
        assert_eq!(look(10_000, Some(19), 20), 5_000);
    }

    #[test]
    fn of_a_long_history_the_older_half_is_thinned() {
        let samples = Samples::default();
        let length = || samples.history.lock().unwrap().len();
        let most = i64::try_from(SAMPLES_MAX).unwrap();
        let add = |n: i64| samples.add(sample(n, n.cast_unsigned()));
        let safe = |xmin: i64| samples.safe_date(Xid(xmin.cast_unsigned())).unwrap().micros();
        (0..most).for_each(add);
        assert_eq!(length(), SAMPLES_MAX);
        add(most);
        assert_eq!(length(), SAMPLES_MAX + 1 - SAMPLES_MAX / 4);
        let middle = most / 2;
        assert_eq!(
            [0, 1, middle - 1].map(safe),
            [0, 0, middle - 2],
            "every other is left"
        );
        assert_eq!([middle, middle + 1, most].map(safe), [middle, middle + 1, most]);
        (most + 1..5 * most).for_each(add);
        assert!(length() <= SAMPLES_MAX);
        assert_eq!([0, 5 * most].map(safe), [0, 5 * most - 1]);
    }

    #[test]
    fn while_nothing_happens_one_sample_is_enough() {
        let samples = Samples::default();
        for clock in 1..=3 {
            samples.add(sample(clock, 10));
        }
        assert_eq!(samples.safe_date(Xid(10)), Some(Timestamp::from_micros(3)));
        assert_eq!(samples.history.lock().unwrap().len(), 1);
    }

    /// Clocks are set back, and ids are where another server is promoted that had seen fewer.
    #[test]
    fn what_was_known_of_a_later_time_is_forgotten_when_it_is_earlier() {
        let samples = Samples::default();
        for (clock, bound) in [(1, 10), (4, 20), (8, 30), (5, 40)] {
            samples.add(sample(clock, bound));
        }
        let safe = |xmin| samples.safe_date(Xid(xmin)).map(Timestamp::micros);
        assert_eq!([35, 40].map(safe), [Some(4), Some(5)], "8 has not been yet");
        samples.add(sample(6, 15));
        assert_eq!([10, 14, 15, 40].map(safe), [Some(1), Some(1), Some(6), Some(6)]);
    }

    /// The lemma of this module, on real writers: a row stamped up to a sample's clock has an id
    /// below its bound. It hangs on the triggers taking the id before the clock, or near it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_row_stamped_before_a_samples_clock_has_an_id_below_its_bound() {
        use sqlx::Connection as _;

        let database = highwater_testbed::Database::create("samples").await.unwrap();
        let mut connection = database.connect().await.unwrap();
        crate::admin::migrate(&mut connection).await.unwrap();
        let table = "create table entry (id bigint generated always as identity primary key, number int)";
        sqlx::raw_sql(table).execute(&mut connection).await.unwrap();
        let options = crate::admin::EnableOptions::default();
        crate::admin::enable(&mut connection, "entry", &options)
            .await
            .unwrap();
        let done = tokio_util::sync::CancellationToken::new();
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let (url, done) = (database.url(), done.clone());
                tokio::spawn(async move {
                    let mut writer = sqlx::PgConnection::connect(&url).await.unwrap();
                    while !done.is_cancelled() {
                        let row = "insert into entry (number) values (1)";
                        sqlx::raw_sql(row).execute(&mut writer).await.unwrap();
                        sqlx::raw_sql("update entry set number = 2 where id = currval('entry_id_seq')")
                            .execute(&mut writer)
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        let samples = Samples::default();
        for _ in 0..500 {
            samples.take(&mut connection).await.unwrap();
        }
        done.cancel();
        for writer in writers {
            writer.await.unwrap();
        }
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "select (extract(epoch from changed_date) * 1000000)::bigint, changed_xid::text from entry",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        assert!(rows.len() > 100, "{} rows", rows.len());
        let samples = samples.history.lock().unwrap();
        for (date, xid) in rows {
            let xid: Xid = xid.parse().unwrap();
            let after = samples.iter().find(|sample| sample.clock.micros() >= date);
            assert!(
                after.is_none_or(|sample| xid < sample.bound),
                "{xid} at {date}: {after:?}"
            );
        }
    }
}
