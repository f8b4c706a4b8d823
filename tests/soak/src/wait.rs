//! Conditions with a deadline. A run that waits in vain still has to put things back, so nothing here panics.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for the world to settle: a roll of a few pods on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(180);

/// Asks again until the answer is `Ok`; after [`LONG`] the last error, and what was waited for.
pub(crate) async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let began = Instant::now();
    loop {
        match ask().await {
            Err(error) if began.elapsed() > LONG => {
                return Err(error).with_context(|| format!("waited {LONG:?} for {what}"));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
}
