//! Runs passes: takes what is due from the queue, a bounded number at once.
//!
//! One task owns the queue; triggers reach it by a channel that never blocks a watch. Until this replica leads, triggers
//! are thrown away: on taking over, every object is made due once, because a pass asks for no reason. A pass that panics
//! or does not end in time is a failed pass of its object and nobody else's.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::Resource;
use tokio::{
    sync::mpsc,
    task::{self, JoinError, JoinSet},
    time,
};
use trellis_chassis::drain;

use crate::{
    error::chain,
    key::Key,
    leader::Authority,
    metrics::{self, Metrics},
    microservice::{self, Context},
    observed::Observed,
    queue::{Cause, Done, Next, Queue},
};

/// Longest pass.
const PASS: Duration = Duration::from_secs(60);
/// How long passes under way may take when the process ends.
const LEAVE: Duration = Duration::from_secs(10);
/// Time between looks at how long passes take.
const SHOW: Duration = Duration::from_secs(5);

/// An object that is due, and why.
pub type Trigger = (Key, Cause);

/// Runs passes.
pub struct Workers {
    context: Arc<Context>,
    triggers: mpsc::UnboundedReceiver<Trigger>,
    most: usize,
    metrics: Metrics,
    queue: Queue,
    passes: JoinSet<(Done, metrics::Result)>,
    running: HashMap<task::Id, (Key, Instant)>,
}

impl Workers {
    /// At most `most` passes at once.
    pub fn new(
        context: Arc<Context>,
        triggers: mpsc::UnboundedReceiver<Trigger>,
        most: usize,
        metrics: Metrics,
    ) -> Self {
        metrics.reconciles.bound(most);
        Self {
            context,
            triggers,
            most,
            metrics,
            queue: Queue::default(),
            passes: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    /// Works until the process is told to stop, then lets passes under way end.
    pub async fn run(mut self, authority: Authority, drain: drain::Watch) {
        if !self.stand_by(authority, &drain).await {
            return;
        }
        for observed in self.context.caches.microservices.all() {
            self.add((Key::of(&*observed), first_cause(&observed)));
        }
        let mut show = time::interval(SHOW);
        loop {
            let wake = self.start_due();
            self.show();
            tokio::select! {
                trigger = self.triggers.recv() => match trigger {
                    Some(trigger) => self.add(trigger),
                    None => break,
                },
                Some(ended) = self.passes.join_next_with_id() => self.end(ended),
                () = sleep_until(wake) => {}
                _ = show.tick() => {}
                () = drain.signaled() => break,
            }
        }
        let leave = async { while self.passes.join_next().await.is_some() {} };
        if time::timeout(LEAVE, leave).await.is_err() {
            tracing::warn!("passes under way did not end in time");
        }
    }

    /// Waits for leadership; false if the process ends before.
    async fn stand_by(&mut self, authority: Authority, drain: &drain::Watch) -> bool {
        let mut acquired = std::pin::pin!(authority.acquired());
        loop {
            tokio::select! {
                acquired = &mut acquired => return acquired,
                trigger = self.triggers.recv() => if trigger.is_none() { return false },
                () = drain.signaled() => return false,
            }
        }
    }

    fn add(&mut self, (key, cause): Trigger) {
        if self.queue.add(key, cause, Instant::now()) {
            self.metrics.queue.added();
        }
    }

    /// Starts what is due, as far as there is room; answers when more will be due.
    fn start_due(&mut self) -> Option<Instant> {
        while self.running.len() < self.most {
            let now = Instant::now();
            match self.queue.next(now) {
                Next::Run { key, waited } => {
                    self.metrics.queue.taken(waited.as_secs_f64());
                    let pass = pass(Arc::clone(&self.context), key.clone());
                    let id = self.passes.spawn(pass).id();
                    self.running.insert(id, (key, now));
                }
                Next::At(wake) => return Some(wake),
                Next::Idle => return None,
            }
        }
        None
    }

    fn end(&mut self, ended: Result<(task::Id, (Done, metrics::Result)), JoinError>) {
        let (id, (done, result)) = ended.unwrap_or_else(|error| {
            tracing::error!(%error, "a pass panicked");
            (error.id(), (Done::Failed, metrics::Result::Panic))
        });
        let Some((key, started)) = self.running.remove(&id) else {
            return;
        };
        let now = Instant::now();
        let seconds = now.saturating_duration_since(started).as_secs_f64();
        self.metrics.reconciles.ended(result, seconds);
        self.metrics.queue.finished(seconds);
        if done == Done::Failed {
            self.metrics.queue.retried();
        }
        self.queue.done(&key, done, now, rand::random());
    }

    fn show(&self) {
        let now = Instant::now();
        let ages = || {
            self.running
                .values()
                .map(|(_, started)| now.saturating_duration_since(*started).as_secs_f64())
        };
        let longest = ages().fold(0.0, f64::max);
        self.metrics.reconciles.active(self.running.len());
        self.metrics.queue.show(&self.queue, ages().sum(), longest);
    }
}

/// A pass, with its end told in the log and in the terms of the queue.
async fn pass(context: Arc<Context>, key: Key) -> (Done, metrics::Result) {
    match time::timeout(PASS, microservice::reconcile(&context, &key)).await {
        Ok(Ok(done)) => {
            tracing::debug!(microservice = %key, ?done, "reconciled");
            (done, metrics::Result::Success)
        }
        Ok(Err(microservice::Error::Deposed)) => (Done::Failed, metrics::Result::Error),
        Ok(Err(error)) => {
            tracing::warn!(microservice = %key, error = chain(&error), "failed to reconcile; trying again");
            (Done::Failed, metrics::Result::Error)
        }
        Err(_) => {
            tracing::warn!(microservice = %key, "failed to reconcile in time; trying again");
            (Done::Failed, metrics::Result::Timeout)
        }
    }
}

/// Why an object is due when a replica takes over: what was changed meanwhile goes before what is at rest.
fn first_cause(observed: &Observed) -> Cause {
    let seen = observed
        .readable()
        .and_then(|cr| cr.status.as_ref()?.observed_generation);
    if seen == observed.meta().generation {
        Cause::Resync
    } else {
        Cause::User
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
