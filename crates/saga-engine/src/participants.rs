//! How calls are made, behind a trait.

use std::{future::Future, sync::Arc};

use trellis_saga_core::{
    event::{CallId, Outcome},
    program::Request,
};

use crate::{definitions::Compiled, id::RunId};

/// A try of a call, or a question after its work.
#[derive(Debug, Clone)]
pub struct Try {
    /// Of which run.
    pub run: RunId,
    /// What the run is made of.
    pub compiled: Arc<Compiled>,
    /// Which call.
    pub call: CallId,
    /// Number of the try.
    pub attempt: u32,
    /// Of the run's owner.
    pub epoch: u64,
    /// Milliseconds that it may take.
    pub timeout: u64,
    /// What it says.
    pub request: Asked,
}

/// What a participant is asked.
#[derive(Debug, Clone)]
pub enum Asked {
    /// To do it.
    Do(Request),
    /// How far it is: where it said that it would tell.
    Poll(Arc<str>),
}

/// Those who do what runs are made of.
pub trait Participants: Send + Sync + 'static {
    /// Tries a call. Whoever asks gives up after the time of the try. The detail of a failure begins with the status, if there is one, and
    /// then has a colon or a space: of sagas with secrets nothing else of it is kept.
    fn call(&self, a_try: Try) -> impl Future<Output = Outcome> + Send;
}

impl Try {
    /// The key by which a participant knows the request again: the same for each try of the call, another for any other call.
    #[must_use]
    pub fn key(&self) -> String {
        let CallId {
            item,
            op,
            incarnation,
            ..
        } = self.call;
        format!("{}/{}/{item}/{}/{incarnation}", self.run, self.step(), op_of(op))
    }

    /// Name of the step.
    #[must_use]
    pub fn step(&self) -> &str {
        let steps = &self.compiled.program.definition.steps;
        steps.get(self.call.step as usize).map_or("", |step| &step.name)
    }

    /// Where it goes: what the definition says of the call.
    #[must_use]
    pub fn definition(&self) -> Option<&trellis_saga_core::definition::Call> {
        let step = self
            .compiled
            .program
            .definition
            .steps
            .get(self.call.step as usize)?;
        match self.call.op {
            trellis_saga_core::event::Op::Action => Some(&step.action),
            trellis_saga_core::event::Op::Compensation => step.compensation.as_ref(),
        }
    }
}

/// `action` or `compensation`.
#[must_use]
pub const fn op_of(op: trellis_saga_core::event::Op) -> &'static str {
    match op {
        trellis_saga_core::event::Op::Action => "action",
        trellis_saga_core::event::Op::Compensation => "compensation",
    }
}
