//! How long to wait after a failure: exponential, capped, jittered.
//!
//! 1 s to 60 s per object: Crossplane's measured choice (`design/one-pager-rate-limiting.md`); controller-runtime's
//! 5 ms to 1000 s hammers first and forgets later.

use std::time::Duration;

/// Wait after the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// Wait before the next try after `failures` failures in a row. `chance` in 0..1 takes up to a quarter off, so that
/// objects which failed together do not come back together.
pub fn delay(failures: u32, chance: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(6);
    let whole = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    whole.mul_f64(chance.clamp(0.0, 1.0).mul_add(-0.25, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_stay_there() {
        let waits: Vec<u64> = (1..=9).map(|failures| delay(failures, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(delay(u32::MAX, 0.0), LONGEST);
    }

    #[test]
    fn jitter_takes_up_to_a_quarter_off() {
        assert_eq!(delay(3, 1.0), Duration::from_secs(3));
        assert!(delay(3, 0.5) < delay(3, 0.4));
    }
}
