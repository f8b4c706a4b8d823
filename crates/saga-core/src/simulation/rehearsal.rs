//! Rehearsals of a saga before it is deployed: every schedule of a fault, and of two, with participants made up by its schemas.
//!
//! | fault | at a call |
//! |---|---|
//! | refusal | the participant refuses it for good (422) |
//! | timeout | the first try is acted on, and its answer is lost |
//! | outage | no try is answered for an hour; the first is acted on |
//! | crash | the engine dies between the participant's answer and its own record, and goes on by its log |
//! | duplicate | the request arrives twice at once, and once more at the very end |
//!
//! What a rehearsal shows is what the core would do with participants that keep to the contract (or have no barrier, if asked). It shows
//! neither bugs of real participants nor what a compensation does to data.

mod stage;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use strum::IntoEnumIterator as _;

use self::stage::Stage;
use super::{
    participants::Participants,
    sample::{self, Variant},
};
use crate::{
    event::{Cause, Op},
    plan::Plan,
    program::Program,
    run::Status,
};

/// When rehearsals begin.
const BEGIN: u64 = 1_767_225_600_000;
/// How long an outage is, in milliseconds.
const OUTAGE: u64 = 3_600_000;
/// Most events of a rehearsal.
const MOST_EVENTS: usize = 50_000;
/// The run's number among participants.
const RUN: u64 = 1;

/// What goes wrong at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, strum::AsRefStr, strum::EnumIter)]
#[strum(serialize_all = "lowercase")]
pub enum Fault {
    /// It is refused for good.
    Refusal,
    /// Its first answer is lost.
    Timeout,
    /// It is not answered for an hour.
    Outage,
    /// The engine dies behind it.
    Crash,
    /// It arrives twice, and once more at the end.
    Duplicate,
}

/// A fault and the call that it is at: all elements of a step's action, or of its compensation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// What.
    pub fault: Fault,
    /// Place of the step.
    pub step: usize,
    /// Action or compensation.
    pub op: Op,
}

/// What goes wrong in a rehearsal: nothing, one thing or two.
pub type Schedule = Vec<At>;

/// What came of a rehearsal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsal {
    /// What went wrong.
    pub schedule: Schedule,
    /// How it ended.
    pub status: Status,
    /// Why it turned round or got stuck.
    pub causes: Vec<Cause>,
    /// What may not be: effects that remain, calls out of order, expressions without a value.
    pub problems: Vec<String>,
    /// What happened.
    pub timeline: Vec<Line>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Milliseconds since the beginning.
    pub at: u64,
    /// What it is about: a step, or the run.
    pub about: String,
    /// What happened.
    pub what: String,
}

/// How participants behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// They have a barrier, as the contract says.
    Barrier,
    /// They do whatever they are asked, as often as they are.
    Naive,
}

/// Every schedule with one fault. So that there is something to compensate, one at a compensation has a refusal of the pivot, or of the
/// last step, beside it.
#[must_use]
pub fn single(program: &Program) -> Vec<Schedule> {
    let last = program.pivot.or_else(|| program.order.sequence().last().copied());
    let trigger = last.map(|step| At {
        fault: Fault::Refusal,
        step,
        op: Op::Action,
    });
    places(program)
        .into_iter()
        .map(|at| match at.op {
            Op::Action => vec![at],
            Op::Compensation => [Some(at), trigger].into_iter().flatten().collect(),
        })
        .collect()
}

/// Every fault at every call.
fn places(program: &Program) -> Vec<At> {
    let mut places = Vec::new();
    for fault in Fault::iter() {
        for (step, of) in program.definition.steps.iter().enumerate() {
            let ops = [
                Some(Op::Action),
                of.compensation.is_some().then_some(Op::Compensation),
            ];
            for op in ops.into_iter().flatten() {
                places.push(At { fault, step, op });
            }
        }
    }
    places
}

/// Schedules with two faults at two calls, at most so many: all, or an even choice of them.
#[must_use]
pub fn pairs(program: &Program, most: usize) -> Vec<Schedule> {
    let places = places(program);
    let mut all = Vec::new();
    for (i, one) in places.iter().enumerate() {
        for other in &places[i + 1..] {
            if (one.step, one.op) != (other.step, other.op) {
                all.push(vec![*one, *other]);
            }
        }
    }
    if all.len() <= most {
        return all;
    }
    let count = all.len();
    all.into_iter()
        .enumerate()
        .filter(|(i, _)| i * most / count != (i + 1) * most / count)
        .map(|(_, schedule)| schedule)
        .collect()
}

/// Rehearses a saga once.
#[must_use]
pub fn rehearse(program: &Program, schedule: &[At], variant: Variant, behaviour: Behaviour) -> Rehearsal {
    let Some(plan) = Plan::new(&program.definition) else {
        // A program has an order.
        return Rehearsal {
            schedule: schedule.to_vec(),
            status: Status::Stuck,
            causes: Vec::new(),
            problems: vec!["the definition has no order".to_owned()],
            timeline: Vec::new(),
        };
    };
    let input = program
        .definition
        .input
        .as_ref()
        .map(|input| sample::value(&input.schema, variant));
    let mut stage = Stage {
        program,
        plan: &plan,
        schedule,
        variant,
        behaviour,
        now: BEGIN,
        input,
        participants: Participants::default(),
        naive: BTreeMap::new(),
        log: Vec::new(),
        records: Vec::new(),
        pending: VecDeque::new(),
        timers: BTreeSet::new(),
        copies: Vec::new(),
        hit: BTreeSet::new(),
        timeline: Vec::new(),
        problems: Vec::new(),
    };
    let state = stage.play();
    stage.judge(state)
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            Op::Action => "action",
            Op::Compensation => "compensation",
        };
        write!(f, "{} at {op} of step {}", self.fault.as_ref(), self.step)
    }
}
