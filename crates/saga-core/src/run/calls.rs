//! Calls: tries, pauses, and when to stop.

use std::sync::Arc;

use super::{Call, Item, Machine, Phase, Refused, Trying};
use crate::{
    definition::{Kind, RetryCondition},
    event::{CallId, Effect, Op, Outcome, Payload, Time, Timer, What},
    mutation::{Mutation, is_on},
    plan::{Plan, Policy},
    random::Random,
};

/// The effect that tries a call; None: there is no such call.
pub(super) fn effect(plan: &Plan, call: CallId, trying: &Trying, now: Time) -> Option<Effect> {
    let policy = policy(plan, call)?;
    Some(Effect::Call {
        call,
        attempt: trying.attempt,
        until: Time(now.0.saturating_add(policy.timeout)),
        poll: trying.poll.clone(),
    })
}

fn policy(plan: &Plan, call: CallId) -> Option<&Policy> {
    let step = plan.steps.get(call.step as usize)?;
    match call.op {
        Op::Action => Some(&step.action),
        Op::Compensation => step.compensation.as_ref(),
    }
}

/// After so many questions in a row without an answer the participant is asked to begin anew.
const MOST_UNANSWERED: u32 = 5;

impl Trying {
    /// The first try of an allowance.
    pub(super) const fn first(attempt: u32, since: Time) -> Self {
        Self {
            attempt,
            tried: 1,
            since,
            poll: None,
            unanswered: 0,
            is_anew: false,
        }
    }
}

impl Item {
    pub(super) const fn new() -> Self {
        Self {
            action: Call::Idle,
            compensation: Call::Idle,
            output: None,
        }
    }

    pub(super) const fn call(&mut self, op: Op) -> &mut Call {
        match op {
            Op::Action => &mut self.action,
            Op::Compensation => &mut self.compensation,
        }
    }
}

impl Machine<'_> {
    /// The call's state, if its step is in this incarnation.
    pub(super) fn call(&mut self, id: CallId) -> Result<&mut Call, Refused> {
        let step = self.state.steps.get_mut(id.step as usize);
        let step = step.ok_or(Refused::Impossible)?;
        if step.incarnation != id.incarnation {
            return Err(Refused::Stale);
        }
        let item = step.items.get_mut(id.item as usize).ok_or(Refused::Stale)?;
        Ok(item.call(id.op))
    }

    /// Begins a call.
    pub(super) fn begin(&mut self, id: CallId) {
        self.state.under_way += 1;
        self.try_now(id, Trying::first(1, self.state.now));
    }

    /// Puts a call that is under way on its way.
    pub(super) fn try_now(&mut self, id: CallId, trying: Trying) {
        self.effects
            .extend(effect(self.plan, id, &trying, self.state.now));
        self.set(id, Call::InFlight(trying));
    }

    fn set(&mut self, id: CallId, state: Call) {
        if let Ok(call) = self.call(id) {
            *call = state;
        }
    }

    pub(super) fn answered(&mut self, id: CallId, attempt: u32, outcome: &Outcome) -> Result<(), Refused> {
        let is_done = matches!(outcome, Outcome::Done(_));
        let trying = match self.call(id)? {
            Call::InFlight(trying) if trying.attempt == attempt => trying.clone(),
            // Done is done, whichever try it was.
            Call::InFlight(trying) | Call::Pausing(trying, _) | Call::Stuck(trying)
                if is_done && attempt <= trying.attempt =>
            {
                trying.clone()
            }
            _ => return Err(Refused::Stale),
        };
        match outcome {
            Outcome::Done(output) => self.done(id, output.clone()),
            // The work was refused, or nobody remembers it any more (404). The barrier knows; where much depends on it, it is asked, once.
            Outcome::Failed(detail)
                if trying.poll.is_some() && !trying.is_anew && !self.can_turn_round(id) =>
            {
                self.again(id, trying, None, None, detail);
            }
            Outcome::Failed(detail) if trying.poll.is_some() && self.is_pivot(id) => {
                self.stick(id, trying, What::PivotUnknown, detail);
            }
            Outcome::Failed(detail) => self.failed(id, &trying, What::ActionFailed, detail),
            Outcome::Pending { location, after } => self.pending(id, trying, location, *after),
            // The work goes on, whatever became of the question.
            Outcome::Retry { after, detail, .. }
                if trying.poll.is_some() && trying.unanswered + 1 < MOST_UNANSWERED =>
            {
                let unanswered = trying.unanswered + 1;
                self.ask_again(id, Trying { unanswered, ..trying }, *after, detail);
            }
            Outcome::Retry {
                condition,
                after,
                detail,
            } => self.again(id, trying, Some(*condition), *after, detail),
        }
        Ok(())
    }

    /// Whether a failure of the call is an answer that the run can live with: it is compensated.
    fn can_turn_round(&self, id: CallId) -> bool {
        id.op == Op::Action && self.plan.steps[id.step as usize].kind == Kind::Compensatable
    }

    pub(super) fn pause_is_over(&mut self, id: CallId, attempt: u32) -> Result<(), Refused> {
        let now = self.state.now;
        let trying = match self.call(id)? {
            Call::Pausing(trying, until) if trying.attempt == attempt => {
                if now < *until && !is_on(Mutation::TimerBeforeItsTime) {
                    return Err(Refused::TooEarly);
                }
                trying.clone()
            }
            Call::InFlight(trying) if is_on(Mutation::TimerTwice) => trying.clone(),
            _ => return Err(Refused::Stale),
        };
        self.try_now(id, trying);
        Ok(())
    }

    /// Takes a call for done. It may be stuck.
    pub(super) fn done(&mut self, id: CallId, output: Option<Payload>) {
        let is_stuck = matches!(self.call(id), Ok(Call::Stuck(_)));
        self.set(id, Call::Done);
        if is_stuck {
            self.state.stuck -= 1;
        } else {
            self.state.under_way -= 1;
        }
        let step = id.step as usize;
        match id.op {
            Op::Action => {
                if let Some(item) = self.state.steps[step].items.get_mut(id.item as usize) {
                    item.output = output;
                }
                self.item_done(step);
            }
            Op::Compensation => self.item_compensated(step),
        }
    }

    /// A call that has failed for good.
    fn failed(&mut self, id: CallId, trying: &Trying, what: What, detail: &Arc<str>) {
        match id.op {
            Op::Compensation if is_on(Mutation::FailedCompensationIsDone) => self.done(id, None),
            Op::Compensation => self.stick(id, trying.clone(), What::CompensationFailed, detail),
            // The run has turned round meanwhile; why is known.
            Op::Action if self.state.phase == Phase::Backward => self.give_up(id),
            Op::Action => match self.plan.steps[id.step as usize].kind {
                Kind::Retriable if !is_on(Mutation::RetriableTurnsRound) => {
                    self.stick(id, trying.clone(), what, detail)
                }
                Kind::Compensatable | Kind::Pivot | Kind::Retriable => {
                    self.cause(what, Some(id), trying.tried, detail);
                    self.give_up(id);
                    self.turn_round();
                }
            },
        }
    }

    /// A try that may do better; without a condition one that has to be made.
    fn again(
        &mut self,
        id: CallId,
        trying: Trying,
        condition: Option<RetryCondition>,
        after: Option<u64>,
        detail: &Arc<str>,
    ) {
        // An action is not tried any more on the way back; what came of it, its compensation will find.
        let is_over = id.op == Op::Action && self.state.phase == Phase::Backward;
        if is_over && !is_on(Mutation::RetriedOnTheWayBack) {
            self.give_up(id);
            return;
        }
        let elapsed = self.state.now.0.saturating_sub(trying.since.0);
        let seed = if is_on(Mutation::PausesByTheClock) {
            // Another number wherever the state is.
            std::ptr::from_ref(&*self.state).addr() as u64
        } else {
            self.state.seed
        };
        let random = random(seed, id, trying.attempt);
        let is_taken = |policy: &&Policy| condition.is_none_or(|condition| policy.takes(condition));
        let policy = policy(self.plan, id).filter(is_taken);
        let is_taken = policy.is_some();
        let pause = policy.and_then(|policy| policy.pause(trying.tried, elapsed, random, after));
        if let Some(pause) = pause {
            let next = Trying {
                tried: trying.tried + 1,
                is_anew: trying.is_anew || condition.is_none(),
                ..Trying::first(trying.attempt + 1, trying.since)
            };
            self.pause(id, next, pause);
            return;
        }
        let what = if is_taken {
            What::RetriesExhausted
        } else {
            What::ActionFailed
        };
        if self.is_pivot(id) {
            self.stick(id, trying, What::PivotUnknown, detail);
        } else {
            self.failed(id, &trying, what, detail);
        }
    }

    /// Nothing fences a pivot off: whatever the last try said, an earlier one, or a copy of it, may still be on its way. So it fails for
    /// good only if the participant refuses it for good.
    fn is_pivot(&self, id: CallId) -> bool {
        let is_pivot = Some(id.step as usize) == self.plan.pivot && id.op == Op::Action;
        is_pivot && !is_on(Mutation::UnknownPivotTurnsRound)
    }

    /// The participant works on it.
    fn pending(&mut self, id: CallId, mut trying: Trying, location: &Arc<str>, after: Option<u64>) {
        trying.poll = Some(Arc::clone(location));
        trying.unanswered = 0;
        let detail: Arc<str> = "the participant is still working on it".into();
        self.ask_again(id, trying, after, &detail);
    }

    /// Asks again how far the participant is, also on the way back: a compensation has to know, or to fence, what comes of the action.
    fn ask_again(&mut self, id: CallId, mut trying: Trying, after: Option<u64>, detail: &Arc<str>) {
        let elapsed = self.state.now.0.saturating_sub(trying.since.0);
        match policy(self.plan, id).and_then(|policy| policy.poll(elapsed, after)) {
            Some(pause) => {
                // A number of its own: a late answer to an earlier question is none to this one.
                trying.attempt += 1;
                self.pause(id, trying, pause);
            }
            None if self.is_pivot(id) => self.stick(id, trying, What::PivotUnknown, detail),
            None => self.failed(id, &trying, What::RetriesExhausted, detail),
        }
    }

    fn pause(&mut self, id: CallId, trying: Trying, pause: u64) {
        let until = Time(self.state.now.0.saturating_add(pause));
        let timer = Timer::Try {
            call: id,
            attempt: trying.attempt,
        };
        self.effects.push(Effect::Wait { timer, until });
        self.set(id, Call::Pausing(trying, until));
    }

    /// Leaves a call to an operator.
    fn stick(&mut self, id: CallId, trying: Trying, what: What, detail: &Arc<str>) {
        self.cause(what, Some(id), trying.tried, detail);
        self.set(id, Call::Stuck(trying));
        self.state.under_way -= 1;
        self.state.stuck += 1;
    }

    /// Does not try an action any more. It is under way.
    fn give_up(&mut self, id: CallId) {
        self.set(id, Call::GivenUp);
        self.state.under_way -= 1;
        if self.state.phase == Phase::Backward {
            self.compensate_if_free(id.step as usize);
        }
    }
}

/// The same for the same try, at each replay.
fn random(seed: u64, call: CallId, attempt: u32) -> u64 {
    let op = u64::from(call.op == Op::Compensation);
    let place = [call.step, call.item, call.incarnation, attempt].map(u64::from);
    Random::about(seed ^ op, &place).next()
}
