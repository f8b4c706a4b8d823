//! Never more than the stated bound in any window, by threads that really run at once.
//!
//! Each thread reads the clock, decides, and reads the clock again. Its request passed somewhere in between. The judge counts,
//! for every window, the passes of which the *whole* span lies in it: those are in the window for certain, whatever
//! the order was in truth. The clock is a number that the threads push on, so that hours pass in milliseconds.

#![allow(clippy::unwrap_used, missing_docs)]

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use proptest::prelude::*;
use trellis_rate::mutation::{self, Mutation};
use trellis_rate::{Algorithm, Charge, Key, KeyMaker, Limit, LimitSet, Limiter, Mode, Moment, Rate};

const MILLI: u64 = 1_000_000;
const WINDOW: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
struct Passed {
    before: u64,
    after: u64,
    cost: u32,
}

#[derive(Clone, Debug)]
struct Load {
    threads: usize,
    requests: usize,
    /// By how much a request pushes the clock on, in milliseconds: the first seldom, the second always.
    steps: (u64, u64),
    most_cost: u32,
}

fn key(number: u64) -> Key {
    KeyMaker::new([1, 2]).key([number.to_le_bytes().as_slice()])
}

/// What passed, by the threads' own clocks. Every other request also meets a second limit that refuses now and then.
fn passes(set: &LimitSet, load: &Load) -> Vec<Passed> {
    let clock = AtomicU64::new(0);
    let start = Barrier::new(load.threads);
    let run = |thread: usize| {
        start.wait();
        let mut passed = Vec::new();
        for request in 0..load.requests {
            let step = if request % 50 == thread % 50 {
                load.steps.0
            } else {
                load.steps.1
            };
            let before = clock.fetch_add(step, Ordering::SeqCst) + step;
            let cost = 1 + request as u32 % load.most_cost;
            let other = (thread + request).is_multiple_of(2);
            let decision = set.decide(Moment::from_nanos(before * MILLI), |position| match position {
                0 => Some(Charge::of(key(0)).costing(cost)),
                _ => other.then(|| Charge::of(key(request as u64 % 3))),
            });
            if decision.is_admitted() {
                let after = clock.load(Ordering::SeqCst);
                passed.push(Passed { before, after, cost });
            }
        }
        passed
    };
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..load.threads)
            .map(|thread| scope.spawn(move || run(thread)))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// The most that passed for certain in any window of so many milliseconds. It is enough to look at those that begin with
/// a pass.
fn most_in_any(passed: &[Passed], window: u64) -> u64 {
    let mut by_end: Vec<Passed> = passed.to_vec();
    by_end.sort_by_key(|pass| pass.after);
    passed
        .iter()
        .map(|first| {
            let (from, to) = (first.before, first.before + window);
            let ended = by_end.partition_point(|pass| pass.after < to);
            by_end[..ended]
                .iter()
                .rev()
                .take_while(|pass| pass.after >= from)
                .filter(|pass| pass.before >= from)
                .map(|pass| u64::from(pass.cost))
                .sum()
        })
        .max()
        .unwrap_or_default()
}

fn limit(algorithm: Algorithm, limit: u32, burst: Option<u32>) -> Limit {
    let rate = Rate {
        limit: NonZeroU32::new(limit).unwrap(),
        window: Duration::from_millis(WINDOW),
        burst: burst.and_then(NonZeroU32::new),
    };
    Limit::by_rates(algorithm, vec![rate]).unwrap()
}

/// With room for all keys, or for two of three, so that the others share.
fn set(first: &Limit, is_full: bool) -> LimitSet {
    let limiter = |limit: &Limit| Arc::new(Limiter::keyed(limit, if is_full { 2 } else { 1_000 }));
    LimitSet::new([
        (limiter(first), Mode::Enforce),
        (limiter(&limit(Algorithm::SlidingWindow, 7, None)), Mode::Enforce),
    ])
}

fn load() -> impl Strategy<Value = Load> {
    (2..5usize, 100..600usize, 0..400u64, 0..3u64, 1..4u32).prop_map(
        |(threads, requests, seldom, always, most_cost)| Load {
            threads,
            requests,
            steps: (seldom, always),
            most_cost,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_sliding_window_never_admits_more_than_its_limit_in_any_window(load in load(), most in 3..40u32, full: bool) {
        let passed = passes(&set(&limit(Algorithm::SlidingWindow, most, None), full), &load);
        prop_assert!(!passed.is_empty());
        prop_assert!(most_in_any(&passed, WINDOW) <= u64::from(most));
    }

    #[test]
    fn a_token_bucket_never_admits_more_than_burst_and_refill(load in load(), rate in 1..40u32, burst in 3..60u32, full: bool) {
        let passed = passes(&set(&limit(Algorithm::TokenBucket, rate, Some(burst)), full), &load);
        prop_assert!(!passed.is_empty());
        for window in [1, 10, WINDOW / 2, WINDOW, 3 * WINDOW] {
            let bound = u64::from(burst) + window * u64::from(rate) / WINDOW;
            prop_assert!(most_in_any(&passed, window) <= bound, "window {window}");
        }
    }

    #[test]
    fn a_fixed_window_never_admits_more_than_its_limit_in_its_own_window(load in load(), most in 3..40u32, full: bool) {
        let passed = passes(&set(&limit(Algorithm::FixedWindow, most, None), full), &load);
        prop_assert!(!passed.is_empty());
        let last = passed.iter().map(|pass| pass.after).max().unwrap_or_default();
        for start in (0..=last).step_by(WINDOW as usize) {
            let within = passed.iter().filter(|pass| pass.before >= start && pass.after < start + WINDOW);
            prop_assert!(within.map(|pass| u64::from(pass.cost)).sum::<u64>() <= u64::from(most));
        }
        prop_assert!(most_in_any(&passed, WINDOW) <= 2 * u64::from(most));
    }
}

/// One thread, one request a millisecond, for a minute.
fn steady(algorithm: Algorithm) -> Vec<Passed> {
    let limiter = Arc::new(Limiter::new(&limit(algorithm, 100, None)));
    let set = LimitSet::new([(limiter, Mode::Enforce)]);
    (0..60_000)
        .filter(|now| {
            set.decide(Moment::from_nanos(now * MILLI), |_| Some(Charge::ONE))
                .is_admitted()
        })
        .map(|now| Passed {
            before: now,
            after: now,
            cost: 1,
        })
        .collect()
}

#[test]
fn at_least_95_percent_of_a_limit_is_usable_under_steady_overload() {
    for algorithm in [
        Algorithm::TokenBucket,
        Algorithm::SlidingWindow,
        Algorithm::FixedWindow,
    ] {
        let passed = steady(algorithm).len();
        assert!(
            passed * 100 >= 95 * 60 * 100,
            "{algorithm:?}: {passed} of {}",
            60 * 100
        );
    }
}

#[test]
fn a_window_that_forgets_its_edge_is_found() {
    let late = || {
        let limiter = Arc::new(Limiter::new(&limit(Algorithm::SlidingWindow, 10, None)));
        let set = LimitSet::new([(limiter, Mode::Enforce)]);
        // 15 ms is the last of the first sub-window of 15.6 ms; 1001 ms is in the 65th.
        let passed: Vec<_> = [15, 1_001]
            .into_iter()
            .flat_map(|now| vec![now; 10])
            .filter(|now| {
                set.decide(Moment::from_nanos(now * MILLI), |_| Some(Charge::ONE))
                    .is_admitted()
            })
            .map(|now| Passed {
                before: now,
                after: now,
                cost: 1,
            })
            .collect();
        most_in_any(&passed, WINDOW)
    };
    assert_eq!(late(), 10);
    assert_eq!(mutation::with(Mutation::WindowWithoutItsEdge, late), 20);
}

/// Permits that are out at once, as the threads themselves count them: after taking and before giving back.
#[test]
fn no_more_than_the_limit_is_under_way_at_once() {
    const MOST: u32 = 3;
    let most = Limit::by_concurrency(NonZeroU32::new(MOST).unwrap());
    let set = LimitSet::new([
        (Arc::new(Limiter::new(&most)), Mode::Enforce),
        (
            Arc::new(Limiter::new(&limit(Algorithm::TokenBucket, 10_000, None))),
            Mode::Enforce,
        ),
    ]);
    let under_way = AtomicU64::new(0);
    let run = || {
        let mut passed = 0_u32;
        for request in 0..20_000_u64 {
            let decision = set.decide(Moment::from_nanos(request * MILLI), |_| Some(Charge::ONE));
            if decision.is_admitted() {
                let permits: Vec<_> = decision.into_permits().collect();
                assert!(under_way.fetch_add(1, Ordering::SeqCst) < u64::from(MOST));
                std::thread::yield_now();
                under_way.fetch_sub(1, Ordering::SeqCst);
                drop(permits);
                passed += 1;
            }
        }
        passed
    };
    let passed: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..5).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(passed > 0);
    let after: Vec<_> = (0..MOST)
        .flat_map(|_| {
            set.decide(Moment::from_nanos(u64::MAX), |_| Some(Charge::ONE))
                .into_permits()
        })
        .collect();
    assert_eq!(after.len(), MOST as usize, "every permit came back");
}
