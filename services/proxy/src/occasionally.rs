//! Words that are said now and then: what callers can cause as often as they like must not fill the log.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Shortest time between two.
const PAUSE: Duration = Duration::from_secs(10);

/// Says at most one word in [`PAUSE`].
#[derive(Debug, Default)]
pub(crate) struct Occasionally(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    kept_back: u64,
}

impl Occasionally {
    /// Whether it is time for a word, and then how many were kept back since the last.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < PAUSE)
        {
            state.kept_back += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_said_at_once_and_then_one_in_a_while_with_the_number_kept_back() {
        let (start, words) = (Instant::now(), Occasionally::default());
        assert_eq!(words.due(start), Some(0));
        assert_eq!(words.due(start), None);
        assert_eq!(words.due(start + PAUSE / 2), None);
        assert_eq!(words.due(start + PAUSE), Some(2));
        assert_eq!(words.due(start + PAUSE), None);
    }
}
