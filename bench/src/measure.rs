//! Measuring side by side: whoever is compared takes turns, so that what else the machine does
//! falls on all of them, and a ratio is one of two neighbours.

use anyhow::Result;

/// Numbers of one thing, one for each round.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// The one in the middle; of an even count the mean of the two.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        if sorted.len().is_multiple_of(2) {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        } else {
            at(middle)
        }
    }

    /// The least number that `share` of them do not exceed, such as 0.99.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let count = float(sorted.len() as u64);
        let places = 1..=sorted.len();
        let place = places
            .into_iter()
            .find(|place| float(*place as u64) >= share * count);
        place
            .and_then(|place| sorted.get(place - 1).copied())
            .unwrap_or(f64::NAN)
    }

    pub(crate) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    pub(crate) fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// The ratios to `other`, round by round.
    pub(crate) fn over(&self, other: &Self) -> Self {
        self.0
            .iter()
            .zip(&other.0)
            .map(|(own, other)| own / other)
            .collect()
    }
}

/// A single number.
impl From<f64> for Samples {
    fn from(value: f64) -> Self {
        Self(vec![value])
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

/// What each of those who take part brought, round by round.
#[derive(Debug)]
pub(crate) struct Rounds<W, V> {
    brought: Vec<(W, V)>,
}

/// Has each of `who` run once a round, `count` rounds long. Another begins in each round: whoever
/// runs second may find something warm, or something worn.
pub(crate) async fn rounds<W: Copy, V>(
    count: usize,
    who: &[W],
    mut run: impl AsyncFnMut(W, usize) -> Result<V>,
) -> Result<Rounds<W, V>> {
    let mut brought = Vec::with_capacity(count * who.len());
    for round in 0..count {
        for turn in 0..who.len() {
            if let Some(who) = who.get((round + turn) % who.len()) {
                brought.push((*who, run(*who, round).await?));
            }
        }
    }
    Ok(Rounds { brought })
}

impl<W: Copy + PartialEq, V> Rounds<W, V> {
    /// The numbers of one of them.
    pub(crate) fn of(&self, who: W, number: impl Fn(&V) -> f64) -> Samples {
        let own = self.brought.iter().filter(|(other, _)| *other == who);
        own.map(|(_, value)| number(value)).collect()
    }
}

/// A count as a number to calculate with.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of rows and bytes are far below the 53 bits that a float keeps"
)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        let samples = |values: &[f64]| values.iter().copied().collect::<Samples>();
        assert_eq!(samples(&[3.0, 1.0, 20.0]).median().to_bits(), 3.0_f64.to_bits());
        assert_eq!(
            samples(&[4.0, 1.0, 2.0, 30.0]).median().to_bits(),
            3.0_f64.to_bits()
        );
        assert!(samples(&[]).median().is_nan());
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(samples(&hundred).quantile(0.99).to_bits(), 99.0_f64.to_bits());
        assert_eq!(samples(&[7.0]).quantile(0.99).to_bits(), 7.0_f64.to_bits());
        assert!(samples(&[]).quantile(0.5).is_nan());
        assert_eq!(
            samples(&[2.0, 9.0]).over(&samples(&[4.0, 3.0])),
            samples(&[0.5, 3.0])
        );
    }

    #[tokio::test]
    async fn everyone_begins_in_turn() {
        let mut order = Vec::new();
        let rounds = rounds(2, &['a', 'b'], async |who, round| {
            order.push(who);
            Ok(round)
        });
        let rounds = rounds.await.unwrap();
        assert_eq!(order, ['a', 'b', 'b', 'a']);
        let own = rounds.of('b', |round| float(*round as u64));
        assert_eq!(own, [0.0, 1.0].into_iter().collect());
    }
}
