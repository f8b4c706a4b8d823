//! A one-way signal "leave", and the operating system's way of giving it.
//!
//! [`channel`] makes the signal; every long-lived task holds a [`Watch`] and ends its loop when it is
//! signaled. The [`Trigger`] is owned by whoever decides that the process ends. A dropped trigger counts as
//! a signal: nobody could give it any more, so tasks that wait for it would wait for ever.

use std::future;

use tokio::sync::watch;

/// The giving end.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// The receiving end; clones see the same signal.
#[derive(Clone, Debug)]
pub struct Watch(watch::Receiver<bool>);

/// A fresh signal that has not been given.
pub fn channel() -> (Trigger, Watch) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Watch(receiver))
}

impl Trigger {
    /// Gives the signal; more than once changes nothing.
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}

impl Watch {
    /// Waits for the signal; returns at once if it was given before.
    pub async fn signaled(&self) {
        // An error means that the trigger is gone, which counts as a signal.
        let _ = self.0.clone().wait_for(|draining| *draining).await;
    }

    /// Whether the signal was given.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// Waits for SIGTERM (Kubernetes) or SIGINT (a terminal).
///
/// If a handler cannot be installed, that signal keeps its default action, which ends the process.
pub async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};

    let wait = async |kind: SignalKind| match signal(kind) {
        Ok(mut stream) => {
            stream.recv().await;
        }
        Err(error) => {
            tracing::error!(%error, signal = ?kind, "failed to install a signal handler");
            future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => tracing::info!(signal = "SIGTERM", "termination asked for"),
        () = wait(SignalKind::interrupt()) => tracing::info!(signal = "SIGINT", "termination asked for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_watch_sees_the_signal_also_when_it_comes_late() {
        let (trigger, watch) = channel();
        assert!(!watch.is_draining());
        trigger.start();
        watch.clone().signaled().await;
        watch.signaled().await;
        assert!(watch.is_draining());
    }

    #[tokio::test]
    async fn a_dropped_trigger_counts_as_a_signal() {
        let (trigger, watch) = channel();
        drop(trigger);
        watch.signaled().await;
        assert!(watch.is_draining());
    }
}
