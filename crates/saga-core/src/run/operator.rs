//! What operators do: events like any other.

use std::sync::Arc;

use super::{Call, Machine, Phase, Progress, Refused, Trying, place};
use crate::event::{CallId, Op, Payload, Verb, What};

impl Machine<'_> {
    pub(super) fn operator(&mut self, verb: &Verb, by: &Arc<str>, reason: &Arc<str>) -> Result<(), Refused> {
        let detail: Arc<str> = format!("{by}: {reason}").into();
        match verb {
            Verb::Retry => self.retry(),
            Verb::RetryFrom { step } => self.retry_from(*step as usize),
            Verb::Skip { call, output } => self.skip(*call, output.clone()),
            Verb::ForceComplete => {
                self.cause(What::Forced, None, 0, &detail);
                self.end(self.state.phase != Phase::Backward, true);
                Ok(())
            }
            Verb::Cancel => self.cancel(&detail),
        }
    }

    /// Tries at once what is stuck, with a new allowance, and what pauses.
    fn retry(&mut self) -> Result<(), Refused> {
        let mut found = Vec::new();
        for (step, state) in self.state.steps.iter_mut().enumerate() {
            if state.progress == Progress::Undecided {
                found.push((step, None));
            }
            for (item, both) in state.items.iter().enumerate() {
                for (op, call) in [(Op::Action, &both.action), (Op::Compensation, &both.compensation)] {
                    let (trying, is_stuck) = match call {
                        Call::Stuck(trying) => (trying.clone(), true),
                        Call::Pausing(trying, _) => (trying.clone(), false),
                        _ => continue,
                    };
                    let id = CallId {
                        step: place(step),
                        item: place(item),
                        op,
                        incarnation: state.incarnation,
                    };
                    found.push((step, Some((id, trying, is_stuck))));
                }
            }
        }
        if found.is_empty() {
            return Err(Refused::Stale);
        }
        for (step, call) in found {
            match call {
                None => {
                    self.state.stuck -= 1;
                    self.enter(step);
                }
                Some((id, trying, is_stuck)) => {
                    if !is_stuck {
                        self.try_now(id, trying);
                        continue;
                    }
                    self.state.stuck -= 1;
                    self.state.under_way += 1;
                    // Of work that got stuck nobody may remember anything: it is asked for anew, and the barrier knows it.
                    self.try_now(id, Trying::first(trying.attempt + 1, self.state.now));
                }
            }
        }
        Ok(())
    }

    /// Does a step after the pivot and all behind it anew, as if they had never been done.
    fn retry_from(&mut self, step: usize) -> Result<(), Refused> {
        if step >= self.state.steps.len() {
            return Err(Refused::Impossible);
        }
        let pivot = self.plan.pivot.ok_or(Refused::NotAnew)?;
        let behind = self.behind(step);
        let is_after_pivot = self.behind(pivot).contains(&step) && step != pivot;
        let is_done = |step: &usize| self.state.steps[*step].waits_for == 0;
        if self.state.phase != Phase::Forward || !is_after_pivot || !is_done(&step) {
            return Err(Refused::NotAnew);
        }
        let is_under_way = |step: &usize| {
            let state = &self.state.steps[*step];
            let moves = |call: &Call| matches!(call, Call::InFlight(_) | Call::Pausing(..));
            state.progress == Progress::Deciding || state.items.iter().any(|item| moves(&item.action))
        };
        if behind.iter().any(is_under_way) {
            return Err(Refused::NotAnew);
        }
        for &again in &behind {
            let plan = &self.plan.steps[again];
            // Those behind wait for those that are done anew only.
            let waits_for = if again == step {
                0
            } else {
                let is_open = |before: &&usize| {
                    let progress = self.state.steps[**before].progress;
                    behind.contains(before) || !matches!(progress, Progress::Done | Progress::Skipped)
                };
                place(plan.after.iter().filter(is_open).count())
            };
            let state = &mut self.state.steps[again];
            let stuck = state
                .items
                .iter()
                .filter(|item| matches!(item.action, Call::Stuck(_)))
                .count();
            self.state.stuck -= place(stuck) + u32::from(state.progress == Progress::Undecided);
            if matches!(state.progress, Progress::Done | Progress::Skipped) {
                self.state.open += 1;
            }
            state.progress = Progress::Waiting;
            state.items.clear();
            state.count = 1;
            state.done = 0;
            state.incarnation += 1;
            state.waits_for = waits_for;
        }
        self.enter(step);
        Ok(())
    }

    /// A step and all behind it, each after those before it.
    fn behind(&self, step: usize) -> Vec<usize> {
        let mut behind = vec![step];
        for &next in &self.plan.sequence {
            if self.plan.steps[next]
                .after
                .iter()
                .any(|before| behind.contains(before))
            {
                behind.push(next);
            }
        }
        behind
    }

    /// Takes a call that is stuck or pauses for done; of a step that cannot be decided, any.
    fn skip(&mut self, id: CallId, output: Option<Payload>) -> Result<(), Refused> {
        let step = self.state.steps.get_mut(id.step as usize);
        let step = step.ok_or(Refused::Impossible)?;
        // One that cannot be decided is taken for one whose condition does not hold, or whose list is empty.
        if step.progress == Progress::Undecided && step.incarnation == id.incarnation {
            self.state.stuck -= 1;
            self.run_none(id.step as usize);
            return Ok(());
        }
        match self.call(id)? {
            Call::Stuck(_) | Call::Pausing(..) => {
                self.done(id, output);
                Ok(())
            }
            _ => Err(Refused::Stale),
        }
    }

    /// Takes back what was done. Of a pivot that is stuck the operator says by this that it was not done.
    fn cancel(&mut self, detail: &Arc<str>) -> Result<(), Refused> {
        if self.state.phase == Phase::Backward {
            return Err(Refused::Stale);
        }
        if self.state.pivot_tried && !self.pivot_is_stuck() {
            return Err(Refused::PastPivot);
        }
        self.cause(What::Cancelled, None, 0, detail);
        self.turn_round();
        Ok(())
    }

    fn pivot_is_stuck(&self) -> bool {
        let state = self.plan.pivot.and_then(|pivot| self.state.steps.get(pivot));
        let item = state.and_then(|state| state.items.first());
        item.is_some_and(|item| matches!(item.action, Call::Stuck(_)))
    }
}
