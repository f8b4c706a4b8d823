//! A counter that starts anew with each window. Windows follow one another from the clock's origin.
//!
//! The state is one number: the window's position in the upper half, its count in the lower. The position has 31 bits and
//! wraps around, at the shortest window after six years; which of two is the later one is told by the shorter way round.
//!
//! **Bound.** At most `limit` per window, and so at most `2 * limit` in any span of the window's length: as much just before a
//! window's end as just after. Who cannot have that takes `SlidingWindow`. A thread whose moment lies in a window that
//! another one has already left counts in the later window.

use std::time::Duration;

use crate::limit::Rate;
use crate::quota::{NEVER, Quota, Share};
use crate::time::{Moment, nanos};

/// The positions that a state can tell apart.
const POSITIONS: u64 = 1 << 31;

/// A fixed window's constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FixedWindow {
    window: u64,
    limit: u32,
}

impl FixedWindow {
    pub fn new(rate: &Rate) -> Self {
        Self {
            window: nanos(rate.window).max(1),
            limit: rate.limit.get(),
        }
    }

    /// The state after a charge, or `None` if there is no room, and the quota either way.
    #[inline]
    pub fn charge(&self, state: u64, now: Moment, cost: u32, share: Share) -> (Option<u64>, Quota) {
        let (ahead, count) = self.current(state, now);
        let limit = share.of(self.limit);
        let after = count.saturating_add(cost);
        let admits = after <= limit;
        let count = if admits { after } else { count };
        let left = (ahead + 1) * self.window - now.as_nanos() % self.window;
        let quota = Quota {
            admits,
            limit,
            room: u64::from(limit.saturating_sub(count)),
            unit: 1,
            window: self.window,
            restored_after: if count == 0 { 0 } else { left },
            retry_after: if !admits && cost <= limit { left } else { NEVER },
        };
        let position = (self.position(now) + ahead) % POSITIONS;
        (admits.then_some(position << 32 | u64::from(count)), quota)
    }

    const fn position(&self, now: Moment) -> u64 {
        now.as_nanos() / self.window % POSITIONS
    }

    /// How many windows after that of `now` the one is that counts, and its count. It is later only if another thread, with a
    /// later moment, was here before.
    const fn current(&self, state: u64, now: Moment) -> (u64, u32) {
        let (position, count) = (state >> 32, state as u32);
        let ahead = (position + POSITIONS - self.position(now)) % POSITIONS;
        if count == 0 || ahead >= POSITIONS / 2 {
            (0, 0)
        } else {
            (ahead, count)
        }
    }

    /// What was used of the window that counts at `now`.
    pub const fn used(&self, state: u64, now: Moment) -> u32 {
        self.current(state, now).1
    }

    /// The state of a window of which so much is used at `now`.
    pub const fn missing(&self, used: u32, now: Moment) -> u64 {
        self.position(now) << 32 | used as u64
    }

    /// Whether nothing is used, so that forgetting it changes nothing.
    pub const fn is_idle(&self, state: u64, now: Moment) -> bool {
        self.used(state, now) == 0
    }

    /// Whether anything passed in this window or in the one before, of which some may lie less than a window ago.
    pub const fn counts(&self, state: u64, now: Moment) -> bool {
        let ago = (self.position(now) + POSITIONS - (state >> 32)) % POSITIONS;
        state as u32 != 0 && (ago <= 1 || ago >= POSITIONS / 2)
    }

    pub const fn memory(&self) -> Duration {
        Duration::from_nanos(self.window)
    }

    pub const fn window(&self) -> u64 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn a_window_counts_to_its_limit_and_starts_anew() {
        let window = FixedWindow::new(&Rate {
            limit: NonZeroU32::new(3).unwrap(),
            window: Duration::from_secs(1),
            burst: None,
        });
        let at = |millis: u64| Moment::from_nanos(millis * 1_000_000);
        let (state, quota) = window.charge(0, at(900), 3, Share::WHOLE);
        assert_eq!(quota.remaining(), 0);
        let state = state.unwrap();
        let (refused, quota) = window.charge(state, at(901), 1, Share::WHOLE);
        assert_eq!(refused, None);
        assert_eq!(quota.retry_after(), Some(Duration::from_millis(99)));
        assert!(!window.is_idle(state, at(999)) && window.is_idle(state, at(1000)));
        let (state, quota) = window.charge(state, at(1000), 1, Share::WHOLE);
        assert_eq!(quota.remaining(), 2);
        let (_, late) = window.charge(state.unwrap(), at(999), 1, Share::WHOLE);
        assert_eq!(late.remaining(), 1, "a late thread counts in the later window");
        assert_eq!(window.charge(0, at(0), 4, Share::WHOLE).1.retry_after(), None);
    }

    #[test]
    fn a_position_that_wraps_around_is_still_the_later_one() {
        let window = FixedWindow::new(&Rate {
            limit: NonZeroU32::new(1).unwrap(),
            window: Duration::from_millis(100),
            burst: None,
        });
        for position in [POSITIONS - 1, POSITIONS, 5 * POSITIONS - 1] {
            let at = |position: u64| Moment::from_nanos(position * 100_000_000);
            let state = window.charge(0, at(position), 1, Share::WHOLE).0.unwrap();
            assert_eq!(state >> 63, 0, "the upper bit is not the rule's");
            assert_eq!(window.charge(state, at(position), 1, Share::WHOLE).0, None);
            assert!(
                window
                    .charge(state, at(position + 1), 1, Share::WHOLE)
                    .0
                    .is_some()
            );
        }
    }
}
