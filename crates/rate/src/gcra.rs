//! The token bucket, as the generic cell rate algorithm: one number of state.
//!
//! The number is the *theoretical arrival time*: when the bucket will be full again. It lies in the future by the *debt*,
//! the time that the bucket needs to earn back what was taken. A request of `cost` adds `cost * increment` to the debt
//! (`increment` = `window / limit`, one token's time) and passes if the debt stays within `tolerance` = `burst *
//! increment`. Nothing has to run in between: the passing of time is the refill.
//!
//! **Bound.** Let `k` units pass at moments within `[a, a + w]`, in the order in which the word was changed. Before the
//! first of them the word was raised to at least its moment, so to at least `a`; each unit adds `increment`; so the
//! last leaves the word at `a + k * increment` or later. That one passed, at a moment of at most `a + w`, with a debt
//! within the tolerance: `a + k * increment - (a + w) <= burst * increment`. Hence `k <= burst + w / increment`. Nothing is
//! asked of the order of the moments: threads may read the clock in one order and change the word in another.
//!
//! **Rounding.** A token's time is rounded up to a whole nanosecond: never over, and under by at most 0.1 % (see
//! `limit::FASTEST_REFILL`).
//!
//! **Shares.** With a share of the limit a token takes so much longer, and the tolerance stays: the same part of rate and
//! of burst. The debt is a time, so it keeps its meaning when the share changes.
//!
//! Sources: ITU-T I.371 (GCRA, "virtual scheduling algorithm") and ATM Forum Traffic Management 4.0 (af-tm-0056.000).
//! The tolerance there is ours less one increment: it is compared before the cell is added.

use std::time::Duration;

use crate::limit::Rate;
use crate::quota::{NEVER, Quota, Share};
use crate::time::{Moment, nanos};

/// A token bucket's constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gcra {
    /// Nanoseconds per token.
    increment: u64,
    /// Nanoseconds of debt that are allowed.
    tolerance: u64,
    burst: u32,
    window: u64,
}

impl Gcra {
    pub fn new(rate: &Rate) -> Self {
        let window = nanos(rate.window);
        let burst = rate.burst.unwrap_or(rate.limit).get();
        let increment = window.div_ceil(u64::from(rate.limit.get())).max(1);
        Self {
            increment,
            // Half of what a moment can tell, so that a moment and a debt together fit into 63 bits.
            tolerance: increment.saturating_mul(u64::from(burst)).min(1 << 61),
            burst,
            window,
        }
    }

    /// The state after a charge, or `None` if there is no room, and the quota either way.
    #[inline]
    pub fn charge(&self, full_at: u64, now: Moment, cost: u32, share: Share) -> (Option<u64>, Quota) {
        let now = now.as_nanos();
        let debt = full_at.saturating_sub(now);
        let increment = share.stretch(self.increment);
        let price = increment.unwrap_or(u64::MAX).saturating_mul(u64::from(cost));
        let owed = debt.saturating_add(price);
        let admits = owed <= self.tolerance;
        let debt = if admits { owed } else { debt };
        let room = self.tolerance.saturating_sub(debt);
        let quota = Quota {
            admits,
            limit: share.of(self.burst),
            room,
            unit: increment.unwrap_or(u64::MAX),
            window: self.window,
            restored_after: debt,
            retry_after: if !admits && price <= self.tolerance {
                owed - self.tolerance
            } else {
                NEVER
            },
        };
        (admits.then(|| now + owed), quota)
    }

    /// Whether the bucket is full, so that forgetting it changes nothing.
    pub const fn is_idle(full_at: u64, now: Moment) -> bool {
        full_at <= now.as_nanos()
    }

    /// Tokens that are missing, rounded up.
    pub fn used(&self, full_at: u64, now: Moment) -> u32 {
        let tokens = full_at.saturating_sub(now.as_nanos()).div_ceil(self.increment);
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// The state of a bucket that misses so many tokens, at most all.
    pub fn missing(&self, used: u32, now: Moment) -> u64 {
        now.as_nanos() + self.increment.saturating_mul(u64::from(used)).min(self.tolerance)
    }

    pub const fn capacity(&self) -> u32 {
        self.burst
    }

    pub const fn memory(&self) -> Duration {
        Duration::from_nanos(self.tolerance)
    }

    pub const fn window(&self) -> u64 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn bucket(limit: u32, seconds: u64, burst: u32) -> Gcra {
        Gcra::new(&Rate {
            limit: NonZeroU32::new(limit).unwrap(),
            window: Duration::from_secs(seconds),
            burst: NonZeroU32::new(burst),
        })
    }

    #[test]
    fn a_bucket_of_100_refilled_by_1_per_second_does_that() {
        let bucket = bucket(1, 1, 100);
        let mut state = 0;
        let mut passed = 0;
        while let (Some(next), _) = bucket.charge(state, Moment::ORIGIN, 1, Share::WHOLE) {
            state = next;
            passed += 1;
        }
        assert_eq!(passed, 100);
        let (_, quota) = bucket.charge(state, Moment::ORIGIN, 1, Share::WHOLE);
        assert_eq!(quota.retry_after(), Some(Duration::from_secs(1)));
        assert_eq!(quota.restored_after(), Duration::from_secs(100));
        let (next, quota) = bucket.charge(state, Moment::from_nanos(SECOND), 1, Share::WHOLE);
        assert!(next.is_some());
        assert_eq!(quota.remaining(), 0);
        let (_, quota) = bucket.charge(state, Moment::from_nanos(40 * SECOND), 1, Share::WHOLE);
        assert_eq!(quota.remaining(), 39);
    }

    #[test]
    fn retry_after_is_the_first_moment_that_admits() {
        let bucket = bucket(7, 60, 5);
        let (state, _) = bucket.charge(0, Moment::ORIGIN, 4, Share::WHOLE);
        let (refused, quota) = bucket.charge(state.unwrap(), Moment::ORIGIN, 3, Share::WHOLE);
        assert_eq!(refused, None);
        let wait = quota.retry_after().unwrap();
        let at = |moment| bucket.charge(state.unwrap(), moment, 3, Share::WHOLE).0.is_some();
        assert!(at(Moment::ORIGIN.after(wait)));
        assert!(!at(Moment::ORIGIN.after(wait - Duration::from_nanos(1))));
    }

    #[test]
    fn a_cost_above_the_capacity_is_never_admitted_and_has_no_retry_after() {
        let (next, quota) = bucket(10, 1, 5).charge(0, Moment::ORIGIN, 6, Share::WHOLE);
        assert_eq!((next, quota.retry_after(), quota.remaining()), (None, None, 5));
    }

    #[test]
    fn a_half_share_is_half_of_the_rate_and_half_of_the_burst() {
        let bucket = bucket(10, 1, 20);
        let half = Share::new(1, NonZeroU32::new(2).unwrap());
        let mut state = 0;
        let mut passed = 0;
        for step in 0..100 {
            let now = Moment::from_nanos(step * SECOND / 10);
            while let (Some(next), _) = bucket.charge(state, now, 1, half) {
                state = next;
                passed += 1;
            }
        }
        assert_eq!(passed, 10 + 49);
        let none = Share::new(0, NonZeroU32::new(2).unwrap());
        assert_eq!(bucket.charge(0, Moment::ORIGIN, 1, none).0, None);
    }
}
