//! Every history of a small saga: each order of answers, with a bounded number of faults.
//!
//! Where the simulator tries much at random, this tries everything of a little: most mistakes in the core show in sagas of four steps
//! with two faults (the small scope hypothesis; Jackson, "Software Abstractions", 2006).

use std::collections::HashSet;

use super::oracles::Seen;
use crate::{
    definition::RetryCondition,
    event::{Decision, Effect, Event, Op, Outcome, Time, Timer, Verb},
    plan::Plan,
    run::{self, State, Status},
};

/// What a search has looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Searched {
    /// Different states of runs.
    pub states: usize,
    /// Events that were tried in them.
    pub events: usize,
    /// States in which a run has ended or is stuck, by status: completed, compensated, stuck.
    pub ends: [usize; 3],
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Node {
    state: State,
    seen: Seen,
    faults: u32,
}

/// Looks at every history with at most so many faults: a refusal, a try that nobody knows the end of, work that goes on, a step that cannot
/// be decided, the run's timeout, what operators do (cancel, skip).
///
/// # Errors
/// What is broken, and the events that lead to it.
pub fn search(plan: &Plan, faults: u32) -> Result<Searched, String> {
    let begin = Event::Started { input: None, seed: 1 };
    let (state, effects) = run::start(plan, &begin, Time(0)).map_err(|refused| refused.to_string())?;
    let mut seen = Seen::default();
    let mut found = Vec::new();
    seen.effects(plan, &effects, &mut found);
    let node = Node {
        state,
        seen,
        faults: 0,
    };
    let mut searched = Searched::default();
    let mut known = HashSet::from([node.clone()]);
    let mut left = vec![(node, Vec::new())];
    while let Some((node, path)) = left.pop() {
        searched.states += 1;
        let next = events(plan, &node.state);
        judge(plan, &node, next.is_empty(), &mut searched).map_err(|what| format!("{what}\n{path:#?}"))?;
        for (event, at, cost) in next {
            if node.faults + cost > faults {
                continue;
            }
            searched.events += 1;
            let is_turned = node.state.status() == Status::Compensating;
            let Ok((state, effects)) = run::decide(plan, &node.state, &event, at) else {
                continue;
            };
            let mut seen = node.seen.clone();
            let mut found = Vec::new();
            seen.event(plan, state.now(), &event, &mut found);
            if is_turned {
                seen.no_new_tries(&effects, &mut found);
            }
            seen.effects(plan, &effects, &mut found);
            let mut path = path.clone();
            path.push(event);
            if let Some(what) = found.first() {
                return Err(format!("{what}\n{path:#?}"));
            }
            let node = Node {
                state,
                seen,
                faults: node.faults + cost,
            };
            if known.insert(node.clone()) {
                left.push((node, path));
            }
        }
    }
    Ok(searched)
}

/// What can happen, when, and whether it is a fault.
fn events(plan: &Plan, state: &State) -> Vec<(Event, Time, u32)> {
    let mut events = Vec::new();
    let now = state.now();
    for effect in state.outstanding(plan, now) {
        match effect {
            Effect::Decide { step, incarnation } => {
                for (decision, cost) in [
                    (Decision::Once, 0),
                    (Decision::Skip, 0),
                    (Decision::Items(2), 0),
                    (Decision::Failed("".into()), 1),
                ] {
                    let event = Event::Decided {
                        step,
                        incarnation,
                        decision,
                    };
                    events.push((event, now, cost));
                }
            }
            Effect::Call { call, attempt, .. } => {
                let answered = |outcome| Event::Answered {
                    call,
                    attempt,
                    outcome,
                };
                events.push((answered(Outcome::Done(None)), now, 0));
                events.push((answered(Outcome::Failed("".into())), now, 1));
                let unknown = Outcome::Retry {
                    condition: RetryCondition::Timeout,
                    after: None,
                    detail: "".into(),
                };
                events.push((answered(unknown), now, 1));
                let pending = Outcome::Pending {
                    location: "".into(),
                    after: None,
                };
                events.push((answered(pending), now, 1));
            }
            Effect::Wait { timer, until } => {
                let cost = u32::from(timer == Timer::Deadline);
                events.push((Event::TimerFired(timer), until, cost));
            }
            Effect::Stuck | Effect::Ended(_) => {}
        }
    }
    let skips = state
        .stuck_calls()
        .into_iter()
        .map(|call| Verb::Skip { call, output: None });
    let verbs = if events.is_empty() {
        vec![]
    } else {
        vec![Verb::Cancel]
    };
    for verb in verbs.into_iter().chain(skips) {
        let event = Event::Operator {
            verb,
            by: "".into(),
            reason: "".into(),
        };
        events.push((event, now, 1));
    }
    events
}

fn judge(plan: &Plan, node: &Node, is_at_rest: bool, searched: &mut Searched) -> Result<(), String> {
    let state = &node.state;
    match state.status() {
        Status::Completed => searched.ends[0] += 1,
        Status::Compensated => {
            searched.ends[1] += 1;
            let left = node.seen.left(plan);
            if left > 0 {
                return Err(format!("invariant 3: compensated, and {left} were not"));
            }
        }
        Status::Stuck => {
            searched.ends[2] += 1;
            if state.causes().is_empty() {
                return Err("invariant 1: stuck without a cause".to_owned());
            }
            if state.stuck_calls().is_empty() && !is_at_rest {
                return Err("invariant 1: stuck, and something is under way".to_owned());
            }
        }
        Status::Running | Status::Compensating if is_at_rest => {
            return Err("invariant 14: nothing is under way, and the run has not ended".to_owned());
        }
        Status::Running | Status::Compensating => {}
    }
    let is_compensation =
        |effect: &Effect| matches!(effect, Effect::Call { call, .. } if call.op == Op::Compensation);
    if state.status() == Status::Running && state.outstanding(plan, state.now()).iter().any(is_compensation) {
        return Err("a compensation is under way, and the run has not turned round".to_owned());
    }
    Ok(())
}
