//! What a decision promises, one thread at a time.

#![allow(clippy::unwrap_used, missing_docs)]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use trellis_rate::mutation::{self, Mutation};
use trellis_rate::{
    Algorithm, Charge, Decision, Key, KeyMaker, Limit, LimitSet, Limiter, Mode, Moment, Rate, Share,
};

const RATES: [Algorithm; 3] = [
    Algorithm::TokenBucket,
    Algorithm::SlidingWindow,
    Algorithm::FixedWindow,
];

fn rate(limit: u32, seconds: u64) -> Rate {
    Rate {
        limit: NonZeroU32::new(limit).unwrap(),
        window: Duration::from_secs(seconds),
        burst: None,
    }
}

fn limit(algorithm: Algorithm, rates: &[Rate]) -> Limit {
    Limit::by_rates(algorithm, rates.to_vec()).unwrap()
}

fn concurrency(most: u32) -> Limit {
    Limit::by_concurrency(NonZeroU32::new(most).unwrap())
}

fn key(name: &str) -> Key {
    KeyMaker::new([1, 2]).key([name.as_bytes()])
}

fn at(millis: u64) -> Moment {
    Moment::from_nanos(millis * 1_000_000)
}

fn enforced(limiters: &[&Arc<Limiter>]) -> LimitSet {
    LimitSet::new(
        limiters
            .iter()
            .map(|limiter| (Arc::clone(limiter), Mode::Enforce)),
    )
}

fn remaining(decision: &Decision, member: usize, rate: usize) -> u32 {
    decision
        .readings()
        .iter()
        .find(|reading| (reading.member, reading.rate) == (member, rate))
        .map(|reading| reading.quota.remaining())
        .unwrap()
}

/// How many of so many requests pass.
fn passes(set: &LimitSet, now: Moment, requests: usize, charge: Charge) -> usize {
    (0..requests)
        .filter(|_| set.decide(now, |_| Some(charge)).is_admitted())
        .count()
}

/// A request that the second limit refuses costs nothing at the first one.
fn refused_by_another_costs_nothing(algorithm: Algorithm, other: &Limit) -> bool {
    let total = Arc::new(Limiter::new(&limit(algorithm, &[rate(10, 60)])));
    let caller = Arc::new(Limiter::keyed(other, 100));
    let set = enforced(&[&total, &caller]);
    let charge = |name: &str| {
        let key = key(name);
        move |position| {
            Some(if position == 0 {
                Charge::ONE
            } else {
                Charge::of(key)
            })
        }
    };
    let first = set.decide(at(0), charge("noisy"));
    assert!(first.is_admitted());
    for _ in 0..100 {
        let refused = set.decide(at(1), charge("noisy"));
        assert!(!refused.is_admitted());
        assert_eq!(
            refused
                .refusals()
                .map(|reading| reading.member)
                .collect::<Vec<_>>(),
            [1]
        );
        if remaining(&refused, 0, 0) != 9 {
            return false;
        }
    }
    let others = (0..20)
        .filter(|caller| {
            set.decide(at(2), charge(&format!("caller {caller}")))
                .is_admitted()
        })
        .count();
    drop(first.into_permits().collect::<Vec<_>>());
    others == 9
}

#[test]
fn a_refused_request_costs_nothing_anywhere() {
    for algorithm in RATES {
        for other in RATES {
            assert!(refused_by_another_costs_nothing(
                algorithm,
                &limit(other, &[rate(1, 60)])
            ));
        }
        assert!(refused_by_another_costs_nothing(algorithm, &concurrency(1)));
    }
}

#[test]
fn a_charge_that_a_refusal_keeps_is_found() {
    let found = mutation::with(Mutation::RefusalKeepsCharges, || {
        !refused_by_another_costs_nothing(
            Algorithm::TokenBucket,
            &limit(Algorithm::TokenBucket, &[rate(1, 60)]),
        )
    });
    assert!(found);
}

#[test]
fn several_rates_hold_together_and_a_refusal_by_one_costs_nothing_at_the_other() {
    for algorithm in RATES {
        let limiter = Arc::new(Limiter::new(&limit(algorithm, &[rate(3, 1), rate(30, 60)])));
        let set = enforced(&[&limiter]);
        assert_eq!(passes(&set, at(0), 100, Charge::ONE), 3, "{algorithm:?}");
        let refused = set.decide(at(0), |_| Some(Charge::ONE));
        assert_eq!((remaining(&refused, 0, 0), remaining(&refused, 0, 1)), (0, 27));
        let later: usize = (1..30)
            .map(|second| passes(&set, at(second * 1_100), 100, Charge::ONE))
            .sum();
        assert!((27..=27 + 15).contains(&later), "{algorithm:?} {later}");
    }
}

#[test]
fn a_cost_is_charged_as_a_whole() {
    for algorithm in RATES {
        let limiter = Arc::new(Limiter::new(&limit(algorithm, &[rate(10, 60)])));
        let set = enforced(&[&limiter]);
        assert_eq!(passes(&set, at(0), 100, Charge::ONE.costing(4)), 2);
        assert_eq!(passes(&set, at(0), 100, Charge::ONE.costing(3)), 0);
        assert_eq!(passes(&set, at(0), 100, Charge::ONE), 2);
        let never = set.decide(at(0), |_| Some(Charge::ONE.costing(11)));
        assert_eq!(never.retry_after(), None);
    }
}

#[test]
fn retry_after_is_when_all_that_refuse_admit() {
    for algorithm in RATES {
        let short = Arc::new(Limiter::new(&limit(algorithm, &[rate(1, 10)])));
        let long = Arc::new(Limiter::new(&limit(algorithm, &[rate(1, 30)])));
        let set = enforced(&[&long, &short]);
        assert_eq!(passes(&set, at(0), 1, Charge::ONE), 1);
        let refused = set.decide(at(5_000), |_| Some(Charge::ONE));
        let wait = refused.retry_after().unwrap();
        let early = at(5_000).after(wait - Duration::from_nanos(1));
        assert_eq!(passes(&set, early, 1, Charge::ONE), 0, "{algorithm:?}");
        assert_eq!(
            passes(&set, at(5_000).after(wait), 1, Charge::ONE),
            1,
            "{algorithm:?}"
        );
    }
}

#[test]
fn a_shadow_limit_blocks_nothing_and_tells_what_it_would_have_refused() {
    for algorithm in RATES {
        let enforce = Arc::new(Limiter::new(&limit(algorithm, &[rate(10, 60)])));
        let shadow = Arc::new(Limiter::new(&limit(algorithm, &[rate(4, 60)])));
        let set = LimitSet::new([(enforce, Mode::Enforce), (shadow, Mode::Shadow)]);
        let decisions: Vec<_> = (0..20)
            .map(|_| set.decide(at(0), |_| Some(Charge::ONE)))
            .collect();
        assert_eq!(
            decisions.iter().filter(|decision| decision.is_admitted()).count(),
            10
        );
        let would = decisions
            .iter()
            .filter(|decision| decision.would_reject().next().is_some());
        assert_eq!(would.count(), 6, "of the 10 that pass, 4 have room");
        assert!(decisions[9].would_reject().all(|reading| reading.member == 1));
    }
}

#[test]
fn permits_count_until_they_are_dropped_and_a_refusal_leaves_none() {
    let at_once = Arc::new(Limiter::new(&concurrency(2)));
    let total = Arc::new(Limiter::new(&limit(Algorithm::SlidingWindow, &[rate(3, 60)])));
    let set = enforced(&[&at_once, &total]);
    let decide = || set.decide(at(0), |_| Some(Charge::ONE));
    let first: Vec<_> = decide().into_permits().collect();
    let second: Vec<_> = decide().into_permits().collect();
    let refused = decide();
    assert!(!refused.is_admitted() && refused.into_permits().next().is_none());
    drop(first);
    let third: Vec<_> = decide().into_permits().collect();
    assert_eq!((second.len(), third.len()), (1, 1));
    drop((second, third));
    let refused = decide();
    assert!(!refused.is_admitted(), "the rate is used up");
    assert_eq!(remaining(&refused, 0, 0), 2, "and nothing is under way");
}

#[test]
fn limits_that_do_not_apply_are_not_asked() {
    let first = Arc::new(Limiter::new(&limit(Algorithm::FixedWindow, &[rate(1, 60)])));
    let second = Arc::new(Limiter::new(&limit(Algorithm::FixedWindow, &[rate(1, 60)])));
    let set = enforced(&[&first, &second]);
    let decision = set.decide(at(0), |position| (position == 1).then_some(Charge::ONE));
    assert_eq!(decision.readings().len(), 1);
    assert!(
        set.decide(at(0), |position| (position == 0).then_some(Charge::ONE))
            .is_admitted()
    );
    assert!(set.decide(at(0), |_| None).is_admitted());
}

#[test]
fn a_limit_that_is_named_twice_counts_once() {
    let limiter = Arc::new(Limiter::new(&limit(Algorithm::TokenBucket, &[rate(2, 60)])));
    let set = enforced(&[&limiter, &limiter]);
    assert_eq!(passes(&set, at(0), 10, Charge::ONE), 2);
}

#[test]
fn a_share_of_a_limit_is_that_part_of_it() {
    let share = Share::new(30, NonZeroU32::new(100).unwrap());
    for algorithm in RATES {
        let limiter = Arc::new(Limiter::new(&limit(algorithm, &[rate(100, 60)])));
        let set = enforced(&[&limiter]);
        assert_eq!(passes(&set, at(0), 200, Charge::ONE.within(share)), 30);
        // A window's count is one of units, so what else there is remains. A bucket's debt is one of time: the share of
        // the bucket is empty, and a larger one is refilled faster.
        let rest = if algorithm == Algorithm::TokenBucket {
            0
        } else {
            70
        };
        assert_eq!(passes(&set, at(0), 200, Charge::ONE), rest, "{algorithm:?}");
    }
}
