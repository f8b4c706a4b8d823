//! How long a message waits that was not taken.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(60);

/// The pause after so many deliveries that failed: a tenth of a second, then twice as long each time, a minute at most. `random`, from
/// 0 to 1, takes off up to a half of it, so that what failed together is not tried together (equal jitter: "Exponential Backoff And
/// Jitter", AWS, 2015).
#[must_use]
pub fn pause(failed: u32, random: f64) -> Duration {
    let doubled = 2_u32
        .checked_pow(failed.saturating_sub(1))
        .and_then(|factor| FIRST.checked_mul(factor));
    let whole = doubled.unwrap_or(LAST).min(LAST);
    whole.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_whatever_the_number() {
        let whole = |failed| pause(failed, 0.0);
        for (failed, expected) in [
            (0, 100),
            (1, 100),
            (2, 200),
            (4, 800),
            (10, 51_200),
            (11, 60_000),
            (u32::MAX, 60_000),
        ] {
            assert_eq!(whole(failed), Duration::from_millis(expected), "{failed}");
            assert_eq!(pause(failed, 1.0), whole(failed) / 2);
        }
    }
}
