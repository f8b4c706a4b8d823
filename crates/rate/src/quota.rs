//! What a rate has left, and what part of it is ours.

use std::num::NonZeroU32;
use std::time::Duration;

/// What a decision finds at one rate, after the charge or, if it was refused, without it.
///
/// It keeps what the decision had at hand anyway, and works out the rest when it is asked: most answers carry no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub(crate) admits: bool,
    pub(crate) limit: u32,
    /// What is left, in parts of which a cost unit has `unit`.
    pub(crate) room: u64,
    pub(crate) unit: u64,
    /// Times in nanoseconds.
    pub(crate) window: u64,
    pub(crate) restored_after: u64,
    /// Or `NEVER`.
    pub(crate) retry_after: u64,
}

/// No time after which to try again.
pub(crate) const NEVER: u64 = u64::MAX;

impl Quota {
    /// Of nothing.
    pub(crate) const NOTHING: Self = Self {
        admits: false,
        limit: 0,
        room: 0,
        unit: 1,
        window: 0,
        restored_after: 0,
        retry_after: NEVER,
    };

    /// Whether the rate has room for the cost.
    pub const fn admits(&self) -> bool {
        self.admits
    }

    /// How many cost units the rate allows per window (or at once). For a token bucket it is the bucket's capacity.
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Cost units that would be admitted now.
    pub fn remaining(&self) -> u32 {
        u32::try_from(self.room / self.unit).unwrap_or(u32::MAX)
    }

    /// The window's length; none if the limit is on concurrency.
    pub const fn window(&self) -> Duration {
        Duration::from_nanos(self.window)
    }

    /// After this long without a request everything is available again.
    pub const fn restored_after(&self) -> Duration {
        Duration::from_nanos(self.restored_after)
    }

    /// If refused: after this long without a request the same cost is admitted. None if it is more than the rate ever
    /// admits, or if nobody can know (concurrency).
    pub fn retry_after(&self) -> Option<Duration> {
        (self.retry_after != NEVER).then(|| Duration::from_nanos(self.retry_after))
    }
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
    pub fn of(self, amount: u32) -> u32 {
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
