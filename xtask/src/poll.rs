//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Asks until there is an answer or `patience` is over, with a `pause` between two questions.
#[allow(
    clippy::disallowed_methods,
    reason = "this program has no runtime whose threads a sleep could block"
)]
pub fn until<T>(
    patience: Duration,
    pause: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_question_is_asked_even_without_patience() {
        assert_eq!(
            until(Duration::ZERO, Duration::ZERO, || Ok(Some(1))).unwrap(),
            Some(1)
        );
        assert_eq!(
            until(Duration::ZERO, Duration::ZERO, || Ok(None::<i32>)).unwrap(),
            None
        );
        let mut left = 3;
        let third = until(Duration::from_secs(9), Duration::ZERO, || {
            left -= 1;
            Ok((left == 0).then_some(left))
        });
        assert_eq!(third.unwrap(), Some(0));
    }
}
