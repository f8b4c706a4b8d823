//! When requests come to find out what a limit lets through, and what came of them.
//!
//! ```text
//! silence, longer than a window: buckets fill   overload in bunches, for two windows: from any moment over any edge
//! |<----------------- 1.2 w ------------------->|<------------------------- 2.17 w ----------------------------->|
//! ```
//!
//! This again and again. It is no multiple of a window, so that the overload begins at another place between the edges each time: the worst
//! for a fixed window is one that begins late in it.

use std::time::Duration;

/// Part of a window without a request.
const SILENCE: f64 = 1.2;
/// From one silence to the next, in windows.
const CYCLE: f64 = 3.37;
/// Bunches in a window.
const BUNCHES: f64 = 40.0;

/// Times of requests, in order: the limit and as much again at once, then half of the limit in each bunch.
pub fn overload(limit: u32, window: Duration, cycles: u32) -> Vec<Duration> {
    let bunches = ((CYCLE - SILENCE) * BUNCHES) as u32;
    let mut due = Vec::new();
    for cycle in 0..cycles {
        for bunch in 0..bunches {
            let at = f64::from(cycle) * CYCLE + SILENCE + f64::from(bunch) / BUNCHES;
            let requests = if bunch == 0 { 2 * limit } else { limit / 2 };
            due.extend((0..requests).map(|_| window.mul_f64(at)));
        }
    }
    due
}

/// The most of these moments, which are in order, that are in any window. It is enough to look at those that end with one.
pub fn most_in_any_window(moments: &[Duration], window: Duration) -> usize {
    let mut first = 0;
    let within = moments.iter().enumerate().map(|(place, moment)| {
        while moments[first] + window <= *moment {
            first += 1;
        }
        place + 1 - first
    });
    within.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(1);

    #[test]
    fn a_window_ends_before_the_moment_that_is_its_length_away() {
        let moments = [0, 400, 900, 1000, 1399, 2500].map(Duration::from_millis);
        assert_eq!(most_in_any_window(&moments, WINDOW), 4);
        assert_eq!(most_in_any_window(&moments[..3], WINDOW), 3);
        assert_eq!(most_in_any_window(&[], WINDOW), 0);
    }

    #[test]
    fn a_limit_that_begins_anew_at_edges_is_caught_at_twice_its_limit() {
        let (mut at_edge, mut used) = (0, 0);
        let passed: Vec<Duration> = overload(100, WINDOW, 20)
            .into_iter()
            .filter(|due| {
                if due.as_secs() != at_edge {
                    (at_edge, used) = (due.as_secs(), 0);
                }
                used += 1;
                used <= 100
            })
            .collect();
        assert_eq!(most_in_any_window(&passed, WINDOW), 200);
    }
}
