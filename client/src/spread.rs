//! Spreads over time what a whole fleet is told at once.

use std::time::Duration;

use backon::{BackoffBuilder as _, ConstantBuilder};

/// The longest time that anything is spread over.
const SPREAD_HOURS_MAX: u64 = 24;

/// Random delays of at most a given length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    over: Duration,
    random: ConstantBuilder,
}

impl Spread {
    /// Delays of less than `over`; none at all where that is zero.
    pub(crate) fn over(over: Duration) -> Self {
        let over = over.min(Duration::from_hours(SPREAD_HOURS_MAX));
        Self {
            over,
            random: ConstantBuilder::new().with_delay(over).with_jitter(),
        }
    }

    /// No delay.
    pub(crate) fn none() -> Self {
        Self::over(Duration::ZERO)
    }

    /// The same, with delays that a seed decides.
    #[cfg(test)]
    pub(crate) fn seeded(self, seed: u64) -> Self {
        Self {
            random: self.random.with_jitter_seed(seed),
            ..self
        }
    }

    /// A delay.
    pub(crate) fn delay(&self) -> Duration {
        // With jitter a delay lies between once and twice itself; only what jitter adds is wanted.
        let jittered = self.random.build().next().unwrap_or_default();
        jittered.saturating_sub(self.over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_spread_over_the_whole_time() {
        const PARTS: u32 = 6;
        let over = Duration::from_mins(1);
        let mut arrived = [0; PARTS as usize];
        for seed in 0..600 {
            let delay = Spread::over(over).seeded(seed).delay();
            assert!(delay < over, "{delay:?}");
            arrived[(delay.as_millis() * u128::from(PARTS) / over.as_millis()) as usize] += 1;
        }
        assert!(arrived.iter().all(|part| (50..150).contains(part)), "{arrived:?}");
    }

    #[test]
    fn no_time_is_no_delay_and_endless_time_is_bounded() {
        assert_eq!(Spread::none().delay(), Duration::ZERO);
        let most = Duration::from_hours(SPREAD_HOURS_MAX);
        assert!(Spread::over(Duration::MAX).delay() < most);
    }
}
