//! The way back: what was tried is compensated, after everything that came after it.

use super::{Call, Item, Machine, Phase, Progress, place};
use crate::{
    event::{CallId, Op},
    mutation::{Mutation, is_on},
};

impl Machine<'_> {
    /// Turns the run round. Calls on their way are waited for, since a compensation needs to know, or to fence, what came of its
    /// action; those that pause are not tried again.
    pub(super) fn turn_round(&mut self) {
        self.state.phase = Phase::Backward;
        let plan = self.plan;
        self.state.unclear = place(plan.steps.len());
        for (step, state) in self.state.steps.iter_mut().enumerate() {
            state.done = 0;
            state.blocked_by = place(plan.steps[step].dependents.len());
            match state.progress {
                Progress::Deciding => {
                    state.progress = Progress::Waiting;
                    self.state.under_way -= 1;
                }
                Progress::Undecided => {
                    state.progress = Progress::Waiting;
                    self.state.stuck -= 1;
                }
                _ => {}
            }
            for item in &mut state.items {
                match &item.action {
                    // Whoever works on it will say when it is done.
                    Call::Pausing(trying, _) if trying.poll.is_none() => {
                        item.action = Call::GivenUp;
                        self.state.under_way -= 1;
                    }
                    Call::Stuck(_) => {
                        item.action = Call::GivenUp;
                        self.state.stuck -= 1;
                    }
                    _ => {}
                }
            }
        }
        // From the ends; whoever becomes clear looks at those before.
        for &step in plan.sequence.iter().rev() {
            self.compensate_if_free(step);
        }
    }

    /// Begins to compensate a step, if everything after it is clear and nothing of it is on its way.
    pub(super) fn compensate_if_free(&mut self, step: usize) {
        let state = &self.state.steps[step];
        let is_blocked = state.blocked_by > 0 && !is_on(Mutation::CompensatedInAnyOrder);
        if state.is_clear || is_blocked || self.state.phase != Phase::Backward {
            return;
        }
        let is_on_its_way = |call: &Call| matches!(call, Call::InFlight(_) | Call::Pausing(..));
        let waits = state.items.iter().any(|item| is_on_its_way(&item.action));
        if waits && !is_on(Mutation::CompensatedInFlight) {
            return;
        }
        let is_known = |item: &Item| item.action == Call::Done;
        let forgets = is_on(Mutation::UnknownIsNotCompensated) && !state.items.iter().any(is_known);
        if state.items.is_empty() || forgets || self.plan.steps[step].compensation.is_none() {
            self.clear(step);
            return;
        }
        let begun = |call: &Call| !matches!(call, Call::Idle);
        if state.items.iter().any(|item| begun(&item.compensation)) {
            return;
        }
        for _ in 0..self.plan.steps[step].concurrency {
            self.next_compensation(step);
        }
    }

    /// Compensates the last element that is not, if there is one.
    fn next_compensation(&mut self, step: usize) {
        let state = &self.state.steps[step];
        let next = state
            .items
            .iter()
            .rposition(|item| item.compensation == Call::Idle);
        if let Some(item) = next {
            self.begin(CallId {
                step: place(step),
                item: place(item),
                op: Op::Compensation,
                incarnation: state.incarnation,
            });
        }
    }

    pub(super) fn item_compensated(&mut self, step: usize) {
        let state = &mut self.state.steps[step];
        state.done += 1;
        if state.done as usize == state.items.len() || is_on(Mutation::OneElementCompensated) {
            self.clear(step);
        } else {
            self.next_compensation(step);
        }
    }

    /// There is nothing left to take back of a step: those before it may be free.
    fn clear(&mut self, step: usize) {
        self.state.steps[step].is_clear = true;
        self.state.unclear -= 1;
        if self.state.unclear == 0 {
            self.end(false, false);
            return;
        }
        let plan = self.plan;
        for &before in &plan.steps[step].after {
            let blocked_by = &mut self.state.steps[before].blocked_by;
            *blocked_by = blocked_by.saturating_sub(1);
            self.compensate_if_free(before);
        }
    }
}
