//! Participants with a barrier: what they have done, and what they answer.
//!
//! The barrier, in the transaction of the effect or of the refusal: a row for each (run, step, element, op, incarnation). An action whose row is there
//! was done, or is fenced off; a compensation first puts the row of its action, and if it could, there is nothing to take back.

use std::collections::BTreeMap;

use super::store::RunId;
use crate::{
    definition::RetryCondition,
    event::{CallId, Op, Outcome},
    mutation::{Mutation, is_on},
    random::Random,
};

/// An element of a step of a run.
pub type Place = (RunId, u32, u32);

/// What was done at a place.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    rows: BTreeMap<(Op, u32), Row>,
    /// How often the action took effect, by incarnation.
    pub actions: BTreeMap<u32, u32>,
    /// How often the compensation did.
    pub compensations: u32,
    /// Whether the action took effect after its compensation.
    pub is_hanging: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    /// It is being worked on: after so many questions it is done.
    Working(u32),
    Done,
    /// It was refused, and always is.
    Refused,
    /// Put there by the compensation.
    Fenced,
}

/// What fate has in store for a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It can be done.
    Works,
    /// It is refused for good.
    Refuses,
}

/// What happens to a try, besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// Nothing.
    None,
    /// An error before anything was done.
    ErrorBefore,
    /// An error after it was done.
    ErrorAfter,
    /// It is asked to come back later.
    Throttled,
    /// It is worked on, and the answer is to be asked for.
    Pending,
    /// Of work under way nobody remembers anything (404); the work goes on.
    Forgotten,
}

/// Everything that participants have done.
#[derive(Debug, Clone, Default)]
pub struct Participants {
    /// By place.
    pub entries: BTreeMap<Place, Entry>,
}

impl Participants {
    /// A try, or a question after work under way, arrives.
    pub fn take(
        &mut self,
        run: RunId,
        call: CallId,
        is_poll: bool,
        (fate, mishap): (Fate, Mishap),
        random: &mut Random,
    ) -> Outcome {
        match mishap {
            Mishap::ErrorBefore => return retry(RetryCondition::ServerError, None),
            Mishap::Throttled => {
                return retry(RetryCondition::Throttled, Some(random.between(1, 5000)));
            }
            _ => {}
        }
        let entry = self.entries.entry((run, call.step, call.item)).or_default();
        let key = (call.op, call.incarnation);
        if mishap == Mishap::Pending && !is_poll && fate == Fate::Works && !entry.rows.contains_key(&key) {
            entry.rows.insert(key, Row::Working(random.between(0, 3) as u32));
        }
        if let Some(Row::Working(left)) = entry.rows.get(&key).copied() {
            let left = left.saturating_sub(u32::from(is_poll));
            if left > 0 || !is_poll {
                entry.rows.insert(key, Row::Working(left));
                if is_poll && mishap == Mishap::Forgotten {
                    return Outcome::Failed("404: no such work".into());
                }
                return Outcome::Pending {
                    location: "/progress".into(),
                    after: Some(random.between(1, 3000)),
                };
            }
            // It is done now.
            entry.rows.remove(&key);
        }
        let outcome = match call.op {
            Op::Action => entry.act(call.incarnation, fate),
            Op::Compensation => entry.compensate(call.incarnation, fate),
        };
        match mishap {
            Mishap::ErrorAfter => retry(RetryCondition::ServerError, None),
            _ => outcome,
        }
    }
}

fn retry(condition: RetryCondition, after: Option<u64>) -> Outcome {
    Outcome::Retry {
        condition,
        after,
        detail: "mishap".into(),
    }
}

impl Entry {
    fn act(&mut self, incarnation: u32, fate: Fate) -> Outcome {
        match self.rows.get(&(Op::Action, incarnation)) {
            Some(Row::Fenced) => return Outcome::Failed("409: it was compensated".into()),
            Some(Row::Refused) if !is_on(Mutation::RefusalsAreForgotten) => {
                return Outcome::Failed("422".into());
            }
            // The stored answer.
            Some(Row::Done) if !is_on(Mutation::DuplicatesAreDone) => return done(incarnation),
            _ => {}
        }
        if fate == Fate::Refuses {
            self.rows.insert((Op::Action, incarnation), Row::Refused);
            return Outcome::Failed("422".into());
        }
        self.is_hanging |= self.rows.get(&(Op::Compensation, incarnation)) == Some(&Row::Done);
        self.rows.insert((Op::Action, incarnation), Row::Done);
        *self.actions.entry(incarnation).or_default() += 1;
        done(incarnation)
    }

    fn compensate(&mut self, incarnation: u32, fate: Fate) -> Outcome {
        match self.rows.get(&(Op::Compensation, incarnation)) {
            Some(_) if !is_on(Mutation::DuplicatesAreCompensated) => return done(incarnation),
            _ => {}
        }
        let action = self.rows.get(&(Op::Action, incarnation)).copied();
        // Not beside the work: it is asked to come back.
        if matches!(action, Some(Row::Working(_))) {
            // By the time it does, the work is done.
            self.rows.insert((Op::Action, incarnation), Row::Done);
            *self.actions.entry(incarnation).or_default() += 1;
            return retry(RetryCondition::ServerError, None);
        }
        // Not remembered: an operator mends the cause and has it tried again.
        if fate == Fate::Refuses {
            return Outcome::Failed("422".into());
        }
        match action {
            None if is_on(Mutation::NullCompensationIsForgotten) => return done(incarnation),
            None => {
                self.rows.insert((Op::Action, incarnation), Row::Fenced);
            }
            Some(Row::Done) => self.compensations += 1,
            Some(Row::Fenced | Row::Refused | Row::Working(_)) => {}
        }
        self.rows.insert((Op::Compensation, incarnation), Row::Done);
        done(incarnation)
    }

    /// Whether an effect is there that was not taken back.
    #[must_use]
    pub fn remains(&self) -> bool {
        self.actions.values().sum::<u32>() > self.compensations
    }
}

fn done(incarnation: u32) -> Outcome {
    Outcome::Done(Some(crate::event::Payload::from(
        format!("{{\"incarnation\":{incarnation}}}").as_str(),
    )))
}
