//! What a decision costs and what it lets through, beside `governor`: `cargo bench -p trellis-rate`.
//!
//! Both get the same keys (strings, as callers have them; hashing them is in the time), the same limits, and the same clock: a
//! number of each thread, since reading a real one costs as much as a decision. Subjects take turns in every round; the table
//! has medians over rounds, and the median of the rounds' ratios. Time is the thread's own on a processor; with two threads, it is
//! that of a decision on the slower one.

use std::cell::Cell;
use std::collections::VecDeque;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use governor::clock::Clock;
use governor::nanos::Nanos;
use governor::{Quota, RateLimiter};
use nix::time::{ClockId, clock_gettime};
use trellis_rate::{Algorithm, Charge, KeyMaker, Limit, LimitSet, Limiter, Mode, Moment, Rate};

const ROUNDS: usize = 15;
const DECISIONS: usize = 200_000;
/// Nanoseconds between decisions of a thread.
const STEP: usize = 2_000;
const MANY_KEYS: usize = 100_000;
const RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(999_999);

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// Governor's view of the thread's clock.
#[derive(Clone, Debug, Default)]
struct ThreadClock;

impl Clock for ThreadClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        NOW.get().into()
    }
}

/// One request: the key's position, if the limit has keys. Says whether it passes.
type Decide<'a> = Box<dyn Fn(usize) -> bool + Sync + 'a>;

fn limiter(algorithm: Algorithm, limit: NonZeroU32, keys: usize) -> Arc<Limiter> {
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

fn now() -> Moment {
    Moment::from_nanos(NOW.get())
}

fn ours(algorithm: Algorithm, limit: NonZeroU32) -> Decide<'static> {
    let set = LimitSet::new([(limiter(algorithm, limit, 0), Mode::Enforce)]);
    Box::new(move |_| set.decide(now(), |_| Some(Charge::ONE)).is_admitted())
}

fn ours_keyed(algorithm: Algorithm, keys: &[String]) -> Decide<'_> {
    let set = LimitSet::new([(limiter(algorithm, RATE, keys.len()), Mode::Enforce)]);
    let maker = KeyMaker::new([1, 2]);
    Box::new(move |key| {
        let charge = Charge::of(maker.key([keys[key].as_bytes()]));
        set.decide(now(), |_| Some(charge)).is_admitted()
    })
}

fn ours_both(keys: &[String]) -> Decide<'_> {
    let limiters = [0, keys.len()].map(|keys| (limiter(Algorithm::TokenBucket, RATE, keys), Mode::Enforce));
    let set = LimitSet::new(limiters);
    let maker = KeyMaker::new([1, 2]);
    Box::new(move |key| {
        let charge = Charge::of(maker.key([keys[key].as_bytes()]));
        let decision = set.decide(now(), |limit| Some(if limit == 0 { Charge::ONE } else { charge }));
        decision.is_admitted()
    })
}

fn governor(limit: NonZeroU32) -> Decide<'static> {
    let limiter = RateLimiter::direct_with_clock(Quota::per_second(limit), ThreadClock);
    Box::new(move |_| limiter.check().is_ok())
}

fn governor_keyed(keys: &[String]) -> Decide<'_> {
    let limiter = RateLimiter::dashmap_with_clock(Quota::per_second(RATE), ThreadClock);
    Box::new(move |key| limiter.check_key(&keys[key]).is_ok())
}

fn governor_both(keys: &[String]) -> Decide<'_> {
    let (total, keyed) = (governor(RATE), governor_keyed(keys));
    Box::new(move |key| total(key) && keyed(key))
}

/// Nanoseconds per decision on one of so many threads. The clock goes on by two microseconds each time, so that two threads make
/// as many requests as the limit admits; the keys come in an order that no cache foresees.
/// Time goes on from round to round: in a clock that was set back, both would refuse everything.
fn measure(decide: &Decide<'_>, keys: usize, threads: usize, round: usize) -> f64 {
    let start = Barrier::new(threads);
    let run = |thread: usize| {
        let begin = ((round + 1) * DECISIONS * 2 * STEP) as u64;
        let mut key = thread * 7_919 + round;
        start.wait();
        let began = processor_time();
        for decision in 0..DECISIONS {
            NOW.set(begin + (decision * STEP) as u64);
            key = (key * 48_271 + 1) % keys;
            black_box(decide(black_box(key)));
        }
        (processor_time() - began).as_nanos() as f64 / DECISIONS as f64
    };
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || run(thread)))
            .collect();
        let times = threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread that ends"));
        times.fold(0.0, f64::max)
    })
}

/// What this thread has used of a processor: others on the machine are not in it.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock that every Linux has");
    time.into()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn compare(name: &str, keys: usize, ours: &Decide<'_>, peer: Option<&Decide<'_>>) {
    for decide in [Some(ours), peer].into_iter().flatten() {
        NOW.set(0);
        for key in 0..keys {
            decide(key);
        }
    }
    for (before, threads) in [(0, 1), (ROUNDS, 2)] {
        let rounds: Vec<(f64, Option<f64>)> = (0..ROUNDS)
            .map(|round| {
                let own = measure(ours, keys, threads, before + round);
                (own, peer.map(|peer| measure(peer, keys, threads, before + round)))
            })
            .collect();
        let own = median(rounds.iter().map(|(own, _)| *own).collect());
        print!("{name:<34} {threads:>7} {own:>9.1}");
        if peer.is_some() {
            let peers = rounds.iter().filter_map(|(_, peer)| *peer);
            let ratios = rounds
                .iter()
                .filter_map(|(own, peer)| peer.map(|peer| own / peer));
            print!(
                " {:>9.1} {:>7.2}",
                median(peers.collect()),
                median(ratios.collect())
            );
        }
        println!();
    }
}

/// The most that passes in any window of a second, with a request every 100 us and a pause before, in percent over the limit.
fn over_admission(decide: &Decide<'_>, limit: u32) -> f64 {
    const SECOND: u64 = 1_000_000_000;
    let mut passed = VecDeque::new();
    let mut most = 0;
    for request in 0..100_000_u64 {
        let at = 10 * SECOND + request * 100_000;
        NOW.set(at);
        if decide(0) {
            passed.push_back(at);
        }
        while passed.front().is_some_and(|first| first + SECOND <= at) {
            passed.pop_front();
        }
        most = most.max(passed.len());
    }
    (most as f64 / f64::from(limit) - 1.0) * 100.0
}

fn main() {
    let many: Vec<String> = (0..MANY_KEYS).map(|key| format!("caller-{key:08}")).collect();
    let one = &many[..1];
    println!("nanoseconds per decision         threads     ours  governor   ratio");
    compare(
        "token bucket, no key",
        1,
        &ours(Algorithm::TokenBucket, RATE),
        Some(&governor(RATE)),
    );
    compare(
        "token bucket, refusing",
        1,
        &ours(Algorithm::TokenBucket, NonZeroU32::MIN),
        Some(&governor(NonZeroU32::MIN)),
    );
    let bucket = Algorithm::TokenBucket;
    compare(
        "token bucket, 1 key",
        1,
        &ours_keyed(bucket, one),
        Some(&governor_keyed(one)),
    );
    compare(
        "token bucket, 100k keys",
        MANY_KEYS,
        &ours_keyed(bucket, &many),
        Some(&governor_keyed(&many)),
    );
    compare(
        "two limits, 100k keys (1)",
        MANY_KEYS,
        &ours_both(&many),
        Some(&governor_both(&many)),
    );
    compare(
        "fixed window, 100k keys",
        MANY_KEYS,
        &ours_keyed(Algorithm::FixedWindow, &many),
        None,
    );
    compare(
        "sliding window, 1 key",
        1,
        &ours_keyed(Algorithm::SlidingWindow, one),
        None,
    );
    compare(
        "sliding window, 100k keys",
        MANY_KEYS,
        &ours_keyed(Algorithm::SlidingWindow, &many),
        None,
    );
    println!("(1) ours charges both or none; governor charges the first even if the second refuses");

    let limit = NonZeroU32::new(100).expect("not zero");
    println!("\nmost in any second, over a limit of 100 per second");
    for (name, decide) in [
        ("ours, sliding window", ours(Algorithm::SlidingWindow, limit)),
        ("ours, token bucket of 100", ours(Algorithm::TokenBucket, limit)),
        ("governor, burst of 100", governor(limit)),
    ] {
        println!("{name:<34} {:>7.0} %", over_admission(&decide, limit.get()));
    }
    let keyed = limiter(bucket, RATE, MANY_KEYS);
    let set = LimitSet::new([(Arc::clone(&keyed), Mode::Enforce)]);
    let maker = KeyMaker::new([1, 2]);
    for key in &many {
        let charge = Charge::of(maker.key([key.as_bytes()]));
        black_box(set.decide(now(), |_| Some(charge)).is_admitted());
    }
    let occupancy = keyed.occupancy();
    println!(
        "\ntable bytes a key, 100k keys: {:.1}",
        occupancy.table_bytes as f64 / occupancy.keys as f64
    );
}
