//! Waiting for a condition, with a deadline: the only way in which a test waits.

use std::time::Duration;

use tokio::time::{self, Instant};

/// Longer than anything that a test waits for takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
///
/// # Panics
/// After [`DEADLINE`], with `what`.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(
            Instant::now() < deadline,
            "waited {DEADLINE:?} in vain until {what}"
        );
        time::sleep(LOOK_AGAIN).await;
    }
}
