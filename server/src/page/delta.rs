//! What of entities a caller has not seen, as a probe has found it.

use std::collections::{BTreeMap, HashMap};

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::sql::Range;
use crate::cursor::Seen;
use crate::snapshot::Xid;

/// Reads what a probe has found.
pub(super) fn read(rows: &[PgRow], seen: &Seen) -> Result<HashMap<i32, Delta>, sqlx::Error> {
    let mut delta: HashMap<i32, Delta> = HashMap::new();
    for row in rows {
        if let Some(number) = row.try_get::<Option<i32>, _>("number")? {
            delta.entry(number).or_default().add(row, seen)?;
        }
    }
    Ok(delta)
}

/// What of an entity a caller has not seen.
#[derive(Debug, Default)]
pub(super) struct Delta {
    /// By the place of a scope among those that the caller may see; one where it sees all.
    pub(super) scopes: BTreeMap<usize, ScopeDelta>,
    /// Whether the table was truncated.
    pub(super) truncated: bool,
    /// The scopes that have changed, where that was asked; `None` where they are too many.
    pub(super) changed: Option<Vec<String>>,
}

/// What of a scope a caller has not seen.
#[derive(Debug, Default)]
pub(super) struct ScopeDelta {
    /// Ranges that hold changed rows.
    pub(super) rows: Vec<Range>,
    /// Those of them that hold rows whose deleted flag is set.
    pub(super) flagged: Vec<Range>,
    pub(super) tombstones: Vec<Range>,
}

impl Delta {
    pub(super) fn holds_any(&self) -> bool {
        self.truncated || self.scopes.values().any(ScopeDelta::holds_any)
    }

    /// Adds a row that was found by a probe.
    fn add(&mut self, row: &PgRow, seen: &Seen) -> Result<(), sqlx::Error> {
        let place: i32 = row.try_get("place")?;
        let place = usize::try_from(place - 1).unwrap_or_default();
        self.scopes.insert(place, ScopeDelta::read(row, seen)?);
        self.truncated |= row.try_get::<bool, _>("truncated")?;
        self.changed = row.try_get("scopes")?;
        Ok(())
    }
}

impl ScopeDelta {
    fn holds_any(&self) -> bool {
        !(self.rows.is_empty() && self.tombstones.is_empty())
    }

    /// Leaves out the single ids that do not belong to a page.
    pub(super) fn retain(&mut self, belongs: impl Fn(Xid) -> bool) {
        let kept = |range: &Range| !matches!(range, Range::Xid(xid) if !belongs(*xid));
        self.rows.retain(kept);
        self.flagged.retain(kept);
        self.tombstones.retain(kept);
    }

    /// Reads it from a row that was found by a probe.
    fn read(row: &PgRow, seen: &Seen) -> Result<Self, sqlx::Error> {
        let ranges = |xids: &str, later: &str| -> Result<Vec<Range>, sqlx::Error> {
            let mut xids: Vec<Xid> = row
                .try_get::<Vec<String>, _>(xids)?
                .iter()
                .flat_map(|xid| xid.parse())
                .collect();
            xids.sort_unstable();
            let mut ranges: Vec<Range> = xids.into_iter().map(Range::Xid).collect();
            if row.try_get(later)? {
                ranges.push(match seen {
                    Seen::Snapshot(seen) => Range::From(seen.xmax()),
                    Seen::Date(date) => Range::Date(*date),
                });
            }
            Ok(ranges)
        };
        Ok(Self {
            rows: ranges("row_xids", "later_rows")?,
            flagged: ranges("flagged_xids", "later_flagged")?,
            tombstones: ranges("tombstone_xids", "later_tombstones")?,
        })
    }
}
