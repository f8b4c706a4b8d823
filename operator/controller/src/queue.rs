//! Which Microservice is reconciled next, and when: a pure state machine; callers pass `now`.
//!
//! ```text
//!            add                    next(now)                done
//! trigger ---------> waiting (due) ----------> ready (rank) -------> running ---+
//!                       ^                                                       |
//!                       +---- after a failure: not before its backoff ends -----+
//! ```
//!
//! Why not kube's `Controller`: its error backoff is cancelled by any watch event, its order is that of a hash set and
//! its concurrency is unbounded by default. Here:
//! - One object is never run twice at once; what comes meanwhile is one more run afterwards.
//! - A failing object waits out its backoff whatever its children do; a change by its user resets the backoff.
//! - A user's change goes before a child's event, and both before periodic visits. All of them age, so nothing is
//!   starved: an event lags at most [`EVENT_PENALTY`] behind, a visit at most [`RESYNC_PENALTY`].
//! - What a user changed elsewhere, a route that a gateway serves, is looked at at once, and then every [`DEBOUNCE`] while
//!   more comes. A child's events come in bursts that the pass itself has set off, so they are waited for instead.
//! - A budget per object bounds hot loops that nobody foresaw: 100 runs at once, ten a second from then on. The shape
//!   and the 100 are of Crossplane v2's circuit breaker; its one run a second held up a gateway whose routes a user
//!   changed twice a second, and five a limit that was changed four times, each change being a pass and one more for
//!   the proxies' answers.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::{backoff, key::Key};

/// Children change in bursts; their events wait this long for each other. It does not extend.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How far an event falls behind users' changes under load, at most.
const EVENT_PENALTY: Duration = Duration::from_secs(1);
/// How far a periodic visit falls behind other work under load, at most.
const RESYNC_PENALTY: Duration = Duration::from_secs(10);
/// Runs of one object that may follow each other without a pause.
const BUDGET: f64 = 100.0;
/// Runs a second that come back into the budget.
const BUDGET_PER_SECOND: f64 = 10.0;

/// Why an object is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its user changed it.
    User,
    /// A user changed something that it reads.
    Neighbour,
    /// Something that it reads or owns changed.
    Event,
    /// A periodic or first visit.
    Resync,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Well; the next visit is due after this long at the latest.
    Visit(Duration),
    /// With an error: again after the backoff.
    Failed,
    /// The object does not exist any more.
    Gone,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Reconcile this object; call [`Queue::done`] afterwards.
    Run {
        /// The object.
        key: Key,
        /// How long it was due before.
        waited: Duration,
    },
    /// Ask again at this time, or after the next `add` or `done`.
    At(Instant),
    /// Ask again after the next `add` or `done`.
    Idle,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<Key, Entry>,
    waiting: BTreeSet<(Instant, Key)>,
    ready: BTreeSet<(Instant, Key)>,
    throttled: u64,
    failing: usize,
}

#[derive(Debug)]
struct Entry {
    due: Option<Due>,
    running: bool,
    /// Begin of the last run.
    began: Option<Instant>,
    failures: u32,
    /// End of the backoff.
    gate: Option<Instant>,
    budget: f64,
    budget_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    cause: Cause,
}

impl Due {
    fn rank(self) -> Instant {
        match self.cause {
            Cause::User => self.at,
            Cause::Neighbour | Cause::Event => self.at + EVENT_PENALTY,
            Cause::Resync => self.at + RESYNC_PENALTY,
        }
    }
}

impl Queue {
    /// Makes an object due; answers whether it was not before.
    pub fn add(&mut self, key: Key, cause: Cause, now: Instant) -> bool {
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry::new(now));
        let at = match cause {
            Cause::User => {
                self.failing -= usize::from(entry.recover());
                now
            }
            Cause::Neighbour => entry.not_before(entry.began.map_or(now, |began| now.max(began + DEBOUNCE))),
            Cause::Event => entry.not_before(now + DEBOUNCE),
            Cause::Resync => entry.not_before(now),
        };
        self.schedule(key, Due { at, cause })
    }

    /// The object to run now, if any. The caller bounds how many run at once.
    pub fn next(&mut self, now: Instant) -> Next {
        while self.waiting.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.waiting.pop_first() else {
                break;
            };
            if let Some(due) = self.entries.get(&key).and_then(|entry| entry.due) {
                self.ready.insert((due.rank(), key));
            }
        }
        while let Some((_, key)) = self.ready.pop_first() {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let Some(due) = entry.due else { continue };
            if let Some(at) = entry.spend(now) {
                self.throttled += 1;
                entry.due = Some(Due { at, ..due });
                self.waiting.insert((at, key));
                continue;
            }
            entry.due = None;
            entry.running = true;
            entry.began = Some(now);
            let waited = now.saturating_duration_since(due.at);
            return Next::Run { key, waited };
        }
        self.waiting.first().map_or(Next::Idle, |(at, _)| Next::At(*at))
    }

    /// Takes in how a run ended. `chance` in 0..1 jitters the backoff.
    pub fn done(&mut self, key: &Key, done: Done, now: Instant, chance: f64) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.running = false;
        let next = match done {
            Done::Gone => {
                self.failing -= usize::from(entry.recover());
                None
            }
            Done::Visit(after) => {
                self.failing -= usize::from(entry.recover());
                Some(Due {
                    at: now + after,
                    cause: Cause::Resync,
                })
            }
            Done::Failed => {
                self.failing += usize::from(entry.failures == 0);
                entry.failures = entry.failures.saturating_add(1);
                let at = now + backoff::delay(entry.failures, chance);
                entry.gate = Some(at);
                Some(Due {
                    at,
                    cause: Cause::Event,
                })
            }
        };
        let meanwhile = entry.due.take().map(|due| match due.cause {
            Cause::User => due,
            Cause::Neighbour | Cause::Event | Cause::Resync => Due {
                at: entry.not_before(due.at),
                ..due
            },
        });
        if next.is_none() && meanwhile.is_none() {
            self.entries.remove(key);
        }
        for due in [next, meanwhile].into_iter().flatten() {
            self.schedule(key.clone(), due);
        }
    }

    /// Objects that are due and wait for a worker.
    pub fn depth(&self) -> usize {
        self.ready.len()
    }

    /// Objects whose last run failed, and that wait for another.
    pub const fn failing(&self) -> usize {
        self.failing
    }

    /// Runs put off because an object had spent its budget.
    pub const fn throttled(&self) -> u64 {
        self.throttled
    }

    fn schedule(&mut self, key: Key, due: Due) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else {
            return false;
        };
        let before = entry.due;
        let merged = before.map_or(due, |before| Due {
            at: before.at.min(due.at),
            cause: before.cause.min(due.cause),
        });
        entry.due = Some(merged);
        if entry.running {
            return before.is_none();
        }
        let Some(before) = before else {
            self.waiting.insert((merged.at, key));
            return true;
        };
        if self.waiting.remove(&(before.at, key.clone())) {
            self.waiting.insert((merged.at, key));
        } else if self.ready.remove(&(before.rank(), key.clone())) {
            self.ready.insert((merged.rank(), key));
        }
        false
    }
}

impl Entry {
    const fn new(now: Instant) -> Self {
        Self {
            due: None,
            running: false,
            began: None,
            failures: 0,
            gate: None,
            budget: BUDGET,
            budget_at: now,
        }
    }

    /// Forgets failures; answers whether there were any.
    fn recover(&mut self) -> bool {
        self.gate = None;
        std::mem::take(&mut self.failures) > 0
    }

    fn not_before(&self, at: Instant) -> Instant {
        self.gate.map_or(at, |gate| gate.max(at))
    }

    /// Takes one run from the budget, or answers when there will be one.
    fn spend(&mut self, now: Instant) -> Option<Instant> {
        let earned = now.saturating_duration_since(self.budget_at).as_secs_f64() * BUDGET_PER_SECOND;
        self.budget = (self.budget + earned).min(BUDGET);
        self.budget_at = now;
        if self.budget < 1.0 {
            let missing = Duration::from_secs_f64((1.0 - self.budget) / BUDGET_PER_SECOND);
            return Some(now + missing.max(Duration::from_millis(1)));
        }
        self.budget -= 1.0;
        None
    }
}

#[cfg(test)]
mod tests;
