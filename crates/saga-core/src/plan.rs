//! What decisions need to know of a definition: steps by their place, who waits for whom, how calls are tried again.

use std::collections::BTreeSet;

use crate::{
    definition::{self, Definition, Kind, RetryCondition},
    order::{self, Order},
};

/// A definition as decisions see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) pivot: Option<usize>,
    /// The steps, each after all that are before it.
    pub(crate) sequence: Vec<usize>,
    /// Milliseconds that a run may take up to its pivot.
    pub(crate) timeout: Option<u64>,
}

/// A step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    /// Those that it names in `after`.
    pub(crate) after: Vec<usize>,
    /// Those that name it.
    pub(crate) dependents: Vec<usize>,
    pub(crate) kind: Kind,
    /// Whether it has to be found out if, or how often, it is done.
    pub(crate) is_decided: bool,
    /// How many elements at once.
    pub(crate) concurrency: u32,
    pub(crate) max_items: u32,
    pub(crate) action: Policy,
    pub(crate) compensation: Option<Policy>,
}

/// Longest pause that a participant can ask for, in milliseconds, unless `maxInterval` is longer.
const MOST_ASKED: u64 = 3_600_000;

/// How a call is tried.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    /// Milliseconds that one try may take.
    pub(crate) timeout: u64,
    initial: u64,
    factor: f64,
    max_interval: u64,
    jitter: u32,
    max_elapsed: Option<u64>,
    max_attempts: Option<u32>,
    retry_on: BTreeSet<RetryCondition>,
}

impl Plan {
    /// The plan of a definition; None: its order has faults, which [`crate::compile`] finds.
    #[must_use]
    pub fn new(definition: &Definition) -> Option<Self> {
        let order = Order::of(&definition.steps).ok()?;
        let mut steps: Vec<Step> = definition
            .steps
            .iter()
            .enumerate()
            .map(|(i, step)| Step {
                after: order.directly_before(i).to_vec(),
                dependents: Vec::new(),
                kind: step.kind,
                is_decided: step.when.is_some() || step.for_each.is_some(),
                concurrency: step
                    .for_each
                    .as_ref()
                    .map_or(1, |for_each| for_each.concurrency.max(1)),
                max_items: step.for_each.as_ref().map_or(1, |for_each| for_each.max_items),
                action: Policy::new(&step.action),
                compensation: step.compensation.as_ref().map(Policy::new),
            })
            .collect();
        for step in 0..steps.len() {
            for before in steps[step].after.clone() {
                steps[before].dependents.push(step);
            }
        }
        Some(Self {
            steps,
            pivot: order::pivot(&definition.steps),
            sequence: order.sequence().to_vec(),
            timeout: definition.timeout.map(|timeout| timeout.0),
        })
    }

    /// How many steps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is no step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The steps that a step waits for, directly.
    #[must_use]
    pub fn after(&self, step: usize) -> &[usize] {
        self.steps.get(step).map_or(&[], |step| &step.after)
    }

    /// Place of the pivot.
    #[must_use]
    pub const fn pivot(&self) -> Option<usize> {
        self.pivot
    }

    /// Whether a step can be taken back by a call.
    #[must_use]
    pub fn has_compensation(&self, step: usize) -> bool {
        self.steps
            .get(step)
            .is_some_and(|step| step.compensation.is_some())
    }
}

impl Policy {
    fn new(call: &definition::Call) -> Self {
        let retry = &call.retry;
        Self {
            timeout: call.timeout.0,
            initial: retry.initial.0,
            factor: retry.factor,
            max_interval: retry.max_interval.0,
            jitter: retry.jitter.min(100),
            max_elapsed: retry.max_elapsed.map(|elapsed| elapsed.0),
            max_attempts: retry.max_attempts,
            retry_on: retry.retry_on.clone(),
        }
    }

    pub(crate) fn takes(&self, condition: RetryCondition) -> bool {
        self.retry_on.contains(&condition)
    }

    /// The pause after a try, in milliseconds; None: there is no further one. `tried` have been made in `elapsed` milliseconds; `random` is
    /// anything; `asked` is what the participant asks for.
    pub(crate) fn pause(&self, tried: u32, elapsed: u64, random: u64, asked: Option<u64>) -> Option<u64> {
        if self.max_attempts.is_some_and(|most| tried >= most) {
            return None;
        }
        let exponent = i32::try_from(tried.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial as f64 * self.factor.powi(exponent);
        // What is too large for a number of this size is longer than the longest pause.
        let pause = (grown as u64).min(self.max_interval);
        let share = pause / 100 * u64::from(self.jitter) + pause % 100 * u64::from(self.jitter) / 100;
        let pause = pause - share + random % (share + 1);
        let pause = pause.max(self.bounded(asked)).max(1);
        let is_over = |most: u64| elapsed.saturating_add(pause) > most;
        (!self.max_elapsed.is_some_and(is_over)).then_some(pause)
    }

    /// The pause before asking again how far the participant is: longer the longer it takes.
    pub(crate) fn poll(&self, elapsed: u64, asked: Option<u64>) -> Option<u64> {
        let grown = (elapsed / 4).clamp(self.initial.min(self.max_interval), self.max_interval);
        let pause = if asked.is_some() {
            self.bounded(asked)
        } else {
            grown
        }
        .max(1);
        let is_over = |most: u64| elapsed.saturating_add(pause) > most;
        (!self.max_elapsed.is_some_and(is_over)).then_some(pause)
    }

    /// What a participant asks for, but not for ever.
    fn bounded(&self, asked: Option<u64>) -> u64 {
        asked.unwrap_or(0).min(self.max_interval.max(MOST_ASKED))
    }
}
