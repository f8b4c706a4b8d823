//! The way forward.

use std::sync::Arc;

use super::{Item, Machine, Phase, Progress, Refused, place};
use crate::{
    definition::Kind,
    event::{CallId, Decision, Effect, Op, Time, Timer, What},
    mutation::{Mutation, is_on},
};

impl Machine<'_> {
    /// The turn of a run has come that waited for it.
    pub(super) fn admitted(&mut self) -> Result<(), Refused> {
        if self.state.phase != Phase::Queued {
            return Err(Refused::Stale);
        }
        self.state.phase = Phase::Forward;
        self.state.begun_at = self.state.now;
        self.set_out();
        Ok(())
    }

    /// Begins.
    pub(super) fn set_out(&mut self) {
        let plan = self.plan;
        if let Some(until) = self.state.deadline(plan) {
            self.effects.push(Effect::Wait {
                timer: Timer::Deadline,
                until,
            });
        }
        for &step in &plan.sequence {
            if plan.steps[step].after.is_empty() {
                self.enter(step);
            }
        }
        if plan.steps.is_empty() {
            self.end(true, false);
        }
    }

    /// A step for which nothing is missing any more.
    pub(super) fn enter(&mut self, step: usize) {
        if self.plan.steps[step].is_decided {
            self.state.steps[step].progress = Progress::Deciding;
            self.state.under_way += 1;
            self.effects.push(Effect::Decide {
                step: place(step),
                incarnation: self.state.steps[step].incarnation,
            });
        } else {
            self.run(step, 1);
        }
    }

    pub(super) fn decided(
        &mut self,
        step: usize,
        incarnation: u32,
        decision: &Decision,
    ) -> Result<(), Refused> {
        let state = self.state.steps.get(step).ok_or(Refused::Impossible)?;
        if state.progress != Progress::Deciding || state.incarnation != incarnation {
            return Err(Refused::Stale);
        }
        self.state.under_way -= 1;
        match decision {
            Decision::Skip => {
                self.state.steps[step].progress = Progress::Skipped;
                if is_on(Mutation::SkippedBlocks) {
                    return Ok(());
                }
                self.step_done(step);
            }
            Decision::Once => self.run(step, 1),
            Decision::Items(count) if *count > self.plan.steps[step].max_items => {
                let most = self.plan.steps[step].max_items;
                let detail = format!("the list has {count} elements, and {most} is the most");
                self.undecided(step, &detail.into());
            }
            Decision::Items(count) => self.run(step, *count),
            Decision::Failed(detail) => self.undecided(step, detail),
        }
        Ok(())
    }

    /// Nothing of the step was done, so there is nothing of it to take back.
    fn undecided(&mut self, step: usize, detail: &Arc<str>) {
        let call = CallId {
            step: place(step),
            item: 0,
            op: Op::Action,
            incarnation: self.state.steps[step].incarnation,
        };
        self.cause(What::DecisionFailed, Some(call), 0, detail);
        if self.plan.steps[step].kind == Kind::Retriable {
            self.state.steps[step].progress = Progress::Undecided;
            self.state.stuck += 1;
        } else {
            self.state.steps[step].progress = Progress::Waiting;
            self.turn_round();
        }
    }

    /// Takes a step for done without doing it.
    pub(super) fn run_none(&mut self, step: usize) {
        self.state.steps[step].progress = Progress::Skipped;
        self.step_done(step);
    }

    fn run(&mut self, step: usize, count: u32) {
        let state = &mut self.state.steps[step];
        state.progress = Progress::Running;
        state.count = count;
        state.done = 0;
        if Some(step) == self.plan.pivot {
            self.state.pivot_tried = true;
        }
        if count == 0 {
            self.state.steps[step].progress = Progress::Done;
            self.step_done(step);
            return;
        }
        for _ in 0..count.min(self.plan.steps[step].concurrency) {
            self.next_item(step);
        }
    }

    /// Begins the next element, if there is one.
    fn next_item(&mut self, step: usize) {
        let state = &mut self.state.steps[step];
        let item = place(state.items.len());
        if item >= state.count {
            return;
        }
        state.items.push(Item::new());
        let call = CallId {
            step: place(step),
            item,
            op: Op::Action,
            incarnation: state.incarnation,
        };
        self.begin(call);
    }

    pub(super) fn item_done(&mut self, step: usize) {
        if self.state.phase == Phase::Backward {
            self.compensate_if_free(step);
            return;
        }
        self.state.steps[step].done += 1;
        self.next_item(step);
        let state = &mut self.state.steps[step];
        if state.done == state.count || is_on(Mutation::FirstElementIsAll) && state.done == 1 {
            state.progress = Progress::Done;
            self.step_done(step);
        }
    }

    /// A step that is done, or skipped: others may begin.
    fn step_done(&mut self, step: usize) {
        self.state.open -= 1;
        let plan = self.plan;
        for &dependent in &plan.steps[step].dependents {
            let waits_for = &mut self.state.steps[dependent].waits_for;
            *waits_for -= 1;
            if *waits_for == 0 {
                self.enter(dependent);
            }
        }
        let left = u32::from(is_on(Mutation::EndsTooEarly));
        if self.state.open <= left && self.state.phase == Phase::Forward {
            self.end(true, false);
        }
    }

    pub(super) fn time_is_up(&mut self) -> Result<(), Refused> {
        let Some(timeout) = self.plan.timeout else {
            return Err(Refused::Impossible);
        };
        let is_over = self.state.pivot_tried && !is_on(Mutation::TimeoutAfterPivot);
        if self.state.phase != Phase::Forward || is_over {
            return Err(Refused::Stale);
        }
        if self.state.now < Time(self.state.begun_at.0.saturating_add(timeout)) {
            return Err(Refused::TooEarly);
        }
        self.cause(What::TimedOut, None, 0, &"".into());
        self.turn_round();
        Ok(())
    }
}
