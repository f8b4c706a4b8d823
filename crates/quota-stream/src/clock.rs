//! The clock that leases are counted by.

use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};
use trellis_rate::Moment;

/// Now, on a clock that never goes back and goes on while the machine sleeps. It began with its first reading.
pub fn now() -> Moment {
    static ORIGIN: OnceLock<u64> = OnceLock::new();
    // The clock is there on every Linux that runs this.
    let nanos = || {
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
            seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or_default()
        })
    };
    let now = nanos();
    Moment::from_nanos(now - (*ORIGIN.get_or_init(|| now)).min(now))
}
