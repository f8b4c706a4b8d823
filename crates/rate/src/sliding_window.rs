//! Never more than the limit in *any* window.
//!
//! An exact answer needs a log of every pass. This one is conservative: time is cut into sub-windows of `window / 64`,
//! rounded up, and passes are counted per sub-window. Only sub-windows in which something passed are kept, so a key that makes
//! few requests has a short log, and a busy one has 65 entries.
//!
//! **Never over.** A span of the window's length touches at most 65 sub-windows in a row, say `j ..= j + 64`. Take the last
//! request that passed in it, counted in sub-window `k <= j + 64`. It passed because everything counted in `k - 64 ..= k`,
//! itself included, was within the limit; that has every pass of the span in it.
//!
//! **Usable.** What is counted in sub-window `i` is free again when sub-window `i + 65` begins: 65/64 of a window after `i`
//! began. Under a steady overload the whole limit passes in each such time: 64/65, which is 98.4 %, of the limit per window.
//!
//! **Late threads.** A thread that read the clock, was set aside, and comes to the log after another one has counted in a
//! later sub-window is counted in that one. Its request passes when the decision is made, which is after the other one
//! read the clock.
//!
//! Source: the log and the weighted-counter variants of sliding windows are compared in Cloudflare, "How we built rate limiting
//! capable of scaling to millions of domains" (2017). Its weighted counter assumes an even arrival in the previous window and can
//! admit more than the limit; the sub-windows here assume the worst.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limit::Rate;
use crate::mutation::{Mutation, is_on};
use crate::quota::{NEVER, Quota, Share};
use crate::time::{Moment, nanos};

/// Sub-windows per window.
const PARTS: u64 = 64;

/// A sliding window's constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlidingWindow {
    window: u64,
    /// Nanoseconds per sub-window.
    width: u64,
    limit: u32,
}

/// What passed, per sub-window, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    spans: VecDeque<Span>,
    /// The sum over all spans.
    used: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    position: u64,
    passed: u32,
}

impl SlidingWindow {
    pub fn new(rate: &Rate) -> Self {
        let window = nanos(rate.window).max(1);
        Self {
            window,
            width: window.div_ceil(PARTS),
            limit: rate.limit.get(),
        }
    }

    /// Whether the cost would pass. Forgets what no longer counts; charges nothing.
    pub fn check(&self, log: &mut Log, now: Moment, cost: u32, share: Share) -> Quota {
        self.forget(log, now);
        let limit = share.of(self.limit);
        let after = log.used.saturating_add(cost);
        let admits = after <= limit;
        Quota {
            admits,
            limit,
            room: u64::from(limit.saturating_sub(log.used)),
            unit: 1,
            window: self.window,
            restored_after: log.spans.back().map_or(0, |span| self.until_free(*span, now)),
            retry_after: if !admits && cost <= limit {
                self.wait(log, now, after - limit)
            } else {
                NEVER
            },
        }
    }

    /// Charges what [`Self::check`] admitted at the same moment, and corrects its quota.
    pub fn charge(&self, log: &mut Log, now: Moment, cost: u32, quota: &mut Quota) {
        let position = self.position(log, now);
        match log.spans.back_mut() {
            Some(span) if span.position == position => span.passed = span.passed.saturating_add(cost),
            _ => {
                // By doubling, it would have room for 128 in the end.
                if log.spans.len() == PARTS as usize {
                    log.spans.reserve_exact(1);
                }
                log.spans.push_back(Span {
                    position,
                    passed: cost,
                });
            }
        }
        log.used = log.used.saturating_add(cost);
        quota.room = quota.room.saturating_sub(u64::from(cost));
        quota.restored_after = self.until_free(
            Span {
                position,
                passed: cost,
            },
            now,
        );
    }

    /// The sub-window that counts at `now`: that of the latest moment that the log has seen.
    fn position(&self, log: &Log, now: Moment) -> u64 {
        let position = now.as_nanos() / self.width;
        log.spans
            .back()
            .map_or(position, |span| span.position.max(position))
    }

    /// When a sub-window's passes no longer count.
    const fn free(&self, span: Span) -> Moment {
        Moment::from_nanos((span.position + PARTS + 1) * self.width)
    }

    fn forget(&self, log: &mut Log, now: Moment) {
        let edge = u64::from(is_on(Mutation::WindowWithoutItsEdge));
        let oldest = self.position(log, now).saturating_sub(PARTS) + edge;
        while let Some(span) = log.spans.front().filter(|span| span.position < oldest) {
            log.used -= span.passed;
            log.spans.pop_front();
        }
    }

    fn until_free(&self, span: Span, now: Moment) -> u64 {
        self.free(span).as_nanos().saturating_sub(now.as_nanos())
    }

    /// How long until `wanted` units are free.
    fn wait(&self, log: &Log, now: Moment, mut wanted: u32) -> u64 {
        for span in &log.spans {
            wanted = wanted.saturating_sub(span.passed);
            if wanted == 0 {
                return self.until_free(*span, now);
            }
        }
        NEVER
    }

    /// Whether nothing counts any more.
    pub fn is_idle(&self, log: &Log, now: Moment) -> bool {
        log.spans.back().is_none_or(|span| self.free(*span) <= now)
    }

    /// What was used and still counts.
    pub fn used(&self, log: &mut Log, now: Moment) -> u32 {
        self.forget(log, now);
        log.used
    }

    /// A log in which so much was used, just now.
    pub fn missing(&self, used: u32, now: Moment) -> Log {
        let position = now.as_nanos() / self.width;
        let spans = (used > 0).then_some(Span {
            position,
            passed: used,
        });
        Log {
            spans: spans.into_iter().collect(),
            used,
        }
    }

    /// The log for a window of another length. What passed is taken to have passed as late as it can have.
    pub fn carried(&self, log: &mut Log, from: &Self, now: Moment) -> Log {
        from.forget(log, now);
        if self.width == from.width {
            return log.clone();
        }
        let mut carried = Log::default();
        for span in &log.spans {
            let last = ((span.position + 1) * from.width - 1).min(now.as_nanos());
            let mut quota = Quota::NOTHING;
            self.charge(&mut carried, Moment::from_nanos(last), span.passed, &mut quota);
        }
        carried
    }

    pub const fn memory(&self) -> Duration {
        Duration::from_nanos((PARTS + 1) * self.width)
    }

    pub const fn limit(&self) -> u32 {
        self.limit
    }

    pub const fn window(&self) -> u64 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn window(limit: u32, millis: u64) -> SlidingWindow {
        SlidingWindow::new(&Rate {
            limit: NonZeroU32::new(limit).unwrap(),
            window: Duration::from_millis(millis),
            burst: None,
        })
    }

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(millis * 1_000_000)
    }

    fn pass(window: &SlidingWindow, log: &mut Log, now: Moment, cost: u32) -> bool {
        let mut quota = window.check(log, now, cost, Share::WHOLE);
        if quota.admits {
            window.charge(log, now, cost, &mut quota);
        }
        quota.admits
    }

    #[test]
    fn under_steady_overload_64_of_65_parts_are_usable() {
        let window = window(100, 64_000);
        let mut log = Log::default();
        let passed = (0..650_000)
            .filter(|step| pass(&window, &mut log, at(step * 100), 1))
            .count();
        assert_eq!(passed, 100 * 1000, "1000 times 65 s, the whole limit each time");
    }

    #[test]
    fn retry_after_is_the_first_moment_that_admits() {
        let window = window(10, 60_000);
        let mut log = Log::default();
        assert!(pass(&window, &mut log, at(500), 4) && pass(&window, &mut log, at(30_000), 6));
        let quota = window.check(&mut log, at(31_000), 5, Share::WHOLE);
        let wait = quota.retry_after().unwrap();
        let early = at(31_000).after(wait - Duration::from_nanos(1));
        assert!(!window.check(&mut log.clone(), early, 5, Share::WHOLE).admits);
        assert!(
            window
                .check(&mut log, at(31_000).after(wait), 5, Share::WHOLE)
                .admits
        );
        assert_eq!(
            window.check(&mut log, at(31_000), 11, Share::WHOLE).retry_after(),
            None
        );
    }

    #[test]
    fn a_log_is_idle_when_its_last_pass_no_longer_counts() {
        let window = window(10, 64_000);
        let mut log = Log::default();
        assert!(window.is_idle(&log, at(0)));
        assert!(pass(&window, &mut log, at(1_500), 1));
        assert!(!window.is_idle(&log, at(65_999)) && window.is_idle(&log, at(66_000)));
        assert_eq!(window.used(&mut log, at(66_000)), 0);
    }
}
