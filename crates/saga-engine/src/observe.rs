//! What others hear of the engine: for metrics, events and traces.

use std::{sync::Arc, time::Duration};

use trellis_saga_core::event::{CallId, Cause, End, Outcome};

use crate::{definitions::Compiled, id::RunId};

/// Hears what happens. Nothing of it may wait: it is told between decisions.
pub trait Observe: Send + Sync + 'static {
    /// A run has begun.
    fn started(&self, _of: &Compiled, _run: RunId) {}

    /// A call waited so long until it could be made, since so many others were on their way.
    fn waited(&self, _of: &Compiled, _participant: &str, _time: Duration) {}

    /// A try of a call, or a question after its work, has ended.
    fn answered(&self, _of: &Compiled, _run: RunId, _call: CallId, _outcome: &Outcome) {}

    /// A run cannot go on by itself, since all these; told again by whoever takes it over.
    fn stuck(&self, _of: &Compiled, _run: RunId, _causes: &[Cause]) {}

    /// A run has ended.
    fn ended(&self, _of: &Compiled, _run: RunId, _end: End) {}

    /// Records were stored, or not, after so long.
    fn appended(&self, _records: usize, _took: Duration, _is_stored: bool) {}
}

/// Nobody hears.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Observe for Nobody {}

/// Several hear.
pub struct All(pub Vec<Arc<dyn Observe>>);

// What is not passed on here nobody would hear.
#[deny(clippy::missing_trait_methods)]
impl Observe for All {
    fn started(&self, of: &Compiled, run: RunId) {
        self.0.iter().for_each(|one| one.started(of, run));
    }

    fn waited(&self, of: &Compiled, participant: &str, time: Duration) {
        self.0.iter().for_each(|one| one.waited(of, participant, time));
    }

    fn answered(&self, of: &Compiled, run: RunId, call: CallId, outcome: &Outcome) {
        self.0.iter().for_each(|one| one.answered(of, run, call, outcome));
    }

    fn stuck(&self, of: &Compiled, run: RunId, causes: &[Cause]) {
        self.0.iter().for_each(|one| one.stuck(of, run, causes));
    }

    fn ended(&self, of: &Compiled, run: RunId, end: End) {
        self.0.iter().for_each(|one| one.ended(of, run, end));
    }

    fn appended(&self, records: usize, took: Duration, is_stored: bool) {
        self.0
            .iter()
            .for_each(|one| one.appended(records, took, is_stored));
    }
}
