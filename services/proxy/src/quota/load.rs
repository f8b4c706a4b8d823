//! How much comes for a counter, let in or not.

use std::time::Duration;

use trellis_rate::Moment;

/// Of the time for which use counts, one part in so many is looked at on its own.
const STRETCHES: u32 = 8;
/// And so long at least.
const SHORTEST: Duration = Duration::from_millis(500);

/// What came, and what is expected to come in the time for which use counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    since: Moment,
    came: u32,
    expected: u32,
}

impl Load {
    pub(super) const fn new(now: Moment) -> Self {
        Self {
            since: now,
            came: 0,
            expected: 0,
        }
    }

    /// So much came.
    pub(super) const fn add(&mut self, cost: u32) {
        self.came = self.came.saturating_add(cost);
    }

    /// What is expected in so long. It rises at once and falls by a quarter at a time.
    pub(super) fn expected(&mut self, memory: Duration, now: Moment) -> u32 {
        let elapsed = now.since(self.since);
        if elapsed >= (memory / STRETCHES).max(SHORTEST) {
            let scaled = u128::from(self.came) * memory.as_nanos() / elapsed.as_nanos().max(1);
            let scaled = u32::try_from(scaled).unwrap_or(u32::MAX);
            self.expected = scaled.max(self.expected - self.expected.div_ceil(4));
            self.came = 0;
            self.since = now;
        }
        self.expected.max(self.came)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Duration = Duration::from_secs(8);

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn what_comes_is_expected_to_go_on_and_forgotten_slowly() {
        let mut load = Load::new(at(0));
        for _ in 0..5 {
            load.add(2);
        }
        assert_eq!(
            load.expected(MEMORY, at(100)),
            10,
            "too early to tell more than what came"
        );
        assert_eq!(load.expected(MEMORY, at(1_000)), 80);
        assert_eq!(load.expected(MEMORY, at(2_000)), 60);
        load.add(9);
        assert_eq!(load.expected(MEMORY, at(3_000)), 72);
        let quiet = (4..60).map(|second| load.expected(MEMORY, at(second * 1_000)));
        assert_eq!(quiet.last(), Some(0));
    }
}
