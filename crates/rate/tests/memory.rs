//! What bounded memory does to keys.

#![allow(clippy::unwrap_used, missing_docs)]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use trellis_rate::mutation::{self, Mutation};
use trellis_rate::{Algorithm, Charge, Key, KeyMaker, Limit, LimitSet, Limiter, Mode, Moment, Rate};

const RATES: [Algorithm; 3] = [
    Algorithm::TokenBucket,
    Algorithm::SlidingWindow,
    Algorithm::FixedWindow,
];
const LIMIT: usize = 5;
const KEYS: u64 = 50;

fn limiter(algorithm: Algorithm, most_keys: usize) -> Arc<Limiter> {
    let rate = Rate {
        limit: NonZeroU32::new(LIMIT as u32).unwrap(),
        window: Duration::from_secs(60),
        burst: None,
    };
    Arc::new(Limiter::keyed(
        &Limit::by_rates(algorithm, vec![rate]).unwrap(),
        most_keys,
    ))
}

fn set(limiter: &Arc<Limiter>) -> LimitSet {
    LimitSet::new([(Arc::clone(limiter), Mode::Enforce)])
}

fn key(number: u64) -> Key {
    KeyMaker::new([1, 2]).key([number.to_le_bytes().as_slice()])
}

fn at(seconds: u64) -> Moment {
    Moment::from_nanos(seconds * 1_000_000_000)
}

fn passes(set: &LimitSet, now: Moment, number: u64, requests: usize) -> usize {
    (0..requests)
        .filter(|_| set.decide(now, |_| Some(Charge::of(key(number)))).is_admitted())
        .count()
}

/// The most that one key passes within a window while many more keys than there is room for come, in turns, and
/// room is made in between.
fn most_of_one_key(algorithm: Algorithm) -> usize {
    let limiter = limiter(algorithm, KEYS as usize);
    let set = set(&limiter);
    // Half of the keys that are there first do not come back: they become idle in the middle of what follows.
    for number in 0..KEYS {
        passes(&set, at(if number % 2 == 0 { 10 } else { 50 }), number, 1);
    }
    let mut passed = [0; 200];
    for second in 60..119 {
        for number in (0..200).filter(|number| *number >= KEYS || number % 2 == 1) {
            passed[number as usize] += passes(&set, at(second), number, 1);
        }
    }
    passed.into_iter().max().unwrap_or_default()
}

#[test]
fn no_key_gets_more_than_its_limit_for_want_of_memory() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::FixedWindow] {
        assert_eq!(most_of_one_key(algorithm), LIMIT, "{algorithm:?}");
    }
    // A bucket is refilled once in the time.
    let most = most_of_one_key(Algorithm::TokenBucket);
    assert!((LIMIT..LIMIT * 2).contains(&most), "{most}");
}

#[test]
fn a_store_that_forgets_is_found() {
    for mutation in [Mutation::EvictionForgetsUse, Mutation::OverflowIsForgotten] {
        let most = mutation::with(mutation, || most_of_one_key(Algorithm::SlidingWindow));
        assert!(most > LIMIT, "{mutation:?}: {most}");
    }
}

#[test]
fn strangers_share_one_limit_while_there_is_no_room() {
    for algorithm in RATES {
        let limiter = limiter(algorithm, 4);
        let set = set(&limiter);
        for number in 0..4 {
            assert_eq!(passes(&set, at(0), number, 1), 1);
        }
        let strangers: usize = (4..1000).map(|number| passes(&set, at(0), number, 1)).sum();
        assert_eq!(strangers, LIMIT, "{algorithm:?}");
        assert_eq!(
            passes(&set, at(0), 0, 10),
            LIMIT - 1,
            "who was there keeps its own"
        );
        let occupancy = limiter.occupancy();
        assert_eq!(
            (occupancy.keys, occupancy.evicted, occupancy.overflowed),
            (4, 0, 996)
        );
    }
}

#[test]
fn idle_keys_make_room_and_are_counted() {
    for algorithm in RATES {
        let limiter = limiter(algorithm, 1_000);
        let set = set(&limiter);
        for number in 0..10_000 {
            assert_eq!(passes(&set, at(number), number, 1), 1, "{algorithm:?} {number}");
        }
        let occupancy = limiter.occupancy();
        assert_eq!(occupancy.evicted + occupancy.keys as u64, 10_000);
        assert_eq!(occupancy.overflowed, 0);
        assert!(occupancy.keys < 500, "{algorithm:?} {occupancy:?}");
        limiter.sweep(at(20_000));
        assert_eq!(limiter.occupancy().keys, 0);
        assert_eq!(
            limiter.occupancy().table_bytes,
            limiter_bytes_when_empty(algorithm)
        );
    }
}

fn limiter_bytes_when_empty(algorithm: Algorithm) -> usize {
    limiter(algorithm, 1_000).occupancy().table_bytes
}

#[test]
fn new_keys_are_refused_while_every_permit_counter_is_in_use() {
    let limit = Limit::by_concurrency(NonZeroU32::new(2).unwrap());
    let limiter = Arc::new(Limiter::keyed(&limit, 2));
    let set = set(&limiter);
    let decide = |number, now| set.decide(now, |_| Some(Charge::of(key(number))));
    let held: Vec<_> = (0..2)
        .flat_map(|number| decide(number, at(0)).into_permits())
        .collect();
    assert_eq!(held.len(), 2);
    assert!(!decide(2, at(0)).is_admitted());
    assert!(
        decide(1, at(0)).is_admitted(),
        "who is there still has its second one"
    );
    drop(held);
    assert!(decide(2, at(9)).is_admitted());
}

#[test]
fn a_token_bucket_takes_at_most_100_bytes_a_key() {
    // Just before and just after the tables grow.
    for keys in [1_000, 54_000, 60_000, 100_000] {
        let limiter = limiter(Algorithm::TokenBucket, 2 * keys);
        let set = set(&limiter);
        for number in 0..keys as u64 {
            passes(&set, at(0), number, 1);
        }
        let occupancy = limiter.occupancy();
        assert_eq!(occupancy.keys, keys);
        let bytes = occupancy.table_bytes as f64 / keys as f64;
        assert!(
            (32.0..=100.0).contains(&bytes),
            "{bytes} bytes a key with {keys} keys"
        );
    }
}
