//! A run: its state, and what becomes of it with each event.
//!
//! ```text
//! Waiting -> Deciding -> Running -> Done        a step on its way forward; Skipped, if its condition does not hold
//!
//! Idle -> InFlight <-> Pausing -> Done          a call
//!                    \-> GivenUp, Stuck
//!
//! Queued --- its turn comes ---> Forward
//! Forward --- a step fails before the pivot, the time is up, somebody cancels ---> Backward
//!    \-> Completed                                                                    \-> Compensated
//! ```
//!
//! **What it guarantees**, of every sequence of events: whatever was tried is compensated, or the run was completed, or it is stuck with a
//! cause. A compensation begins when the outcome of its action is fixed, or when the action is given up, so that the participant's
//! barrier rejects it if it comes late; and when everything that came after its step is compensated. After the pivot nothing is
//! compensated. An event that makes no sense (a late answer, a timer before its time) is refused and changes nothing.
//!
//! **What whoever drives it has to see to**: records have the time of [`State::now`]; the clock is not far ahead of others, for a run
//! waits until the time that its log has reached; each answer is one to the try, or the question, whose number it has.
//!
//! **What it does not know**: payloads, expressions, clocks, requests. It is a function; [`crate::log`] has the form of what is stored.

mod backward;
mod calls;
mod forward;
mod operator;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{
    event::{CallId, Cause, Effect, End, Event, Op, Payload, Time, Timer, What},
    mutation::{Mutation, is_on},
    plan::Plan,
};

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub(crate) now: Time,
    started_at: Time,
    /// When its first step could begin: later than it was started, if it had to wait for its turn.
    begun_at: Time,
    seed: u64,
    input: Option<Payload>,
    phase: Phase,
    steps: Box<[StepState]>,
    causes: Vec<Cause>,
    /// Calls and decisions that are on their way or wait for a time.
    under_way: u32,
    /// Calls and decisions that only an operator can move.
    stuck: u32,
    /// Steps that are neither done nor skipped.
    open: u32,
    /// Steps for which there is something to take back, or may be.
    unclear: u32,
    pivot_tried: bool,
    /// Whether a call or decision is stuck, and somebody was to be told.
    is_stuck: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    /// It waits for its turn; nothing of it has begun.
    Queued,
    Forward,
    Backward,
    Ended(End),
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::AsRefStr)]
pub enum Status {
    /// On its way forward, or waiting for its turn.
    Running,
    /// On its way back.
    Compensating,
    /// It cannot go on by itself.
    Stuck,
    /// All steps are done.
    Completed,
    /// What was done is taken back.
    Compensated,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct StepState {
    progress: Progress,
    /// The elements that were begun, in order. Most steps have one.
    items: SmallVec<[Item; 1]>,
    /// How many elements there are.
    count: u32,
    /// How many are done; on the way back, how many are compensated.
    done: u32,
    incarnation: u32,
    /// Steps in `after` that are not done.
    waits_for: u32,
    /// Dependents that are not clear yet, on the way back.
    blocked_by: u32,
    /// Whether there is nothing left to take back.
    is_clear: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Progress {
    Waiting,
    Deciding,
    /// It cannot be decided.
    Undecided,
    Running,
    Done,
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Item {
    action: Call,
    compensation: Call,
    output: Option<Payload>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Call {
    Idle,
    InFlight(Trying),
    Pausing(Trying, Time),
    Done,
    /// It is not tried any more; maybe it was done.
    GivenUp,
    /// Only an operator can move it.
    Stuck(Trying),
}

/// Tries of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Trying {
    /// Number of the try, or question, that is on its way, or is the next.
    attempt: u32,
    /// Number of the try in its allowance: questions do not count, and an operator's retry begins a new one.
    tried: u32,
    /// Begin of the allowance.
    since: Time,
    /// Where to ask how far the participant is.
    poll: Option<Arc<str>>,
    /// Questions in a row that had no answer.
    unanswered: u32,
    /// Whether it was sent anew because its work was refused or forgotten.
    is_anew: bool,
}

/// An event that makes no sense here. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// The run has ended.
    #[error("failed to take the event: the run has ended")]
    Ended,
    /// It is about something that is over, or was never begun.
    #[error("failed to take the event: it is about nothing that is under way")]
    Stale,
    /// A timer before its time.
    #[error("failed to take the event: the time of the timer has not come")]
    TooEarly,
    /// The run has begun, or there is no such step.
    #[error("failed to take the event: it does not fit the run")]
    Impossible,
    /// The pivot was tried, so nothing is taken back any more.
    #[error("failed to take the event: the pivot was tried, from there the run only goes forward")]
    PastPivot,
    /// Steps before the pivot, and steps under way, are not done anew.
    #[error("failed to take the event: only steps after the pivot that are not under way are done anew")]
    NotAnew,
}

/// A run with its first event.
///
/// # Errors
/// The first event of a run is [`Event::Started`] or [`Event::Queued`].
pub fn start(plan: &Plan, event: &Event, now: Time) -> Result<(State, Vec<Effect>), Refused> {
    let (input, seed, phase) = match event {
        Event::Started { input, seed } => (input, seed, Phase::Forward),
        Event::Queued { input, seed } => (input, seed, Phase::Queued),
        _ => return Err(Refused::Impossible),
    };
    let steps = plan.steps.iter().map(|step| StepState {
        progress: Progress::Waiting,
        items: SmallVec::new(),
        count: 1,
        done: 0,
        incarnation: 0,
        waits_for: u32::try_from(step.after.len()).unwrap_or(u32::MAX),
        blocked_by: 0,
        is_clear: false,
    });
    let mut state = State {
        now,
        started_at: now,
        begun_at: now,
        seed: *seed,
        input: input.clone(),
        phase,
        steps: steps.collect(),
        causes: Vec::new(),
        under_way: 0,
        stuck: 0,
        open: u32::try_from(plan.steps.len()).unwrap_or(u32::MAX),
        unclear: 0,
        pivot_tried: false,
        is_stuck: false,
    };
    let mut effects = Vec::new();
    if phase == Phase::Forward {
        let mut machine = Machine {
            plan,
            state: &mut state,
            effects: &mut effects,
        };
        machine.set_out();
    }
    Ok((state, effects))
}

/// What becomes of a run with an event: `(state, event, now) -> (state', effects)`.
///
/// # Errors
/// The event makes no sense.
pub fn decide(plan: &Plan, state: &State, event: &Event, now: Time) -> Result<(State, Vec<Effect>), Refused> {
    let mut state = state.clone();
    let mut effects = Vec::new();
    state.apply(plan, event, now, &mut effects)?;
    Ok((state, effects))
}

/// A run as its log has it.
///
/// # Errors
/// An event does not fit those before it: the place in the log, and why.
pub fn replay<'a>(
    plan: &Plan,
    events: impl IntoIterator<Item = (Time, &'a Event)>,
) -> Result<Option<State>, (usize, Refused)> {
    let mut state: Option<State> = None;
    let mut effects = Vec::new();
    for (place, (at, event)) in events.into_iter().enumerate() {
        effects.clear();
        match &mut state {
            None => state = Some(start(plan, event, at).map_err(|refused| (place, refused))?.0),
            Some(state) => state
                .apply(plan, event, at, &mut effects)
                .map_err(|refused| (place, refused))?,
        }
    }
    Ok(state)
}

impl State {
    /// As [`decide`], in place; effects are added to those that are there.
    ///
    /// # Errors
    /// The event makes no sense; nothing has changed.
    pub fn apply(
        &mut self,
        plan: &Plan,
        event: &Event,
        now: Time,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        if matches!(self.phase, Phase::Ended(_)) {
            return Err(Refused::Ended);
        }
        if plan.steps.len() != self.steps.len() {
            return Err(Refused::Impossible);
        }
        let before = self.now;
        // A clock that jumps back changes nothing that was decided.
        self.now = self.now.max(now);
        let mut machine = Machine {
            plan,
            state: self,
            effects,
        };
        let taken = machine.take(event);
        if taken.is_err() {
            self.now = before;
        }
        taken
    }

    /// Where it is.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self.phase {
            Phase::Ended(End {
                is_completed: true, ..
            }) => Status::Completed,
            Phase::Ended(_) => Status::Compensated,
            _ if self.under_way == 0 && self.stuck > 0 => Status::Stuck,
            Phase::Queued | Phase::Forward => Status::Running,
            Phase::Backward => Status::Compensating,
        }
    }

    /// How it has ended; None: it has not.
    #[must_use]
    pub const fn end(&self) -> Option<End> {
        match self.phase {
            Phase::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// Whether it waits for its turn.
    #[must_use]
    pub const fn is_queued(&self) -> bool {
        matches!(self.phase, Phase::Queued)
    }

    /// What made it turn round or get stuck, in order.
    #[must_use]
    pub fn causes(&self) -> &[Cause] {
        &self.causes
    }

    /// What it was started with.
    #[must_use]
    pub const fn input(&self) -> Option<&Payload> {
        self.input.as_ref()
    }

    /// Bytes of what it was started with and what its actions have answered.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let items = self.steps.iter().flat_map(|step| &step.items);
        let outputs = items.filter_map(|item| item.output.as_ref());
        outputs.chain(&self.input).map(|payload| payload.0.len()).sum()
    }

    /// The time of its last event, or of an earlier one if the clock jumped back since. Records are to have this time.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// When it is over, if it has not reached its pivot by then; None: never, or it waits for its turn, or has reached it, or turned round.
    #[must_use]
    pub fn deadline(&self, plan: &Plan) -> Option<Time> {
        let is_bound = self.phase == Phase::Forward && !self.pivot_tried;
        let timeout = plan.timeout.filter(|_| is_bound)?;
        Some(Time(self.begun_at.0.saturating_add(timeout)))
    }

    /// When its first step could begin.
    #[must_use]
    pub const fn begun_at(&self) -> Time {
        self.begun_at
    }

    /// When it was started.
    #[must_use]
    pub const fn started_at(&self) -> Time {
        self.started_at
    }

    /// What the actions of a step have answered, element by element; None: it is not done, or was skipped.
    #[must_use]
    pub fn outputs(&self, step: usize) -> Option<impl Iterator<Item = Option<&Payload>>> {
        let step = self.steps.get(step)?;
        let is_done = step.progress == Progress::Done;
        is_done.then(|| step.items.iter().map(|item| item.output.as_ref()))
    }

    /// What the action of an element has answered.
    #[must_use]
    pub fn output(&self, step: usize, item: usize) -> Option<&Payload> {
        self.steps.get(step)?.items.get(item)?.output.as_ref()
    }

    /// How often an operator had a step done anew.
    #[must_use]
    pub fn incarnation(&self, step: usize) -> u32 {
        self.steps.get(step).map_or(0, |step| step.incarnation)
    }

    /// What is under way: effects to be done again by whoever takes the run over. Whether they were done before is not known.
    #[must_use]
    pub fn outstanding(&self, plan: &Plan, now: Time) -> Vec<Effect> {
        let now = self.now.max(now);
        let mut effects = Vec::new();
        // Who was to be told may not have been.
        if let Phase::Ended(end) = self.phase {
            effects.push(Effect::Ended(end));
            return effects;
        }
        if self.is_stuck {
            effects.push(Effect::Stuck);
        }
        if let Some(until) = self.deadline(plan) {
            effects.push(Effect::Wait {
                timer: Timer::Deadline,
                until,
            });
        }
        for (step, state) in self.steps.iter().enumerate() {
            let place = place(step);
            if state.progress == Progress::Deciding {
                effects.push(Effect::Decide {
                    step: place,
                    incarnation: state.incarnation,
                });
            }
            for (item, both) in state.items.iter().enumerate() {
                for (op, call) in [(Op::Action, &both.action), (Op::Compensation, &both.compensation)] {
                    let id = CallId {
                        step: place,
                        item: self::place(item),
                        op,
                        incarnation: state.incarnation,
                    };
                    match call {
                        Call::InFlight(_) if is_on(Mutation::CallsAreForgotten) => {}
                        Call::Pausing(..) if is_on(Mutation::TimersAreForgotten) => {}
                        Call::InFlight(trying) => {
                            effects.extend(calls::effect(plan, id, trying, now));
                        }
                        Call::Pausing(trying, until) => effects.push(Effect::Wait {
                            timer: Timer::Try {
                                call: id,
                                attempt: trying.attempt,
                            },
                            until: *until,
                        }),
                        _ => {}
                    }
                }
            }
        }
        effects
    }

    /// Calls that only an operator can move; of a step that cannot be decided, that of its first element.
    #[must_use]
    pub fn stuck_calls(&self) -> Vec<CallId> {
        let mut stuck = Vec::new();
        for (step, state) in self.steps.iter().enumerate() {
            if state.progress == Progress::Undecided {
                stuck.push(CallId {
                    step: place(step),
                    item: 0,
                    op: Op::Action,
                    incarnation: state.incarnation,
                });
            }
            for (item, both) in state.items.iter().enumerate() {
                for (op, call) in [(Op::Action, &both.action), (Op::Compensation, &both.compensation)] {
                    if matches!(call, Call::Stuck(_)) {
                        stuck.push(CallId {
                            step: place(step),
                            item: place(item),
                            op,
                            incarnation: state.incarnation,
                        });
                    }
                }
            }
        }
        stuck
    }
}

/// Applies one event.
struct Machine<'a> {
    plan: &'a Plan,
    state: &'a mut State,
    effects: &'a mut Vec<Effect>,
}

impl Machine<'_> {
    fn take(&mut self, event: &Event) -> Result<(), Refused> {
        match event {
            Event::Started { .. } | Event::Queued { .. } => return Err(Refused::Impossible),
            Event::Admitted => self.admitted()?,
            Event::Decided {
                step,
                incarnation,
                decision,
            } => self.decided(*step as usize, *incarnation, decision)?,
            Event::Answered {
                call,
                attempt,
                outcome,
            } => self.answered(*call, *attempt, outcome)?,
            Event::TimerFired(Timer::Deadline) => self.time_is_up()?,
            Event::TimerFired(Timer::Try { call, attempt }) => self.pause_is_over(*call, *attempt)?,
            Event::Operator { verb, by, reason } => self.operator(verb, by, reason)?,
        }
        self.tell_if_stuck();
        Ok(())
    }

    fn tell_if_stuck(&mut self) {
        // At once, also if other calls are still tried: that may go on for long.
        let is_stuck = self.state.stuck > 0 && !matches!(self.state.phase, Phase::Ended(_));
        if is_stuck && !self.state.is_stuck {
            self.effects.push(Effect::Stuck);
        }
        self.state.is_stuck = is_stuck;
    }

    fn end(&mut self, is_completed: bool, is_forced: bool) {
        let end = End {
            is_completed,
            is_forced,
        };
        self.state.phase = Phase::Ended(end);
        self.effects.push(Effect::Ended(end));
    }

    fn cause(&mut self, what: What, call: Option<CallId>, attempts: u32, detail: &Arc<str>) {
        self.state.causes.push(Cause {
            at: self.state.now,
            what,
            call,
            attempts,
            detail: Arc::clone(detail),
        });
    }
}

/// A place as events have it. There are fewer steps and elements than that.
fn place(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
