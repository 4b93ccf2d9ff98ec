//! The arithmetic of Postgres snapshots: which transaction ids one has seen, and which two
//! together have.
//!
//! A snapshot is written `xmin:xmax:xip_list` (Postgres manual, "Transaction ID and Snapshot
//! Information Functions"). It has seen every id below `xmax` that is not in the list; all ids
//! below `xmin` are therefore seen.

use std::fmt;
use std::str::FromStr;

/// The most ids in flight that a snapshot may list; more would make cursors too long to send.
pub const XIDS_IN_FLIGHT_MAX: usize = 4_000;

/// A top-level transaction id with its epoch, as Postgres' `xid8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(pub u64);

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Xid {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// How often a database was rebased. Its ids are counted from the start of the era, so that they lie above all that rows
/// have brought from another cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Era(pub u16);

impl Era {
    /// As many as `highwater.era_start` says.
    const ID_BITS: u32 = 48;

    /// An id of this era, from the one that Postgres gives.
    pub fn raised(self, xid: Xid) -> Xid {
        Xid(xid.0.saturating_add(self.start()))
    }

    /// The id that Postgres gives.
    pub fn lowered(self, xid: Xid) -> Xid {
        Xid(xid.0.saturating_sub(self.start()))
    }

    fn start(self) -> u64 {
        u64::from(self.0) << Self::ID_BITS
    }
}

/// A set of transaction ids: all below `xmax`, less those in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmax: Xid,
    /// Ascending, each once, all below `xmax`.
    in_flight: Vec<Xid>,
}

/// The text is not a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a snapshot such as 10:20:10,14,15")]
pub struct SnapshotError(String);

impl Snapshot {
    /// The snapshot that has seen every id below `xmax` but those in flight.
    pub fn new(xmax: Xid, mut in_flight: Vec<Xid>) -> Self {
        in_flight.sort_unstable();
        in_flight.dedup();
        in_flight.retain(|xid| *xid < xmax);
        Self { xmax, in_flight }
    }

    /// The snapshot that has seen nothing.
    pub fn nothing() -> Self {
        Self::new(Xid(0), Vec::new())
    }

    /// The same in ids of an era, from those that Postgres gives.
    #[must_use]
    pub fn in_era(self, era: Era) -> Self {
        let raised = |xid: Xid| era.raised(xid);
        Self {
            xmax: raised(self.xmax),
            in_flight: self.in_flight.into_iter().map(raised).collect(),
        }
    }

    /// The lowest id that has not been seen.
    pub fn xmin(&self) -> Xid {
        self.in_flight.first().copied().unwrap_or(self.xmax)
    }

    /// The bound from which on no id has been seen.
    pub fn xmax(&self) -> Xid {
        self.xmax
    }

    /// The ids below `xmax` that have not been seen, ascending.
    pub fn in_flight(&self) -> &[Xid] {
        &self.in_flight
    }

    /// Whether `xid` has been seen.
    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmax && self.in_flight.binary_search(&xid).is_err()
    }

    /// Whether every id that `other` has seen, this one has seen too.
    pub fn covers(&self, other: &Self) -> bool {
        other.xmax <= self.xmax && self.in_flight.iter().all(|xid| !other.sees(*xid))
    }

    /// The snapshot that has seen what either has seen.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let (higher, lower) = if self.xmax >= other.xmax {
            (self, other)
        } else {
            (other, self)
        };
        let in_flight = higher
            .in_flight
            .iter()
            .copied()
            .filter(|xid| !lower.sees(*xid))
            .collect();
        Self {
            xmax: higher.xmax,
            in_flight,
        }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin(), self.xmax)?;
        for (place, xid) in self.in_flight.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{xid}")?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = SnapshotError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || SnapshotError(text.to_owned());
        let mut parts = text.splitn(3, ':');
        let (Some(_xmin), Some(xmax), Some(list)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(error());
        };
        let xmax = xmax.parse().map_err(|_| error())?;
        let in_flight = list
            .split(',')
            .filter(|xid| !xid.is_empty())
            .map(str::parse)
            .collect::<Result<Vec<Xid>, _>>()
            .map_err(|_| error())?;
        Ok(Self::new(xmax, in_flight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshots() -> impl Strategy<Value = Snapshot> {
        (3u64..60, proptest::collection::vec(3u64..60, 0..20))
            .prop_map(|(xmax, list)| Snapshot::new(Xid(xmax), list.into_iter().map(Xid).collect()))
    }

    #[test]
    fn what_postgres_prints_is_read() {
        let snapshot: Snapshot = "10:20:10,14,15".parse().unwrap();
        assert_eq!(snapshot.xmin(), Xid(10));
        assert!(snapshot.sees(Xid(13)) && !snapshot.sees(Xid(14)) && !snapshot.sees(Xid(20)));
        assert_eq!("20:20:".parse::<Snapshot>().unwrap().xmin(), Xid(20));
        for nonsense in ["", "10", "10:20", "a:b:c", "10:20:x", "10:20:1,,y"] {
            assert!(nonsense.parse::<Snapshot>().is_err(), "{nonsense}");
        }
    }

    proptest! {
        #[test]
        fn text_comes_back(snapshot in snapshots()) {
            prop_assert_eq!(snapshot.to_string().parse::<Snapshot>().unwrap(), snapshot);
        }

        #[test]
        fn a_union_sees_what_either_sees(a in snapshots(), b in snapshots()) {
            let both = a.union(&b);
            for xid in (0..70).map(Xid) {
                prop_assert_eq!(both.sees(xid), a.sees(xid) || b.sees(xid));
            }
            prop_assert!(both.covers(&a) && both.covers(&b));
        }

        #[test]
        fn covering_is_seeing_all_that_the_other_sees(a in snapshots(), b in snapshots()) {
            let all = (0..70).map(Xid).all(|xid| a.sees(xid) || !b.sees(xid));
            // Above the ids in play nothing differs but the bound itself.
            prop_assert_eq!(a.covers(&b), all && b.xmax <= a.xmax);
        }
    }
}
