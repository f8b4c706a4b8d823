//! Readiness by task guards: a process is ready when everything that it waits for has said so.
//!
//! Whoever starts a task takes its [`Pending`] before the admin port is bound, so there is no moment in
//! which the process looks ready because a task has not registered yet. A task that dies drops its guard
//! without calling [`Pending::ready`] and the process stays "not ready" with the task's name as the reason,
//! instead of looking healthy. (The idea is kubert's `Readiness`.)
//!
//! Readiness says "may receive requests"; liveness says "must be restarted". They are never mixed: a
//! dependency that is away makes a process not ready, never not live.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Shared view of what the process still waits for. Clones see the same state.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Inner>);

/// One task that is not ready yet; consumed by [`Pending::ready`].
#[derive(Debug)]
#[must_use = "a task that is dropped without `ready()` keeps the process not ready for ever"]
pub struct Pending(Gate);

/// A task that may become ready and not ready again.
#[derive(Clone, Debug)]
pub struct Gate {
    readiness: Readiness,
    index: usize,
}

#[derive(Debug, Default)]
struct Inner {
    tasks: Mutex<Vec<Task>>,
    started: AtomicBool,
    draining: AtomicBool,
    live_fault: OnceLock<&'static str>,
}

#[derive(Debug)]
struct Task {
    name: &'static str,
    ready: bool,
}

impl Readiness {
    /// A readiness that waits for nothing: ready until a task registers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a task that becomes ready once.
    pub fn task(&self, name: &'static str) -> Pending {
        Pending(self.gate(name))
    }

    /// Registers a task that may flip both ways; it starts as not ready.
    pub fn gate(&self, name: &'static str) -> Gate {
        let mut tasks = self.tasks();
        tasks.push(Task { name, ready: false });
        Gate {
            readiness: self.clone(),
            index: tasks.len() - 1,
        }
    }

    /// From now on not ready, for good: the process is on its way out but still serves.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// Whether [`Readiness::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Whether the process may receive requests.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.tasks_are_ready()
    }

    /// Whether every task was ready at the same time at least once (for `/startupz`).
    pub fn is_started(&self) -> bool {
        self.0.started.load(Ordering::Acquire) || self.tasks_are_ready()
    }

    /// Names of the tasks that are not ready, in the order in which they registered.
    pub fn pending(&self) -> Vec<&'static str> {
        self.tasks()
            .iter()
            .filter(|task| !task.ready)
            .map(|task| task.name)
            .collect()
    }

    /// Says that only a restart can help; the first reason stays.
    pub fn fail_live(&self, why: &'static str) {
        // A second fault is a consequence of the first more often than not.
        let _ = self.0.live_fault.set(why);
    }

    /// Whether the process is fine as far as it knows.
    pub fn is_live(&self) -> bool {
        self.0.live_fault.get().is_none()
    }

    /// The reason given to [`Readiness::fail_live`].
    pub fn live_fault(&self) -> Option<&'static str> {
        self.0.live_fault.get().copied()
    }

    fn tasks_are_ready(&self) -> bool {
        let ready = self.tasks().iter().all(|task| task.ready);
        if ready {
            self.0.started.store(true, Ordering::Release);
        }
        ready
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Task>> {
        // Nothing is left half-written by a panic under this lock.
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    /// The task is ready and stays so.
    pub fn ready(self) {
        self.0.set(true);
    }
}

impl Gate {
    /// Opens or shuts the gate.
    pub fn set(&self, ready: bool) {
        if let Some(task) = self.readiness.tasks().get_mut(self.index) {
            task.ready = ready;
        }
        // Remembers that the process was started, should the gate shut before anyone asks.
        self.readiness.tasks_are_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_task_said_so() {
        let readiness = Readiness::new();
        let (config, database) = (readiness.task("config"), readiness.task("database"));
        assert_eq!(readiness.pending(), ["config", "database"]);
        config.ready();
        assert!(!readiness.is_ready());
        assert!(!readiness.is_started());
        database.ready();
        assert!(readiness.is_ready());
        assert!(readiness.is_started());
    }

    #[test]
    fn a_task_dropped_without_a_word_stays_pending() {
        let readiness = Readiness::new();
        drop(readiness.task("database"));
        assert_eq!(readiness.pending(), ["database"]);
        assert!(!readiness.is_ready());
    }

    #[test]
    fn a_gate_flips_both_ways_and_started_stays() {
        let readiness = Readiness::new();
        let gate = readiness.gate("config");
        gate.set(true);
        assert!(readiness.is_ready());
        gate.set(false);
        assert!(!readiness.is_ready());
        assert!(readiness.is_started());
    }

    #[test]
    fn draining_is_not_ready_but_live() {
        let readiness = Readiness::new();
        readiness.drain();
        assert!(!readiness.is_ready());
        assert!(readiness.is_live());
    }

    #[test]
    fn the_first_reason_for_a_restart_stays() {
        let readiness = Readiness::new();
        readiness.fail_live("lease lost");
        readiness.fail_live("watch ended");
        assert!(!readiness.is_live());
        assert_eq!(readiness.live_fault(), Some("lease lost"));
    }
}
