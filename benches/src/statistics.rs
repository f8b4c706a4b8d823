//! Medians and percentiles. Means are left out on purpose: one stolen second of a shared machine would decide them.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What became of one figure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the rounds are at or below it.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// None without rounds.
    pub fn of(rounds: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = rounds.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len() % 2 == 1 {
            upper
        } else {
            f64::midpoint(sorted[middle - 1], upper)
        };
        Some(Self {
            median,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.median < 10.0 {
            2
        } else {
            usize::from(self.median < 100.0)
        };
        write!(
            f,
            "{:.digits$} ({:.digits$}-{:.digits$})",
            self.median, self.min, self.max
        )
    }
}

/// A figure that is a small difference of large ones: the least and the most are noise, so half of the rounds are shown.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Middle {
    /// Half of the rounds are at or below it.
    pub median: f64,
    /// A quarter of the rounds is below it.
    pub lower: f64,
    /// A quarter of the rounds is above it.
    pub upper: f64,
}

impl Middle {
    /// None without rounds.
    pub fn of(rounds: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = rounds.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let quarter = sorted.len() / 4;
        Some(Self {
            median: Spread::of(sorted.iter().copied())?.median,
            lower: *sorted.get(quarter)?,
            upper: *sorted.get(sorted.len() - 1 - quarter)?,
        })
    }
}

impl fmt::Display for Middle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ({:.1} to {:.1})", self.median, self.lower, self.upper)
    }
}

/// Times, in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<f64>);

/// The figures of [`Times`] that are shown.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many times there were.
    pub count: usize,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Milliseconds.
    pub max: f64,
}

impl Times {
    /// Takes a time in.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    /// Nearest-rank percentiles; none without times.
    pub fn percentiles(mut self) -> Option<Percentiles> {
        self.0.sort_by(f64::total_cmp);
        let count = self.0.len();
        let max = *self.0.last()?;
        // The smallest time that at least `percent` of all are at or below.
        let rank = |percent: usize| self.0[(count * percent).div_ceil(100).max(1) - 1];
        Some(Percentiles {
            count,
            p50: rank(50),
            p99: rank(99),
            max,
        })
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut all = Self::default();
        times.into_iter().for_each(|time| all.add(time));
        all
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            self.p50, self.p99, self.max
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stolen_round_does_not_move_the_median() {
        let spread = Spread::of([3.0, 1.0, 100.0, 2.0, 2.5]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 100.0));
        assert_eq!(Spread::of([1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_quarter_of_the_rounds_is_outside_of_the_middle_on_each_side() {
        let middle = Middle::of([-90.0, 4.0, 3.0, 2.0, 1.0, 5.0, 99.0]).unwrap();
        assert_eq!((middle.lower, middle.median, middle.upper), (1.0, 3.0, 5.0));
        assert_eq!(middle.to_string(), "3.0 (1.0 to 5.0)");
        assert_eq!(Middle::of([]), None);
    }

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let times: Times = (1..=200).rev().map(Duration::from_millis).collect();
        let percentiles = times.percentiles().unwrap();
        assert_eq!(
            (percentiles.p50, percentiles.p99, percentiles.max),
            (100.0, 198.0, 200.0)
        );
        let one: Times = [Duration::from_millis(7)].into_iter().collect();
        assert_eq!(one.percentiles().unwrap().p99, 7.0);
        assert_eq!(Times::default().percentiles(), None);
    }
}
