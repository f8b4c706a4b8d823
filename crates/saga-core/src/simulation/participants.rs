//! Participants with a barrier: what they have done, and what they answer.
//!
//! The barrier, in the transaction of the effect: a row for each (run, step, element, op, incarnation). An action whose row is there
//! was done, or is fenced off; a compensation first puts the row of its action, and if it could, there is nothing to take back.

use std::collections::BTreeMap;

use super::{random::Random, store::RunId};
use crate::{
    definition::RetryCondition,
    event::{CallId, Op, Outcome},
    mutation::{Mutation, is_on},
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
    Done,
    /// Put there by the compensation.
    Fenced,
}

/// What fate has in store for a call, whichever try it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It can be done.
    Works,
    /// It is refused for good.
    Refuses,
}

/// What happens to one try, besides.
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
}

/// Everything that participants have done.
#[derive(Debug, Clone, Default)]
pub struct Participants {
    /// By place.
    pub entries: BTreeMap<Place, Entry>,
}

impl Participants {
    /// A try arrives.
    pub fn take(
        &mut self,
        run: RunId,
        call: CallId,
        fate: Fate,
        mishap: Mishap,
        random: &mut Random,
    ) -> Outcome {
        let retry = |condition, after| Outcome::Retry {
            condition,
            after,
            detail: "mishap".into(),
        };
        match mishap {
            Mishap::ErrorBefore => return retry(RetryCondition::ServerError, None),
            Mishap::Throttled => {
                return retry(RetryCondition::Throttled, Some(random.between(1, 5000)));
            }
            _ => {}
        }
        let entry = self.entries.entry((run, call.step, call.item)).or_default();
        let outcome = match call.op {
            Op::Action => entry.act(call.incarnation, fate),
            Op::Compensation => entry.compensate(call.incarnation, fate),
        };
        match mishap {
            Mishap::ErrorAfter => retry(RetryCondition::ServerError, None),
            Mishap::Pending => Outcome::Pending {
                location: "/progress".into(),
                after: Some(random.between(1, 3000)),
            },
            _ => outcome,
        }
    }
}

impl Entry {
    fn act(&mut self, incarnation: u32, fate: Fate) -> Outcome {
        match self.rows.get(&(Op::Action, incarnation)) {
            Some(Row::Fenced) => return Outcome::Failed("409: it was compensated".into()),
            // The stored answer.
            Some(Row::Done) if !is_on(Mutation::DuplicatesAreDone) => return done(incarnation),
            _ => {}
        }
        if fate == Fate::Refuses {
            return Outcome::Failed("422".into());
        }
        self.is_hanging |= self.rows.contains_key(&(Op::Compensation, incarnation));
        self.rows.insert((Op::Action, incarnation), Row::Done);
        *self.actions.entry(incarnation).or_default() += 1;
        done(incarnation)
    }

    fn compensate(&mut self, incarnation: u32, fate: Fate) -> Outcome {
        let is_done = self.rows.contains_key(&(Op::Compensation, incarnation));
        if is_done && !is_on(Mutation::DuplicatesAreCompensated) {
            return done(incarnation);
        }
        if fate == Fate::Refuses {
            return Outcome::Failed("422".into());
        }
        let action = self.rows.get(&(Op::Action, incarnation)).copied();
        match action {
            None if is_on(Mutation::NullCompensationIsForgotten) => return done(incarnation),
            None => {
                self.rows.insert((Op::Action, incarnation), Row::Fenced);
            }
            Some(Row::Fenced) => {}
            Some(Row::Done) => self.compensations += 1,
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
