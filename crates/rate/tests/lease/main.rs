//! Leases in a world where everything goes wrong, and the same wrong again from the same seed.

#![allow(clippy::unwrap_used, missing_docs)]

mod accidents;
mod chance;
mod judge;
mod mutations;
mod script;
mod world;

use chance::Faults;
use world::World;

/// Worlds that each kind of fault is tried in.
const SEEDS: u64 = 5_000;

#[test]
fn no_window_ever_sees_more_than_the_limit() {
    for seed in 0..SEEDS {
        let world = World::run(seed, Faults::all());
        let (over, limit) = (judge::over(&world), world.limit);
        assert!(
            over == 0,
            "seed {seed}: {over} over {limit}, {:?}",
            world.algorithm
        );
    }
}

#[test]
fn without_faults_at_least_95_percent_of_the_limit_is_usable_whatever_the_skew() {
    for seed in 0..30 {
        let world = World::run(seed, Faults::none());
        let usable = judge::usable_percent(&world);
        assert!(usable >= 95.0, "seed {seed}: {usable:.1} % of the limit was used");
        assert_eq!(judge::over(&world), 0);
    }
}

#[test]
fn the_same_seed_is_the_same_world() {
    assert_eq!(
        World::run(7, Faults::all()).passes,
        World::run(7, Faults::all()).passes
    );
}

#[test]
fn faults_leave_something_to_judge() {
    let passes: usize = (0..100)
        .map(|seed| World::run(seed, Faults::all()).passes.len())
        .sum();
    assert!(passes > 100 * 100, "{passes}");
}
