//! Changing a limit loses no count that still applies.

#![allow(clippy::unwrap_used, missing_docs)]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use trellis_rate::mutation::{self, Mutation};
use trellis_rate::{Algorithm, Charge, Key, KeyMaker, Limit, LimitSet, Limiter, Mode, Moment, Rate};

use Algorithm::{FixedWindow, SlidingWindow, TokenBucket};

const RATES: [Algorithm; 3] = [TokenBucket, SlidingWindow, FixedWindow];

fn limit(algorithm: Algorithm, rates: &[(u32, u64)]) -> Limit {
    let rates = rates.iter().map(|(limit, seconds)| Rate {
        limit: NonZeroU32::new(*limit).unwrap(),
        window: Duration::from_secs(*seconds),
        burst: None,
    });
    Limit::by_rates(algorithm, rates.collect()).unwrap()
}

fn key() -> Key {
    KeyMaker::new([1, 2]).key([b"caller".as_slice()])
}

fn at(seconds: u64) -> Moment {
    Moment::from_nanos(seconds * 1_000_000_000)
}

fn set(limiter: &Arc<Limiter>) -> LimitSet {
    LimitSet::new([(Arc::clone(limiter), Mode::Enforce)])
}

fn passes(set: &LimitSet, now: Moment) -> usize {
    (0..10_000)
        .take_while(|_| set.decide(now, |_| Some(Charge::of(key()))).is_admitted())
        .count()
}

/// Uses up one limit, changes it, and tells how much passes at once then.
fn after_change(from: &Limit, to: &Limit) -> usize {
    let limiter = Arc::new(Limiter::keyed(from, 100));
    let set = set(&limiter);
    assert!(passes(&set, at(600)) > 0);
    limiter.update(to, at(600));
    passes(&set, at(600))
}

#[test]
fn a_raised_limit_admits_the_difference_at_once() {
    for from in RATES {
        for to in RATES {
            let passed = after_change(&limit(from, &[(100, 60)]), &limit(to, &[(150, 60)]));
            assert_eq!(passed, 50, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn a_lowered_limit_admits_nothing_until_enough_has_run_off() {
    for from in RATES {
        for to in RATES {
            let passed = after_change(&limit(from, &[(100, 60)]), &limit(to, &[(50, 60)]));
            assert_eq!(passed, 0, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn an_update_that_forgets_is_found() {
    let limits = (
        limit(SlidingWindow, &[(100, 60)]),
        limit(SlidingWindow, &[(150, 60)]),
    );
    let passed = mutation::with(Mutation::UpdateForgetsUse, || after_change(&limits.0, &limits.1));
    assert_eq!(passed, 150);
}

#[test]
fn a_lowered_bucket_refills_from_empty_at_the_new_rate() {
    let limiter = Arc::new(Limiter::keyed(&limit(TokenBucket, &[(100, 60)]), 100));
    let set = set(&limiter);
    assert_eq!(passes(&set, at(0)), 100);
    limiter.update(&limit(TokenBucket, &[(60, 60)]), at(0));
    assert_eq!(
        (1..=30)
            .map(|second| passes(&set, at(second)))
            .collect::<Vec<_>>(),
        [1; 30]
    );
}

#[test]
fn a_rate_goes_on_with_the_count_of_the_same_window() {
    for algorithm in RATES {
        // 30 a minute are used up; a rate of 3 a second is put before it.
        let from = limit(algorithm, &[(30, 60)]);
        assert_eq!(after_change(&from, &limit(algorithm, &[(3, 1), (30, 60)])), 0);
        assert_eq!(
            after_change(&from, &limit(algorithm, &[(40, 1), (31, 60)])),
            1,
            "{algorithm:?}"
        );
        // And a rate that is taken away no longer counts.
        let both = limit(algorithm, &[(3, 1), (30, 60)]);
        assert_eq!(after_change(&both, &limit(algorithm, &[(30, 60)])), 27);
    }
}

#[test]
fn a_sliding_window_of_another_length_keeps_the_moments() {
    let limiter = Arc::new(Limiter::keyed(&limit(SlidingWindow, &[(10, 60)]), 100));
    let set = set(&limiter);
    let once = |second| set.decide(at(second), |_| Some(Charge::of(key()))).is_admitted();
    assert!((0..10).all(|step| once(600 + 5 * step)));
    // The last 30 s have seen the passes at 620 (whose sub-window reaches into them) to 645.
    limiter.update(&limit(SlidingWindow, &[(10, 30)]), at(650));
    assert_eq!(passes(&set, at(650)), 4);
    limiter.update(&limit(SlidingWindow, &[(20, 30)]), at(650));
    assert_eq!(passes(&set, at(650)), 10);
}

#[test]
fn what_is_under_way_stays_counted() {
    let most = |most| Limit::by_concurrency(NonZeroU32::new(most).unwrap());
    let limiter = Arc::new(Limiter::keyed(&most(4), 100));
    let set = set(&limiter);
    let decide = || set.decide(at(0), |_| Some(Charge::of(key())));
    let mut held: Vec<_> = (0..4).flat_map(|_| decide().into_permits()).collect();
    limiter.update(&most(2), at(0));
    held.truncate(2);
    assert!(!decide().is_admitted());
    held.truncate(1);
    assert!(decide().is_admitted());
}

#[test]
fn a_limit_without_counters_is_carried_over_as_well() {
    let limiter = Arc::new(Limiter::new(&limit(FixedWindow, &[(10, 60)])));
    let set = set(&limiter);
    let count = || {
        (0..100)
            .filter(|_| set.decide(at(0), |_| Some(Charge::ONE)).is_admitted())
            .count()
    };
    assert_eq!(count(), 10);
    limiter.update(&limit(SlidingWindow, &[(15, 60)]), at(0));
    assert_eq!(count(), 5);
}

#[test]
fn edits_under_load_never_admit_more_than_the_highest_of_the_limits() {
    const WINDOW: u64 = 60;
    let limiter = Arc::new(Limiter::keyed(&limit(SlidingWindow, &[(10, WINDOW)]), 100));
    let set = set(&limiter);
    let clock = std::sync::atomic::AtomicU64::new(0);
    let tick = || clock.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let read = || clock.load(std::sync::atomic::Ordering::SeqCst);
    let decide = || {
        let mut passed = Vec::new();
        for _ in 0..20_000 {
            let before = tick();
            if set.decide(at(before), |_| Some(Charge::of(key()))).is_admitted() {
                passed.push((before, read()));
            }
        }
        passed
    };
    let edit = || {
        for most in (0..2_000).map(|edit| 10 + edit % 11) {
            limiter.update(&limit(SlidingWindow, &[(most, WINDOW)]), at(read()));
        }
    };
    let passed: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let threads = [scope.spawn(decide), scope.spawn(decide)];
        scope.spawn(edit);
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(passed.len() > 1_000, "{}", passed.len());
    for (from, _) in &passed {
        let within = passed
            .iter()
            .filter(|(before, after)| before >= from && *after < from + WINDOW);
        assert!(within.count() <= 20);
    }
}
