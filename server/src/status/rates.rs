//! How many rows of each entity change a second, of late: the difference of two counts of Postgres'.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use highwater_shared::EntityName;
use tokio::time::Instant;

use super::look::Looked;

/// Over how long a rate is taken. Sessions tell their counts about once a second, so a shorter one would jump.
const WINDOW: Duration = Duration::from_secs(5);

/// The least time between two counts that make a rate.
const APART_MIN: Duration = Duration::from_millis(500);

/// Counts that are kept; one a second comes.
const COUNTS_MAX: usize = 8;

/// Counts of late, the newest last.
#[derive(Debug, Default)]
pub(super) struct Rates(VecDeque<(Instant, HashMap<EntityName, i64>)>);

impl Rates {
    /// Adds what was counted now.
    pub(super) fn add(&mut self, at: Instant, looked: &Looked) {
        // Where nobody has asked for a while, the oldest count says nothing of now.
        while self.0.len() >= COUNTS_MAX || self.0.front().is_some_and(|(then, _)| at - *then > 2 * WINDOW) {
            self.0.pop_front();
        }
        // One is as good as none: the first of two that lie the window apart.
        while self.0.get(1).is_some_and(|(then, _)| at - *then >= WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back((at, looked.changes.clone()));
    }

    /// Changes a second; `None` where that cannot be told yet, or where Postgres has begun to count anew.
    pub(super) fn of(&self, entity: &EntityName) -> Option<f64> {
        let ((then, first), (now, last)) = (self.0.front()?, self.0.back()?);
        let apart = *now - *then;
        if apart < APART_MIN {
            return None;
        }
        let changes = u32::try_from(last.get(entity)? - first.get(entity)?).ok()?;
        Some(f64::from(changes) / apart.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(changes: i64) -> Looked {
        Looked {
            changes: [(EntityName::new("product"), changes)].into(),
            ..Looked::default()
        }
    }

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let (mut rates, product) = (Rates::default(), EntityName::new("product"));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        rates.add(at(0), &counted(100));
        assert_eq!(rates.of(&product), None, "one count is no rate");
        rates.add(at(2), &counted(120));
        assert_eq!(rates.of(&product), Some(10.0));
        for second in 3..=20 {
            rates.add(at(second), &counted(120));
        }
        assert_eq!(rates.of(&product), Some(0.0));
        assert!(rates.0.len() <= COUNTS_MAX);
        rates.add(at(21), &counted(5));
        assert_eq!(rates.of(&product), None, "Postgres has begun anew");
        rates.add(at(500), &counted(1_000_000));
        assert_eq!(rates.of(&product), None, "nobody has asked for long");
        assert_eq!(rates.of(&EntityName::new("other")), None);
    }
}
