//! Histories in which everything goes wrong, and what must hold of each; and faults of the engine, each of which is found.
//!
//! `TRELLIS_SEED=7 cargo test -p trellis-saga-core --test simulation one_seed -- --nocapture` plays one history again, and
//! `TRELLIS_SEEDS=1000000` plays that many.

#![allow(clippy::unwrap_used)]

use std::{env, panic, thread};

use strum::IntoEnumIterator as _;
use trellis_saga_core::{
    mutation::{self, Mutation},
    random::Random,
    simulation::{self, Counts, Faults, Violation, World, generate},
};

/// Histories in the test command.
const SEEDS: u64 = 10_000;
/// Histories in which a fault of the engine has to show.
const PATIENCE: u64 = 6_000;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn add(sum: &mut Counts, counts: &Counts) {
    sum.lost += counts.lost;
    sum.twice += counts.twice;
    sum.mishaps += counts.mishaps;
    sum.crashes += counts.crashes;
    sum.torn += counts.torn;
    sum.takeovers += counts.takeovers;
    sum.fenced += counts.fenced;
    sum.jumps += counts.jumps;
    sum.operators += counts.operators;
    sum.records += counts.records;
    sum.starts_again += counts.starts_again;
    for (sum, count) in sum.ends.iter_mut().zip(counts.ends) {
        *sum += count;
    }
}

/// Plays histories on all processors.
fn play(seeds: u64) -> Result<Counts, Violation> {
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let parts: Vec<Result<Counts, Violation>> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut sum = Counts::default();
                    for seed in (thread..seeds).step_by(threads as usize) {
                        add(&mut sum, &simulation::run(seed, Faults::ALL)?);
                    }
                    Ok(sum)
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
            .collect()
    });
    let mut sum = Counts::default();
    for part in parts {
        add(&mut sum, &part?);
    }
    Ok(sum)
}

#[test]
fn whatever_goes_wrong_every_run_ends_as_it_may() {
    let seeds = number("TRELLIS_SEEDS").unwrap_or(SEEDS);
    let sum = play(seeds).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{seeds} histories: {sum:?}");
    let Counts {
        lost,
        twice,
        mishaps,
        crashes,
        torn,
        takeovers,
        fenced,
        jumps,
        operators,
        ends,
        records,
        starts_again,
    } = sum;
    let happened = [
        lost,
        twice,
        mishaps,
        crashes,
        torn,
        takeovers,
        fenced,
        jumps,
        operators,
        records,
        starts_again,
        ends[0],
        ends[1],
        ends[2],
    ];
    assert!(
        happened.iter().all(|count| *count > seeds / 100),
        "something hardly ever happens: {sum:?}"
    );
}

#[test]
fn one_seed() {
    let seed = number("TRELLIS_SEED").unwrap_or_default();
    simulation::run(seed, Faults::ALL).unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn without_faults_every_run_is_completed_or_compensated_by_its_own_timeout() {
    for seed in 0..500 {
        let counts = simulation::run(seed, Faults::NONE).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(counts.ends[2], 0, "seed {seed}: a run is stuck");
        assert!(counts.ends[0] > 0 || counts.ends[1] > 0);
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in 0..50 {
        assert_eq!(
            simulation::run(seed, Faults::ALL),
            simulation::run(seed, Faults::ALL)
        );
    }
}

#[test]
fn a_run_that_does_not_get_on_holds_up_no_other() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let definitions = vec![generate::definition(&mut random, 6)];
        let ends = |poisoned: bool| {
            let mut world = World::new(seed, Faults::NONE, definitions.clone());
            if poisoned {
                world.poison();
            }
            world.play();
            world.ends()
        };
        let (with, without) = (ends(true), ends(false));
        for (run, (status, at)) in without.iter().filter(|(run, _)| **run != 1) {
            let (poisoned_status, poisoned_at) = with[run];
            assert_eq!(*status, poisoned_status, "seed {seed}, run {run}");
            // Delays in the network differ by milliseconds.
            let late = poisoned_at.0.saturating_sub(at.0);
            assert!(late < 1_000, "seed {seed}, run {run}: {late} ms later");
        }
    }
}

#[test]
fn every_fault_of_the_engine_is_found() {
    let mutations: Vec<Mutation> = Mutation::iter().collect();
    assert!(mutations.len() >= 20);
    let mut missed = Vec::new();
    for mutation in mutations {
        let found = (0..PATIENCE).find_map(|seed| {
            let run = || mutation::with(mutation, || simulation::run(seed, Faults::ALL));
            match panic::catch_unwind(run) {
                Ok(Ok(_)) => None,
                Ok(Err(violation)) => Some((seed, violation.what)),
                Err(_) => Some((seed, "it panics".to_owned())),
            }
        });
        match found {
            Some((seed, what)) => println!("{mutation:?}: seed {seed}, {what}"),
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "not found in {PATIENCE} histories: {missed:?}");
}
