//! How many requests a second one caller may make, so that none takes all for itself.
//!
//! A caller is known by the name of its key or the subject of its token. Who was not asked who it is
//! cannot be told from others, and is never held back here.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::future::Cache;

use crate::caller::Caller;
use crate::limit::Limit;

/// Callers that are remembered. Where more ask within a minute, some begin with a full allowance again.
const CALLERS_MAX: u64 = 100_000;

/// How long a caller is remembered that does not ask. After a second its allowance is full again anyway.
const CALLER_AGE_MAX: Duration = Duration::from_mins(1);

/// The pace of all callers.
pub(crate) struct Pace {
    quota: Option<Quota>,
    callers: Cache<String, Arc<DefaultDirectRateLimiter>>,
}

impl Pace {
    /// So many requests a second, and as many at once; without a bound where `None`.
    pub(crate) fn new(requests_per_second: Option<NonZeroU32>) -> Self {
        Self {
            quota: requests_per_second.map(Quota::per_second),
            callers: Cache::builder()
                .max_capacity(CALLERS_MAX)
                .time_to_idle(CALLER_AGE_MAX)
                .build(),
        }
    }

    /// Lets a request of this caller in, or does not: then one more is let in within a second.
    pub(crate) async fn admit(&self, caller: &Caller) -> Result<(), Limit> {
        let (Some(quota), Some(name)) = (self.quota, caller.name()) else {
            return Ok(());
        };
        let new = async { Arc::new(RateLimiter::direct(quota)) };
        let allowance = self.callers.get_with_by_ref(name, new).await;
        allowance.check().map_err(|_| Limit::CallerRequestsPerSecond)
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace")
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Grant;

    fn named(name: &str) -> Caller {
        Caller::with(Grant {
            name: name.to_owned(),
            ..Grant::default()
        })
    }

    #[tokio::test]
    async fn each_known_caller_has_an_allowance_of_its_own() {
        let pace = Pace::new(NonZeroU32::new(3));
        let (till, other) = (named("till"), named("other"));
        for _ in 0..3 {
            pace.admit(&till).await.unwrap();
        }
        assert_eq!(pace.admit(&till).await, Err(Limit::CallerRequestsPerSecond));
        pace.admit(&other).await.unwrap();
        for _ in 0..9 {
            pace.admit(&Caller::anyone()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn without_a_bound_nobody_is_held_back_or_remembered() {
        let pace = Pace::new(None);
        for _ in 0..99 {
            pace.admit(&named("till")).await.unwrap();
        }
        pace.callers.run_pending_tasks().await;
        assert_eq!(pace.callers.entry_count(), 0);
    }
}
