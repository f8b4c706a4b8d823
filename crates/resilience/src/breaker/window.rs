//! Exact counts of recent results, in ten time buckets.
//!
//! A result counts until the bucket it fell into is ten buckets old: for nine tenths of the window at least, and never
//! longer than the window.

use std::time::Instant;

use super::FailureRate;

const BUCKETS: u64 = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    bucket_nanos: u128,
    /// When the first result came; buckets are counted from there.
    origin: Option<Instant>,
    newest: u64,
    buckets: [Bucket; BUCKETS as usize],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bucket {
    results: u64,
    failures: u64,
}

impl Window {
    pub(super) fn new(rate: &FailureRate) -> Self {
        Self {
            bucket_nanos: (rate.window.as_nanos() / u128::from(BUCKETS)).max(1),
            origin: None,
            newest: 0,
            buckets: [Bucket::default(); BUCKETS as usize],
        }
    }

    pub(super) fn add(&mut self, now: Instant, failed: bool) {
        let origin = *self.origin.get_or_insert(now);
        let number = now.saturating_duration_since(origin).as_nanos() / self.bucket_nanos;
        self.advance(u64::try_from(number).unwrap_or(u64::MAX));
        let bucket = &mut self.buckets[position(self.newest)];
        bucket.results += 1;
        bucket.failures += u64::from(failed);
    }

    pub(super) fn reaches(&self, rate: &FailureRate) -> bool {
        let results = self.buckets.iter().map(|bucket| bucket.results).sum();
        let failures = self.buckets.iter().map(|bucket| bucket.failures).sum();
        results >= u64::from(rate.min_samples.get()) && rate.percent.is_reached_by(failures, results)
    }

    /// Empties the buckets that time went past. Another thread's slightly older reading of the clock changes nothing.
    fn advance(&mut self, number: u64) {
        let passed = number.saturating_sub(self.newest).min(BUCKETS);
        for back in 0..passed {
            self.buckets[position(number - back)] = Bucket::default();
        }
        self.newest = self.newest.max(number);
    }
}

const fn position(number: u64) -> usize {
    (number % BUCKETS) as usize
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use super::*;
    use crate::percent::Percent;

    #[test]
    fn a_result_counts_until_its_bucket_is_ten_buckets_old() {
        let rate = FailureRate {
            percent: Percent::new(100).unwrap(),
            min_samples: NonZeroU32::new(2).unwrap(),
            window: Duration::from_secs(10),
        };
        let start = Instant::now();
        for (later_millis, counted) in [(0, true), (9_999, true), (10_000, false), (1_000_000, false)] {
            let mut window = Window::new(&rate);
            window.add(start, true);
            window.add(start + Duration::from_millis(later_millis), true);
            assert_eq!(window.reaches(&rate), counted, "after {later_millis} ms");
        }
    }

    #[test]
    fn a_clock_reading_from_before_is_counted_and_empties_nothing() {
        let rate = FailureRate::default();
        let start = Instant::now();
        let mut window = Window::new(&rate);
        for _ in 0..10 {
            window.add(start + Duration::from_secs(5), true);
            window.add(start, true);
        }
        assert!(window.reaches(&rate));
    }
}
