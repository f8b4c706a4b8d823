//! What is limited: the settings of a limiter, valid by construction.
//!
//! A [`Limit`] has rates (so many per so long, by one [`Algorithm`]) or a number of requests at once. Several rates hold
//! together: 3 per second *and* 30 per minute.
//!
//! | algorithm | never more than, in any window of length `w` | and never less usable than |
//! |---|---|---|
//! | `TokenBucket` | `burst + w * limit / window` | the rate itself, less 0.1 % |
//! | `SlidingWindow` | `limit`, for `w = window` | 98.4 % of `limit` per window |
//! | `FixedWindow` | `limit` per window counted from the origin, so `2 * limit` in any window | `limit` |
//!
//! `burst` is the bucket's capacity and `limit` if it is not set. "100 at once, refilled by 1 per second" is
//! `{limit: 1, window: 1s, burst: 100}`. A window has no capacity other than its limit: `burst` is a fault there.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::fixed_window::FixedWindow;
use crate::gcra::Gcra;
use crate::sliding_window::SlidingWindow;
use crate::word_rule::WordRule;

/// The most rates that one limit can have.
pub const MOST_RATES: usize = 4;
/// The shortest window: below it, the delay between a clock's reading and its use is no longer small.
pub const SHORTEST_WINDOW: Duration = Duration::from_millis(100);
/// The longest window, a leap year.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(366 * 86_400);
/// The fastest a token bucket is refilled, per second: a token's time is counted in whole nanoseconds, rounded up, and at
/// this rate the rounding costs 0.1 %.
pub const FASTEST_REFILL: u32 = 1_000_000;

/// How a rate is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The generic cell rate algorithm: a bucket of tokens that is refilled steadily.
    TokenBucket,
    /// Never more than the limit in any window.
    SlidingWindow,
    /// A counter that starts anew with each window.
    FixedWindow,
}

/// So many per so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many cost units pass per window.
    pub limit: NonZeroU32,
    /// The window's length.
    pub window: Duration,
    /// The capacity of a token bucket, if it is not `limit`.
    pub burst: Option<NonZeroU32>,
}

/// What a limiter goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Rates(Algorithm, Vec<Rate>),
    Concurrency(NonZeroU32),
}

/// Why settings make no limit. The position is that in the list of rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No rate, or too many.
    #[error("failed to take the rates: there are {0}; give 1 to {MOST_RATES}")]
    Rates(usize),
    /// A window is too short or too long.
    #[error(
        "failed to take rates[{0}].window: {1:?} is not between {SHORTEST_WINDOW:?} and {LONGEST_WINDOW:?}"
    )]
    Window(usize, Duration),
    /// A burst where no bucket is.
    #[error(
        "failed to take rates[{0}].burst: a window has no capacity but its limit; remove burst or use TokenBucket"
    )]
    Burst(usize),
    /// A token bucket that is refilled too fast.
    #[error(
        "failed to take rates[{0}].limit: a token bucket is refilled by at most {FASTEST_REFILL} per second"
    )]
    Refill(usize),
}

impl Limit {
    /// A limit by rates, all of which hold. Returns every fault.
    pub fn by_rates(algorithm: Algorithm, rates: Vec<Rate>) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        if rates.is_empty() || rates.len() > MOST_RATES {
            faults.push(Fault::Rates(rates.len()));
        }
        for (position, rate) in rates.iter().enumerate() {
            if !(SHORTEST_WINDOW..=LONGEST_WINDOW).contains(&rate.window) {
                faults.push(Fault::Window(position, rate.window));
                continue;
            }
            if algorithm == Algorithm::TokenBucket {
                let fastest = rate.window.as_nanos() * u128::from(FASTEST_REFILL) / 1_000_000_000;
                if u128::from(rate.limit.get()) > fastest {
                    faults.push(Fault::Refill(position));
                }
            } else if rate.burst.is_some() {
                faults.push(Fault::Burst(position));
            }
        }
        if faults.is_empty() {
            Ok(Self(Kind::Rates(algorithm, rates)))
        } else {
            Err(faults)
        }
    }

    /// A limit on what is under way at once.
    pub const fn by_concurrency(most: NonZeroU32) -> Self {
        Self(Kind::Concurrency(most))
    }

    /// The rates; none if the limit is on concurrency.
    pub fn rates(&self) -> &[Rate] {
        match &self.0 {
            Kind::Rates(_, rates) => rates,
            Kind::Concurrency(_) => &[],
        }
    }

    /// The whole that parts of it are counted in: what the smallest of its rates admits at once.
    pub fn whole(&self) -> NonZeroU32 {
        match &self.0 {
            Kind::Rates(algorithm, rates) => {
                let capacity = |rate: &Rate| match algorithm {
                    Algorithm::TokenBucket => rate.burst.unwrap_or(rate.limit),
                    Algorithm::SlidingWindow | Algorithm::FixedWindow => rate.limit,
                };
                rates.iter().map(capacity).min().unwrap_or(NonZeroU32::MIN)
            }
            Kind::Concurrency(most) => *most,
        }
    }

    /// After this long, nothing that was ever charged still counts.
    pub fn memory(&self) -> Duration {
        self.rules().memory()
    }

    pub(crate) fn rules(&self) -> Rules {
        match &self.0 {
            Kind::Rates(Algorithm::TokenBucket, rates) => {
                Rules::Words(rates.iter().map(|rate| WordRule::Gcra(Gcra::new(rate))).collect())
            }
            Kind::Rates(Algorithm::FixedWindow, rates) => Rules::Words(
                rates
                    .iter()
                    .map(|rate| WordRule::FixedWindow(FixedWindow::new(rate)))
                    .collect(),
            ),
            Kind::Rates(Algorithm::SlidingWindow, rates) => {
                Rules::Logs(rates.iter().map(SlidingWindow::new).collect())
            }
            Kind::Concurrency(most) => Rules::InFlight(most.get()),
        }
    }
}

/// A limit, compiled: what a cell is judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// One word of state per rate.
    Words(Vec<WordRule>),
    /// One log per rate.
    Logs(Vec<SlidingWindow>),
    /// At most so many at once.
    InFlight(u32),
}

impl Rules {
    /// Each rate's window, in nanoseconds.
    pub fn windows(&self) -> Vec<u64> {
        match self {
            Self::Words(rules) => rules.iter().map(WordRule::window).collect(),
            Self::Logs(rules) => rules.iter().map(SlidingWindow::window).collect(),
            Self::InFlight(_) => Vec::new(),
        }
    }

    /// After this long, nothing that was ever charged still counts.
    pub fn memory(&self) -> Duration {
        let longest = match self {
            Self::Words(rules) => rules.iter().map(WordRule::memory).max(),
            Self::Logs(rules) => rules.iter().map(SlidingWindow::memory).max(),
            Self::InFlight(_) => None,
        };
        longest.unwrap_or(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(limit: u32, window: Duration, burst: u32) -> Rate {
        Rate {
            limit: NonZeroU32::new(limit).unwrap(),
            window,
            burst: NonZeroU32::new(burst),
        }
    }

    #[test]
    fn every_fault_is_told_with_its_position() {
        let second = Duration::from_secs(1);
        let faults = |algorithm, rates| Limit::by_rates(algorithm, rates).unwrap_err();
        assert_eq!(faults(Algorithm::FixedWindow, vec![]), [Fault::Rates(0)]);
        assert_eq!(
            faults(Algorithm::TokenBucket, vec![rate(1, second, 0); 5]),
            [Fault::Rates(5)]
        );
        assert_eq!(
            faults(
                Algorithm::SlidingWindow,
                vec![rate(1, Duration::from_millis(1), 0), rate(1, second, 9)]
            ),
            [Fault::Window(0, Duration::from_millis(1)), Fault::Burst(1)]
        );
        assert_eq!(
            faults(Algorithm::TokenBucket, vec![rate(1_000_001, second, 0)]),
            [Fault::Refill(0)]
        );
    }

    #[test]
    fn a_fault_says_where_and_the_fix() {
        assert_eq!(
            Fault::Burst(1).to_string(),
            "failed to take rates[1].burst: a window has no capacity but its limit; remove burst or use TokenBucket"
        );
    }
}
