//! What a benchmark is, and what comes of it: lines of numbers, each with the bar that it must
//! keep to.

use std::pin::Pin;

use anyhow::Result;

use crate::measure::Samples;
use crate::stage::Stage;

/// One benchmark, as the report tells it.
#[derive(Debug)]
pub(crate) struct Benchmark {
    pub(crate) name: &'static str,
    pub(crate) measures: &'static str,
    /// What it is held against.
    pub(crate) against: &'static str,
    /// What must hold.
    pub(crate) bar: &'static str,
    pub(crate) run: for<'a> fn(&'a Stage) -> Running<'a>,
}

/// A benchmark under way. Dropped, it ends what it has started.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Result<Outcome>> + 'a>>;

/// What came of a benchmark.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Whose numbers stand in the two columns of a line.
    pub(crate) heads: [&'static str; 2],
    pub(crate) lines: Vec<Line>,
    pub(crate) charts: Vec<Chart>,
    /// What a reader must know to judge the numbers.
    pub(crate) notes: Vec<String>,
}

/// One measured thing.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) own: Samples,
    /// The same of what it is held against.
    pub(crate) beside: Option<Samples>,
    pub(crate) bar: Option<Bar>,
}

/// What a line must keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    /// The ratio of both columns, at most.
    Ratio(f64),
    /// The ratio of both columns, at least.
    RatioLeast(f64),
    /// The number itself, at most.
    Value(f64),
}

/// What the numbers of a line count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Milliseconds,
    MicrosecondsPerRow,
    Mebibytes,
    Kibibytes,
    PercentOfACore,
    RequestsPerSecond,
    /// Whole things, of which this is the name.
    Count(&'static str),
}

/// Bars beside each other, one group for each label.
#[derive(Debug)]
pub(crate) struct Chart {
    /// What its file is called, without the ending.
    pub(crate) name: String,
    pub(crate) title: String,
    /// What the axis counts.
    pub(crate) axis: String,
    /// What the bars of a group are.
    pub(crate) series: Vec<String>,
    pub(crate) groups: Vec<(String, Vec<Samples>)>,
    pub(crate) limit: Option<f64>,
}

impl Line {
    /// A number of our own.
    pub(crate) fn alone(what: impl Into<String>, unit: Unit, own: Samples) -> Self {
        Self {
            what: what.into(),
            unit,
            own,
            beside: None,
            bar: None,
        }
    }

    /// A number of our own beside that of another.
    pub(crate) fn pair(what: impl Into<String>, unit: Unit, own: Samples, beside: Samples) -> Self {
        Self {
            beside: Some(beside),
            ..Self::alone(what, unit, own)
        }
    }

    pub(crate) fn with_bar(self, bar: Bar) -> Self {
        Self {
            bar: Some(bar),
            ..self
        }
    }

    /// Own number to the other, round by round.
    pub(crate) fn ratio(&self) -> Option<Samples> {
        self.beside.as_ref().map(|beside| self.own.over(beside))
    }

    /// Whether the bar is kept, by the median; `None` where there is no bar.
    pub(crate) fn holds(&self) -> Option<bool> {
        match self.bar? {
            Bar::Ratio(most) => Some(self.ratio()?.median() <= most),
            Bar::RatioLeast(least) => Some(self.ratio()?.median() >= least),
            Bar::Value(most) => Some(self.own.median() <= most),
        }
    }
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::MicrosecondsPerRow => "µs a row",
            Self::Mebibytes => "MiB",
            Self::Kibibytes => "KiB",
            Self::PercentOfACore => "% of a core",
            Self::RequestsPerSecond => "requests a second",
            Self::Count(things) => things,
        }
    }
}

impl Chart {
    /// The chart of those lines that count in `unit`, as their table has them.
    pub(crate) fn of(name: &str, title: &str, unit: Unit, heads: [&'static str; 2], lines: &[Line]) -> Self {
        let lines: Vec<&Line> = lines.iter().filter(|line| line.unit == unit).collect();
        let paired = lines.iter().any(|line| line.beside.is_some());
        let limits = lines.iter().filter_map(|line| match line.bar {
            Some(Bar::Value(most)) => Some(most),
            _ => None,
        });
        let shown = if paired { 2 } else { 1 };
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            axis: unit.name().to_owned(),
            series: heads.iter().take(shown).map(ToString::to_string).collect(),
            limit: limits.reduce(f64::max),
            groups: lines
                .iter()
                .map(|line| {
                    let both = [Some(line.own.clone()), line.beside.clone()];
                    (line.what.clone(), both.into_iter().flatten().collect())
                })
                .collect(),
        }
    }

    /// A chart with one bar in each group.
    pub(crate) fn of_one(name: &str, title: &str, unit: Unit, groups: Vec<(String, Vec<Samples>)>) -> Self {
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            axis: unit.name().to_owned(),
            series: Vec::new(),
            limit: None,
            groups,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        values.iter().copied().collect()
    }

    #[test]
    fn a_bar_is_held_against_the_median() {
        let line = Line::pair("a", Unit::Seconds, samples(&[1.0, 9.0, 2.0]), samples(&[2.0; 3]));
        assert_eq!(line.holds(), None);
        assert_eq!(line.clone().with_bar(Bar::Ratio(1.0)).holds(), Some(true));
        assert_eq!(line.clone().with_bar(Bar::Ratio(0.9)).holds(), Some(false));
        assert_eq!(line.clone().with_bar(Bar::RatioLeast(1.0)).holds(), Some(true));
        assert_eq!(line.clone().with_bar(Bar::RatioLeast(1.1)).holds(), Some(false));
        assert_eq!(line.with_bar(Bar::Value(1.9)).holds(), Some(false));
    }

    #[test]
    fn a_number_that_is_none_holds_no_bar() {
        let line = Line::alone("a", Unit::Seconds, samples(&[])).with_bar(Bar::Value(1.0));
        assert_eq!(line.holds(), Some(false));
    }
}
