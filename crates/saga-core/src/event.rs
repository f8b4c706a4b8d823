//! What happens to a run, and what is to be done about it.
//!
//! ```text
//! event --append--> log --decide--> state', effects --shell--> calls, timers --> events
//! ```
//!
//! An event is appended before its effects are done, so whatever is under way follows from the log.

use std::{fmt, sync::Arc};

use crate::definition::RetryCondition;

/// A moment, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

/// A value as JSON. The core passes it on and never looks into it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Payload(pub Arc<str>);

/// Action or compensation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// What is done.
    Action,
    /// What takes it back.
    Compensation,
}

/// A call. With the run's id it is the key by which a participant knows a request that it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId {
    /// Place of the step.
    pub step: u32,
    /// Place of the element; 0 if the step is done once.
    pub item: u32,
    /// Action or compensation.
    pub op: Op,
    /// How often an operator had the step done anew.
    pub incarnation: u32,
}

/// What happens to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It begins. The first event of every log.
    Started {
        /// What it was started with.
        input: Option<Payload>,
        /// Anything: pauses are random by it, and the same at each replay.
        seed: u64,
    },
    /// It is to begin, but has to wait for its turn. The first event of its log, instead of [`Event::Started`].
    Queued {
        /// What it was started with.
        input: Option<Payload>,
        /// Anything, as above.
        seed: u64,
    },
    /// Its turn has come: it begins.
    Admitted,
    /// It was found out whether and how often a step is done.
    Decided {
        /// Place of the step.
        step: u32,
        /// How often an operator had it done anew.
        incarnation: u32,
        /// What was found.
        decision: Decision,
    },
    /// A try of a call has ended.
    Answered {
        /// The call.
        call: CallId,
        /// Number of the try, from 1.
        attempt: u32,
        /// How it ended.
        outcome: Outcome,
    },
    /// The time of a timer has come.
    TimerFired(Timer),
    /// Somebody intervenes.
    Operator {
        /// What is to be done.
        verb: Verb,
        /// Who.
        by: Arc<str>,
        /// Why.
        reason: Arc<str>,
    },
}

/// Whether and how often a step is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Its condition does not hold.
    Skip,
    /// Once.
    Once,
    /// For so many elements.
    Items(u32),
    /// That cannot be said: an expression has no value.
    Failed(Arc<str>),
}

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Done(Option<Payload>),
    /// The participant works on it (202 with `Location`).
    Pending {
        /// Where to ask how far it is.
        location: Arc<str>,
        /// Milliseconds to wait before.
        after: Option<u64>,
    },
    /// Not, and it never will.
    Failed(Arc<str>),
    /// Not, and another try may do better.
    Retry {
        /// What it was.
        condition: RetryCondition,
        /// Milliseconds that the participant asks to be left alone.
        after: Option<u64>,
        /// What it said.
        detail: Arc<str>,
    },
}

/// What waits for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The run's own timeout.
    Deadline,
    /// The pause before a try of a call.
    Try {
        /// The call.
        call: CallId,
        /// Number of the try.
        attempt: u32,
    },
}

/// What an operator wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Try now what is stuck or pauses.
    Retry,
    /// Do a step after the pivot, and those after it, anew.
    RetryFrom {
        /// Place of the step.
        step: u32,
    },
    /// Take a call that is stuck or pauses for done.
    Skip {
        /// The call.
        call: CallId,
        /// What the action would have answered.
        output: Option<Payload>,
    },
    /// End the run as it is.
    ForceComplete,
    /// Take back what was done.
    Cancel,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Find out whether and how often a step is done: [`Event::Decided`].
    Decide {
        /// Place of the step.
        step: u32,
        /// How often an operator had it done anew.
        incarnation: u32,
    },
    /// Try a call: [`Event::Answered`].
    Call {
        /// The call.
        call: CallId,
        /// Number of the try, from 1.
        attempt: u32,
        /// When the try is over without an answer.
        until: Time,
        /// Where to ask how far the participant is, instead of asking it to begin.
        poll: Option<Arc<str>>,
    },
    /// Say when a time has come: [`Event::TimerFired`].
    Wait {
        /// What waits.
        timer: Timer,
        /// The time.
        until: Time,
    },
    /// Something of the run cannot go on by itself: tell somebody. Other calls may still be on their way.
    Stuck,
    /// The run has ended: tell who waits for it.
    Ended(End),
}

/// How a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct End {
    /// With all steps done, or none.
    pub is_completed: bool,
    /// Whether an operator ended it, whatever was done.
    pub is_forced: bool,
}

/// Something that made a run turn round, or get stuck. The first is the root of the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cause {
    /// When.
    pub at: Time,
    /// What.
    pub what: What,
    /// Which call, if it was one.
    pub call: Option<CallId>,
    /// Tries that were made of it, since an operator last had it retried.
    pub attempts: u32,
    /// What the participant, or the expression, said; for a cancellation, who and why.
    pub detail: Arc<str>,
}

/// What made a run turn round, or get stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::AsRefStr)]
pub enum What {
    /// An action failed for good.
    ActionFailed,
    /// An action was tried as often, or as long, as it may be.
    RetriesExhausted,
    /// Nobody knows whether the pivot was done.
    PivotUnknown,
    /// A compensation failed for good, or was tried as often as it may be.
    CompensationFailed,
    /// An expression of a step has no value, or a list is too long.
    DecisionFailed,
    /// The run took longer than it may.
    TimedOut,
    /// An operator cancelled it.
    Cancelled,
    /// An operator ended it.
    Forced,
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads may be secret.
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}
