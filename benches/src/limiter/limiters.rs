//! The limiters alone, ours and governor's, as something that says whether a request passes.
//!
//! Both get the same keys (strings, as callers have them: hashing them is in the time), the same limits, and the same clock: a
//! number of each thread, since reading a real one costs as much as a decision.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{Quota, RateLimiter, clock::Clock, nanos::Nanos};
use trellis_rate::{Algorithm, Charge, KeyMaker, Limit, LimitSet, Limiter, Mode, Moment, Rate};

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// Governor's view of the thread's clock.
#[derive(Clone, Debug, Default)]
pub struct ThreadClock;

impl Clock for ThreadClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        NOW.get().into()
    }
}

/// One request: the key's position, if the limit has keys. Says whether it passes.
pub type Decide<'a> = Box<dyn Fn(usize) -> bool + Sync + 'a>;

/// Sets the thread's clock, in nanoseconds.
pub fn set_now(nanos: u64) {
    NOW.set(nanos);
}

/// By this number of callers.
pub fn keys(count: usize) -> Vec<String> {
    (0..count).map(|key| format!("caller-{key:08}")).collect()
}

/// Ours, of so many per second; with room for twice as many keys as there are, if there are any.
pub fn limiter(algorithm: Algorithm, limit: NonZeroU32, keys: usize) -> Arc<Limiter> {
    let rate = Rate {
        limit,
        window: Duration::from_secs(1),
        burst: None,
    };
    let limit = Limit::by_rates(algorithm, vec![rate]).expect("a valid limit");
    Arc::new(if keys > 0 {
        Limiter::keyed(&limit, 2 * keys)
    } else {
        Limiter::new(&limit)
    })
}

/// Ours without keys.
pub fn ours(algorithm: Algorithm, limit: NonZeroU32) -> Decide<'static> {
    let set = LimitSet::new([(limiter(algorithm, limit, 0), Mode::Enforce)]);
    Box::new(move |_| set.decide(now(), |_| Some(Charge::ONE)).is_admitted())
}

/// Ours, by key.
pub fn ours_keyed(algorithm: Algorithm, limit: NonZeroU32, keys: &[String]) -> Decide<'_> {
    keyed_by(limiter(algorithm, limit, keys.len()), keys)
}

/// A limiter of ours that has keys.
pub fn keyed_by(limiter: Arc<Limiter>, keys: &[String]) -> Decide<'_> {
    let set = LimitSet::new([(limiter, Mode::Enforce)]);
    let maker = KeyMaker::new([1, 2]);
    Box::new(move |key| {
        let charge = Charge::of(maker.key([keys[key].as_bytes()]));
        set.decide(now(), |_| Some(charge)).is_admitted()
    })
}

/// Ours, two limits at once: one without keys and one by key.
pub fn ours_both(limit: NonZeroU32, keys: &[String]) -> Decide<'_> {
    let limiters = [0, keys.len()].map(|keys| (limiter(Algorithm::TokenBucket, limit, keys), Mode::Enforce));
    let set = LimitSet::new(limiters);
    let maker = KeyMaker::new([1, 2]);
    Box::new(move |key| {
        let charge = Charge::of(maker.key([keys[key].as_bytes()]));
        let decision = set.decide(now(), |limit| Some(if limit == 0 { Charge::ONE } else { charge }));
        decision.is_admitted()
    })
}

/// Governor without keys, of so many per second: a bucket of that size, as ours is.
pub fn governor(limit: NonZeroU32) -> Decide<'static> {
    // It counts from when it was made, and admits nobody before.
    set_now(0);
    let limiter = RateLimiter::direct_with_clock(Quota::per_second(limit), ThreadClock);
    Box::new(move |_| limiter.check().is_ok())
}

/// Governor by key, in its `dashmap`.
pub fn governor_keyed(limit: NonZeroU32, keys: &[String]) -> Decide<'_> {
    set_now(0);
    let limiter = RateLimiter::dashmap_with_clock(Quota::per_second(limit), ThreadClock);
    Box::new(move |key| limiter.check_key(&keys[key]).is_ok())
}

/// Two limiters of governor's, one after the other. The first stays charged if the second refuses.
pub fn governor_both(limit: NonZeroU32, keys: &[String]) -> Decide<'_> {
    let (total, keyed) = (governor(limit), governor_keyed(limit, keys));
    Box::new(move |key| total(key) && keyed(key))
}

fn now() -> Moment {
    Moment::from_nanos(NOW.get())
}
