//! Exponential pauses with full jitter.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    fault::{self, Fault},
    wire,
};

/// Pauses between tries: a random time from zero to `base`, twice that, and so on up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Backoff {
    /// Longest first pause. Default 25 ms.
    #[serde(with = "wire::millis")]
    pub base: Duration,
    /// Longest pause. Default 250 ms.
    #[serde(with = "wire::millis")]
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
        }
    }
}

impl Backoff {
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(60));
        fault::within(&mut faults, "retry.backoff.base", self.base, least, most);
        fault::within(&mut faults, "retry.backoff.max", self.max, self.base, most);
        faults
    }

    /// The pause after so many tries; `chance` is a random number over its whole range.
    #[must_use]
    pub fn pause(&self, attempts: u32, chance: u32) -> Duration {
        let doubled = attempts.saturating_sub(1).min(31);
        let longest = self.base.saturating_mul(1 << doubled).min(self.max);
        let nanos = (longest.as_nanos().min(u128::from(u64::MAX)) * u128::from(chance)) >> 32;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_doubles_up_to_its_bound() {
        let longest: Vec<u128> = (1..=6)
            .map(|attempts| {
                Backoff::default()
                    .pause(attempts, u32::MAX)
                    .as_micros()
                    .div_ceil(1000)
            })
            .collect();
        assert_eq!(longest, [25, 50, 100, 200, 250, 250]);
    }

    #[test]
    fn chance_spreads_the_pause_from_zero_evenly() {
        let backoff = Backoff::default();
        assert_eq!(backoff.pause(1, 0), Duration::ZERO);
        assert_eq!(backoff.pause(1, 1 << 31), Duration::from_micros(12_500));
        assert!(backoff.pause(u32::MAX, u32::MAX) < backoff.max);
        let huge = Backoff {
            base: Duration::MAX,
            max: Duration::MAX,
        };
        assert!(huge.pause(u32::MAX, u32::MAX) > Duration::from_secs(1));
    }
}
