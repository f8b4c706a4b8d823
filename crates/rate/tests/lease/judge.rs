//! Knows nothing but when requests passed, on the one true clock.

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

/// How much of the limit passed per window, after the first quarter of the time.
pub fn usable_percent(world: &World) -> f64 {
    let from = world.end / 4;
    let windows = (world.end - from) as f64 / world.window as f64;
    let passed = world.passes.iter().filter(|pass| **pass >= from).count();
    100.0 * passed as f64 / windows / f64::from(world.limit)
}
