//! How the proxy leaves.
//!
//! ```text
//! drain verb (preStop)   not ready; HTTP/1.1 answers say close, HTTP/2 gets GOAWAY; everything is still served
//! SIGTERM                the same, if it was not yet; then, once nothing is in flight or it is clear that there will
//!                        always be something, inbound listeners close, inbound connections end after what they are
//!                        doing, and only then the outbound side: what an app still does for a request needs it
//! second SIGTERM         exit at once
//! ```
//!
//! A pod's sidecar gets SIGTERM after its app has ended, so then there is nothing in flight any more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use trellis_chassis::{
    drain::{self, Trigger, Watch},
    readiness::Readiness,
};

/// Without a drain before it, SIGTERM comes as a surprise to callers: this long they are told on every answer before
/// connections are closed under their hands.
pub(crate) const SURPRISE: Duration = Duration::from_secs(1);
/// Longest wait for a moment without a request before listeners close. Callers that do not know by then never will, and
/// what is in flight is not disturbed by closing.
pub(crate) const QUIET: Duration = Duration::from_secs(3);
/// Longest wait for requests in flight after SIGTERM; a pod has 30 s in all by default.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Counts requests in flight; clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    requests: AtomicUsize,
    none: Notify,
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct Running(InFlight);

/// The proxy's way out.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    readiness: Readiness,
    trigger: Trigger,
    draining: Watch,
    /// Requests from outside the pod.
    pub(crate) inbound: InFlight,
}

impl InFlight {
    /// Counts a request in.
    pub(crate) fn begin(&self) -> Running {
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        Running(self.clone())
    }

    /// Requests in flight now.
    pub(crate) fn count(&self) -> usize {
        self.0.requests.load(Ordering::SeqCst)
    }

    /// Waits until none is in flight.
    pub(crate) async fn none(&self) {
        loop {
            let notified = self.0.none.notified();
            if self.count() == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let InFlight(count) = &self.0;
        if count.requests.fetch_sub(1, Ordering::SeqCst) == 1 {
            count.none.notify_waiters();
        }
    }
}

impl Lifecycle {
    /// A proxy that has just started.
    pub(crate) fn new(readiness: Readiness) -> Self {
        let (trigger, draining) = drain::channel();
        Self {
            readiness,
            trigger,
            draining,
            inbound: InFlight::default(),
        }
    }

    /// The signal that the proxy drains.
    pub(crate) fn draining(&self) -> Watch {
        self.draining.clone()
    }

    /// Begins to drain; again changes nothing. True if it had begun before.
    pub(crate) fn drain(&self) -> bool {
        let before = self.draining.is_draining();
        self.readiness.drain();
        self.trigger.start();
        before
    }

    /// Drains, and returns after `hold`, or later as soon as no request from outside is in flight, at the latest after
    /// `longest`.
    pub(crate) async fn drain_and_hold(&self, hold: Duration, longest: Duration) {
        let start = Instant::now();
        if !self.drain() {
            tracing::info!(in_flight = self.inbound.count(), "draining");
        }
        tokio::time::sleep_until(start + hold).await;
        // Both outcomes are fine: what is in flight is still served.
        let _ = tokio::time::timeout_at(start + longest, self.inbound.none()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifecycle() -> Lifecycle {
        Lifecycle::new(Readiness::new())
    }

    #[tokio::test(start_paused = true)]
    async fn draining_holds_and_then_waits_for_what_is_in_flight() {
        let lifecycle = lifecycle();
        let running = lifecycle.inbound.begin();
        let start = Instant::now();
        let end_of_request = async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            drop(running);
        };
        tokio::join!(
            lifecycle.drain_and_hold(Duration::from_secs(5), Duration::from_secs(15)),
            end_of_request
        );
        assert_eq!(start.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn draining_never_holds_longer_than_asked() {
        let lifecycle = lifecycle();
        let _running = lifecycle.inbound.begin();
        let start = Instant::now();
        lifecycle
            .drain_and_hold(Duration::from_secs(5), Duration::from_secs(15))
            .await;
        assert_eq!(start.elapsed().as_secs(), 15);
        assert!(lifecycle.drain(), "the second time it had begun before");
    }
}
