//! Time of one decision.
//!
//! Subjects take turns in every round; ratios are taken within one. Time is the thread's own on a processor; with two threads, it
//! is that of a decision on the slower one.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use trellis_rate::Algorithm;

use super::limiters::{
    Decide, governor, governor_both, governor_keyed, keys, ours, ours_both, ours_keyed, set_now,
};
use crate::{report::Table, statistics::Spread};

const DECISIONS: usize = 200_000;
/// Nanoseconds between decisions of a thread.
const STEP: usize = 2_000;
/// Keys of the cases with many.
pub const MANY_KEYS: usize = 100_000;
/// A million a second: what two threads ask for by their clocks.
const RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(999_999);

/// A case.
#[derive(Debug, Serialize)]
pub struct Row {
    case: &'static str,
    keys: usize,
    threads: usize,
    /// Nanoseconds.
    trellis: Spread,
    /// Nanoseconds, where it has the same semantics.
    governor: Option<Spread>,
    /// Ours by its.
    ratio: Option<Spread>,
}

struct Case<'a> {
    name: &'static str,
    keys: usize,
    ours: Decide<'a>,
    peer: Option<Decide<'a>>,
}

/// Measures.
pub fn measure(rounds: u32) -> Result<Vec<Row>> {
    let many = keys(MANY_KEYS);
    let one = &many[..1];
    let mut rows = Vec::new();
    for case in cases(one, &many) {
        eprintln!("decisions: {}, keys: {}", case.name, case.keys);
        rows.extend(case.measure(rounds as usize)?);
    }
    Ok(rows)
}

fn cases<'a>(one: &'a [String], many: &'a [String]) -> Vec<Case<'a>> {
    let plain = |name, algorithm, limit, peer| Case {
        name,
        keys: 0,
        ours: ours(algorithm, limit),
        peer,
    };
    let mut cases = vec![
        plain("token bucket", Algorithm::TokenBucket, RATE, Some(governor(RATE))),
        plain(
            "token bucket, refusing",
            Algorithm::TokenBucket,
            NonZeroU32::MIN,
            Some(governor(NonZeroU32::MIN)),
        ),
        plain("fixed window", Algorithm::FixedWindow, RATE, None),
        plain("sliding window", Algorithm::SlidingWindow, RATE, None),
    ];
    for (name, algorithm) in [
        ("token bucket", Algorithm::TokenBucket),
        ("fixed window", Algorithm::FixedWindow),
        ("sliding window", Algorithm::SlidingWindow),
    ] {
        for keys in [one, many] {
            let has_peer = algorithm == Algorithm::TokenBucket;
            cases.push(Case {
                name,
                keys: keys.len(),
                ours: ours_keyed(algorithm, RATE, keys),
                peer: has_peer.then(|| governor_keyed(RATE, keys)),
            });
        }
    }
    cases.push(Case {
        name: "two buckets, one keyed (1)",
        keys: many.len(),
        ours: ours_both(RATE, many),
        peer: Some(governor_both(RATE, many)),
    });
    cases
}

impl Case<'_> {
    fn measure(&self, rounds: usize) -> Result<[Row; 2]> {
        for decide in [Some(&self.ours), self.peer.as_ref()].into_iter().flatten() {
            set_now(0);
            for key in 0..self.keys {
                decide(key);
            }
        }
        let with = |before: usize, threads: usize| {
            let (mut own, mut its, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
            for round in before..before + rounds {
                let nanos = time(&self.ours, self.keys, threads, round)?;
                own.push(nanos);
                if let Some(peer) = &self.peer {
                    let peers = time(peer, self.keys, threads, round)?;
                    its.push(peers);
                    ratio.push(nanos / peers);
                }
            }
            Ok(Row {
                case: self.name,
                keys: self.keys,
                threads,
                trellis: Spread::of(own).context("no round was measured")?,
                governor: Spread::of(its),
                ratio: Spread::of(ratio),
            })
        };
        let one: Result<Row> = with(0, 1);
        Ok([one?, with(rounds, 2)?])
    }
}

/// Nanoseconds per decision on one of so many threads. The clock goes on by two microseconds each time, so that two threads make
/// as many requests as the limit admits; the keys come in an order that no cache foresees.
/// Time goes on from round to round: in a clock that was set back, both would refuse everything.
fn time(decide: &Decide<'_>, keys: usize, threads: usize, round: usize) -> Result<f64> {
    let start = Barrier::new(threads);
    let run = |thread: usize| {
        let begin = ((round + 1) * DECISIONS * 2 * STEP) as u64;
        let mut key = thread * 7_919 + round;
        start.wait();
        let began = processor_time()?;
        for decision in 0..DECISIONS {
            set_now(begin + (decision * STEP) as u64);
            key = (key * 48_271 + 1) % keys.max(1);
            black_box(decide(black_box(key)));
        }
        Ok((processor_time()? - began).as_nanos() as f64 / DECISIONS as f64)
    };
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || run(thread)))
            .collect();
        threads.into_iter().try_fold(0.0, |slowest, thread| {
            let nanos: Result<f64> = thread.join().expect("a thread that ends");
            Ok(f64::max(slowest, nanos?))
        })
    })
}

/// What this thread has used of a processor: others on the machine are not in it.
fn processor_time() -> Result<Duration> {
    let time =
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("failed to read the thread's clock")?;
    Ok(time.into())
}

/// A table.
pub fn text(rows: &[Row]) -> String {
    let mut table = Table::new([
        "ns a decision",
        "keys",
        "threads",
        "trellis",
        "governor",
        "ours / its",
    ]);
    let shown = |figure: Option<Spread>| figure.map_or_else(String::new, |it| it.to_string());
    for row in rows {
        table.row([
            row.case.to_owned(),
            row.keys.to_string(),
            row.threads.to_string(),
            row.trellis.to_string(),
            shown(row.governor),
            shown(row.ratio),
        ]);
    }
    let note = "Each figure: median (least-most) of the rounds; 0 keys: a limit without. Ours also returns what is left and when to \
                retry, and can be updated in use; governor answers yes or no.\n\
                (1) ours charges both or none; governor charges the first even if the second refuses.";
    format!("{}\n\n{note}", table.text())
}
