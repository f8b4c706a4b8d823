//! Which runs there is room for, and which of them wait for their turn.
//!
//! ```text
//! start --Room::enter--> Place (held by the run as long as it is in memory) --dropped--> there is room again
//! ```
//!
//! A replica looks after so many runs, of one saga after half of them, and keeps so many bytes; what is started beyond that is refused.
//! Runs that are taken over come in any case: they have begun. A place that was for a run of a saga with runs that wait tells
//! [`crate::turns`].

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{definitions::Compiled, shard::StartError};

/// Bytes of what the runs of a replica were started with and what was answered: a quarter of the memory that its pod has.
const MOST_BYTES: usize = 128 * 1024 * 1024;
/// The same of one run.
const MOST_BYTES_OF_RUN: usize = 4 * 1024 * 1024;

/// How much a replica looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Runs.
    pub runs: usize,
    /// Runs of one saga: the rest is for the others.
    pub runs_of_saga: usize,
    /// Bytes of what runs were started with and what their participants have answered.
    pub bytes: usize,
    /// The same of one run.
    pub bytes_of_run: usize,
}

/// What is in memory, and how much may be.
#[derive(Debug)]
pub(crate) struct Room {
    limits: Limits,
    runs: AtomicUsize,
    bytes: AtomicUsize,
    /// By namespace and name. Only those that have runs.
    sagas: Mutex<HashMap<(String, String), OfSaga>>,
    /// Somebody's turn may have come.
    pub(crate) turns: Notify,
}

#[derive(Debug, Default)]
struct OfSaga {
    runs: usize,
    /// What those are made of that wait for their turn, by the number of their revision, and how many they are.
    waiting: HashMap<i32, (Arc<Compiled>, usize)>,
}

/// The place of a run in memory.
#[derive(Debug)]
pub(crate) struct Place {
    room: Arc<Room>,
    compiled: Arc<Compiled>,
    bytes: usize,
    is_waiting: bool,
}

impl From<usize> for Limits {
    fn from(runs: usize) -> Self {
        Self {
            runs,
            runs_of_saga: runs.div_ceil(2),
            bytes: MOST_BYTES,
            bytes_of_run: MOST_BYTES_OF_RUN,
        }
    }
}

impl Room {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            runs: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            sagas: Mutex::default(),
            turns: Notify::new(),
        }
    }

    /// How many runs there are.
    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    /// Whether there may be no more.
    pub(crate) fn is_full(&self) -> bool {
        self.runs() >= self.limits.runs || self.bytes.load(Ordering::Relaxed) >= self.limits.bytes
    }

    /// How many bytes one run may keep.
    pub(crate) const fn most_of_run(&self) -> usize {
        self.limits.bytes_of_run
    }

    /// A place for a run that is to begin with so many bytes.
    pub(crate) fn enter(
        self: &Arc<Self>,
        compiled: &Arc<Compiled>,
        bytes: usize,
    ) -> Result<Place, StartError> {
        let Limits {
            runs,
            runs_of_saga,
            bytes: most_bytes,
            bytes_of_run,
        } = self.limits;
        if bytes > bytes_of_run {
            return Err(StartError::TooLarge(bytes_of_run));
        }
        let kept = self.bytes.load(Ordering::Relaxed);
        if kept + bytes > most_bytes {
            return Err(StartError::NoMemory(kept));
        }
        // Shards ask beside each other, so that there may be a run too many, one for each of them.
        if self.runs() >= runs {
            return Err(StartError::Full(self.runs()));
        }
        let of_saga = self.sagas.lock().get(&name(compiled)).map_or(0, |saga| saga.runs);
        if of_saga >= runs_of_saga {
            return Err(StartError::FullOfSaga(of_saga));
        }
        Ok(self.place(compiled, bytes))
    }

    /// A place for a run that has begun elsewhere.
    pub(crate) fn place(self: &Arc<Self>, compiled: &Arc<Compiled>, bytes: usize) -> Place {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sagas.lock().entry(name(compiled)).or_default().runs += 1;
        Place {
            room: Arc::clone(self),
            compiled: Arc::clone(compiled),
            bytes,
            is_waiting: false,
        }
    }

    /// What those runs are made of that wait for their turn: of each saga the newest revision of them.
    pub(crate) fn waiting(&self) -> Vec<Arc<Compiled>> {
        let sagas = self.sagas.lock();
        let newest = |saga: &OfSaga| {
            saga.waiting
                .values()
                .map(|(of, _)| of)
                .max_by_key(|of| of.id)
                .cloned()
        };
        sagas.values().filter_map(newest).collect()
    }
}

impl Place {
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn keep(&mut self, bytes: usize) {
        // One after the other, so that it is never less than nothing.
        self.room.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }

    /// Whether the run waits for its turn.
    pub(crate) fn wait(&mut self, is_waiting: bool) {
        if is_waiting == self.is_waiting {
            return;
        }
        self.is_waiting = is_waiting;
        let revision = self.compiled.id.0;
        let mut sagas = self.room.sagas.lock();
        let Some(saga) = sagas.get_mut(&name(&self.compiled)) else {
            return;
        };
        let (_, waiting) = saga
            .waiting
            .entry(revision)
            .or_insert_with(|| (Arc::clone(&self.compiled), 0));
        if is_waiting {
            *waiting += 1;
            // It may have been taken over, and nobody looked before.
            self.room.turns.notify_one();
        } else {
            *waiting -= 1;
            if *waiting == 0 {
                saga.waiting.remove(&revision);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.keep(0);
        self.wait(false);
        self.room.runs.fetch_sub(1, Ordering::Relaxed);
        let name = name(&self.compiled);
        let mut sagas = self.room.sagas.lock();
        let Some(saga) = sagas.get_mut(&name) else { return };
        saga.runs -= 1;
        if !saga.waiting.is_empty() {
            self.room.turns.notify_one();
        }
        if saga.runs == 0 {
            sagas.remove(&name);
        }
    }
}

fn name(compiled: &Compiled) -> (String, String) {
    (compiled.namespace().to_owned(), compiled.saga().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use trellis_saga_core::{Definition, canonical};

    use super::*;
    use crate::store::{Revision, RevisionId};

    fn saga(name: &str) -> Arc<Compiled> {
        let definition: Definition = serde_json::from_value(json!({
            "apiVersion": "saga.trellis.dev/v1", "namespace": "shop", "name": name, "onStuck": {"event": true},
            "retention": {"completed": 1, "compensated": 1},
            "steps": [{"name": "a", "after": [], "kind": "Pivot", "action": {
                "call": {"microservice": "a", "method": "POST", "path": "/"}, "timeout": 1000,
                "retry": {"initial": 1, "factor": 1.0, "maxInterval": 1, "jitter": 0, "retryOn": []},
            }}],
        }))
        .unwrap();
        let revision = Revision {
            namespace: "shop".to_owned(),
            saga: name.to_owned(),
            revision: "r".to_owned(),
            definition: canonical::text(&definition),
            is_current: true,
        };
        Arc::new(Compiled::new(RevisionId(1), &revision).unwrap())
    }

    fn room(runs: usize) -> Arc<Room> {
        let limits = Limits {
            bytes: 100,
            bytes_of_run: 60,
            ..Limits::from(runs)
        };
        Arc::new(Room::new(limits))
    }

    #[test]
    fn one_saga_leaves_half_of_the_room_to_others() {
        let room = room(4);
        let (greedy, other) = (saga("greedy"), saga("other"));
        let mut places: Vec<_> = (0..2).map(|_| room.enter(&greedy, 0).unwrap()).collect();
        assert!(matches!(room.enter(&greedy, 0), Err(StartError::FullOfSaga(2))));
        places.extend((0..2).map(|_| room.enter(&other, 0).unwrap()));
        assert!(matches!(room.enter(&other, 0), Err(StartError::Full(4))));
        assert!(room.is_full());
        drop(places);
        assert_eq!((room.runs(), room.sagas.lock().len()), (0, 0));
        // What is taken over has begun.
        let taken: Vec<_> = (0..5).map(|_| room.place(&greedy, 0)).collect();
        assert_eq!(room.runs(), 5);
        drop(taken);
    }

    #[test]
    fn what_runs_keep_is_bounded_for_each_and_for_all() {
        let (room, saga) = (room(10), saga("a"));
        assert!(matches!(room.enter(&saga, 61), Err(StartError::TooLarge(60))));
        let mut first = room.enter(&saga, 30).unwrap();
        first.keep(50);
        assert!(matches!(room.enter(&saga, 51), Err(StartError::NoMemory(50))));
        let second = room.enter(&saga, 50).unwrap();
        assert!(room.is_full());
        drop((first, second));
        assert_eq!(room.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn whoever_waits_or_leaves_others_that_wait_tells() {
        let (room, saga) = (room(10), saga("a"));
        let first = room.enter(&saga, 0).unwrap();
        let mut second = room.enter(&saga, 0).unwrap();
        assert!(room.waiting().is_empty());
        second.wait(true);
        assert_eq!(room.waiting().len(), 1);
        room.turns.notified().await;
        drop(first);
        room.turns.notified().await;
        second.wait(false);
        assert!(room.waiting().is_empty());
    }
}
