//! The caller's clock, as a number.
//!
//! Nothing here reads a clock. A [`Moment`] counts nanoseconds from an origin that the caller chose (its start, say) on a
//! clock that never goes back and goes on while the machine sleeps (`CLOCK_BOOTTIME`): a limiter that misses an hour
//! would refuse for an hour too long, a quota lease that misses one would be used after its end.

use std::time::Duration;

/// The last moment that can be told: some 146 years after the origin. It leaves a word of 63 bits room for a debt that
/// lies in the future (see `gcra`).
const LAST: u64 = (1 << 62) - 1;

/// A point on the caller's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The origin of the caller's clock.
    pub const ORIGIN: Self = Self(0);

    /// Nanoseconds after the origin; what lies after the last moment is the last moment.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(if nanos > LAST { LAST } else { nanos })
    }

    /// Nanoseconds after the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self::from_nanos(self.0.saturating_add(nanos(duration)))
    }

    /// This much earlier; the origin at the earliest.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }

    /// How long after `earlier`; nothing if it is not.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A duration in nanoseconds, at most 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_does_not_wrap_around() {
        assert_eq!(
            Moment::from_nanos(u64::MAX).after(Duration::from_secs(1)),
            Moment::from_nanos(LAST)
        );
        assert_eq!(Moment::ORIGIN.since(Moment::from_nanos(5)), Duration::ZERO);
    }
}
