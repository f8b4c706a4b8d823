//! What a rate has left, and what part of it is ours.

use std::num::NonZeroU32;
use std::time::Duration;

/// What a decision finds at one rate, after the charge or, if it was refused, without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Whether the rate has room for the cost.
    pub admits: bool,
    /// How many cost units the rate allows per window (or at once), of which `remaining` are left. For a token bucket
    /// it is the bucket's capacity.
    pub limit: u32,
    /// Cost units that would be admitted now.
    pub remaining: u32,
    /// The window's length; none if the limit is on concurrency.
    pub window: Duration,
    /// After this long without a request everything is available again.
    pub restored_after: Duration,
    /// If refused: after this long without a request the same cost is admitted. None if it is more than the rate ever
    /// admits, or if nobody can know (concurrency).
    pub retry_after: Option<Duration>,
}

impl Quota {
    /// Of nothing.
    pub(crate) const NOTHING: Self = Self {
        admits: false,
        limit: 0,
        remaining: 0,
        window: Duration::ZERO,
        restored_after: Duration::ZERO,
        retry_after: None,
    };
}

/// The part of a limit that this process may use: `part` of `whole`. All of it, unless a quota lease says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    part: u32,
    whole: NonZeroU32,
}

impl Share {
    /// All of the limit.
    pub const WHOLE: Self = Self {
        part: 1,
        whole: NonZeroU32::MIN,
    };

    /// `part` of `whole`; more than all is all.
    pub const fn new(part: u32, whole: NonZeroU32) -> Self {
        Self {
            part: if part < whole.get() { part } else { whole.get() },
            whole,
        }
    }

    /// The share of `amount`, rounded down.
    pub(crate) fn of(self, amount: u32) -> u32 {
        if self == Self::WHOLE {
            return amount;
        }
        let share = u64::from(amount) * u64::from(self.part) / u64::from(self.whole.get());
        u32::try_from(share).unwrap_or(u32::MAX)
    }

    /// `time` stretched as much as the share is smaller than the whole, rounded up; `None` for a share of nothing.
    pub(crate) fn stretch(self, time: u64) -> Option<u64> {
        if self == Self::WHOLE {
            return Some(time);
        }
        let part = NonZeroU32::new(self.part)?;
        let stretched = (u128::from(time) * u128::from(self.whole.get())).div_ceil(u128::from(part.get()));
        Some(u64::try_from(stretched).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_against_their_holder() {
        let share = Share::new(1, NonZeroU32::new(3).unwrap());
        assert_eq!((share.of(100), share.stretch(100)), (33, Some(300)));
        let share = Share::new(2, NonZeroU32::new(3).unwrap());
        assert_eq!((share.of(100), share.stretch(100)), (66, Some(150)));
        let nothing = Share::new(0, NonZeroU32::new(3).unwrap());
        assert_eq!((nothing.of(100), nothing.stretch(100)), (0, None));
        let more = Share::new(9, NonZeroU32::new(3).unwrap());
        assert_eq!((more.of(100), more.stretch(100)), (100, Some(100)));
    }
}
