//! Knows nothing but when requests passed, on the one true clock.

use trellis_rate::Algorithm;

use crate::world::World;

/// The most passes in any window. It is enough to look at those that begin with a pass.
pub fn most_in_any_window(passes: &[u64], window: u64) -> u32 {
    let mut sorted = passes.to_vec();
    sorted.sort_unstable();
    let mut most = 0;
    let mut last = 0;
    for (first, from) in sorted.iter().enumerate() {
        while last < sorted.len() && sorted[last] < from + window {
            last += 1;
        }
        most = most.max(last - first);
    }
    u32::try_from(most).unwrap()
}

/// By how many passes a world was over what its limit allows.
pub fn over(world: &World) -> u32 {
    match world.algorithm {
        Algorithm::TokenBucket => over_bucket(&world.passes, world.limit, world.window),
        _ => most_in_any_window(&world.passes, world.window).saturating_sub(world.limit),
    }
}

/// How often one bucket for all, full at first, would have been empty.
fn over_bucket(passes: &[u64], limit: u32, window: u64) -> u32 {
    let mut sorted = passes.to_vec();
    sorted.sort_unstable();
    let increment = window as f64 / f64::from(limit);
    let mut full_at = 0.0_f64;
    let mut over = 0;
    for pass in sorted {
        full_at = full_at.max(pass as f64) + increment;
        // Rounding of a token's time to nanoseconds, and of the sum here.
        over += u32::from(full_at - pass as f64 > window as f64 * 1.000_001);
    }
    over
}

/// How much of the limit passed per window, after the first quarter of the time.
pub fn usable_percent(world: &World) -> f64 {
    let from = world.end / 4;
    let windows = (world.end - from) as f64 / world.window as f64;
    let passed = world.passes.iter().filter(|pass| **pass >= from).count();
    100.0 * passed as f64 / windows / f64::from(world.limit)
}
