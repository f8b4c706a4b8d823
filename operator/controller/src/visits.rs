//! Visits by the leader: objects that are due are looked at one after the other.
//!
//! For kinds whose passes are short and few: one task, the queue of [`crate::queue`], no workers. Until this replica leads, changes are
//! thrown away: on taking over, everything is due.

use std::time::Instant;

use tokio::{sync::mpsc, time};
use trellis_chassis::drain;

use crate::{
    key::Key,
    leader::Authority,
    queue::{Cause, Done, Next, Queue},
    workers::Trigger,
};

/// What is visited.
pub trait Visit: Send + Sync {
    /// Everything that there is.
    fn all(&self) -> Vec<Key>;

    /// Looks at one, and says when again.
    fn visit(&self, key: &Key) -> impl Future<Output = Done> + Send;
}

/// Visits until the process is told to stop. `changes` says what is due.
pub async fn run(
    what: impl Visit,
    authority: &Authority,
    mut changes: mpsc::UnboundedReceiver<Trigger>,
    drain: drain::Watch,
) {
    if !stand_by(authority, &mut changes, &drain).await {
        return;
    }
    let mut queue = Queue::default();
    for key in what.all() {
        queue.add(key, Cause::Resync, Instant::now());
    }
    loop {
        // Also while there is always something to do: what a user changed goes before, and an end is an end.
        while let Ok((key, cause)) = changes.try_recv() {
            queue.add(key, cause, Instant::now());
        }
        if drain.is_draining() {
            return;
        }
        let wake = match queue.next(Instant::now()) {
            Next::Run { key, .. } => {
                let done = what.visit(&key).await;
                queue.done(&key, done, Instant::now(), rand::random());
                continue;
            }
            Next::At(wake) => Some(wake),
            Next::Idle => None,
        };
        tokio::select! {
            change = changes.recv() => match change {
                Some((key, cause)) => {
                    queue.add(key, cause, Instant::now());
                }
                None => return,
            },
            () = sleep_until(wake) => {}
            () = drain.signaled() => return,
        }
    }
}

/// Waits for leadership; false if the process ends before.
async fn stand_by(
    authority: &Authority,
    changes: &mut mpsc::UnboundedReceiver<Trigger>,
    drain: &drain::Watch,
) -> bool {
    let mut acquired = std::pin::pin!(authority.acquired());
    loop {
        tokio::select! {
            acquired = &mut acquired => return acquired,
            change = changes.recv() => if change.is_none() { return false },
            () = drain.signaled() => return false,
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
