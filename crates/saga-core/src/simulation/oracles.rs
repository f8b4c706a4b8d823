//! The invariants of sagas, each by what is stored and what participants have done.
//!
//! 1 every run ends completed, compensated, or stuck with a cause · 2 completed: each action once, nothing taken back · 3 compensated:
//! nothing remains · 4 no action takes effect after its compensation · 5 no compensation while its action is on its way · 6 in reverse order ·
//! 7 none after the pivot · 8 nothing that was acknowledged is lost · 9 the log has the state · 10 one owner · 11 one run a key ·
//! 12 no timer before its time or twice · 13 no step of another revision · 14 it comes to an end · 15 (by its own test) one run
//! does not hold up another · 16 what was committed is what runs.
//!
//! 9, 11, 13 and 14 are looked at while it happens, too.

use std::collections::{BTreeMap, BTreeSet};

use super::{store::RunId, world::World};
use crate::{
    definition::Kind,
    event::{CallId, Decision, Effect, Event, Op, Outcome, Time, Timer, Verb, What},
    log,
    plan::Plan,
    run::{self, Status},
};

/// Judges a history that has come to its end.
pub fn judge(world: &mut World) {
    if !world.violations.is_empty() {
        return;
    }
    world.store.reread();
    let mut found = Vec::new();
    for (&key, &run) in &world.acknowledged {
        if world.store.keys.get(&key).map(|(stored, _)| *stored) != Some(run) {
            found.push((
                run,
                "invariant 8: a start that was acknowledged is not stored".to_owned(),
            ));
        }
    }
    for &key in world.outbox.keys() {
        if !world.acknowledged.contains_key(&key) {
            found.push((
                0,
                format!("invariant 16: what was committed as {key} never began"),
            ));
        }
    }
    let of_keys: BTreeSet<RunId> = world.store.keys.values().map(|(run, _)| *run).collect();
    for &run in world.store.runs.keys() {
        if !of_keys.contains(&run) {
            found.push((run, "invariant 11: a second run of the same key".to_owned()));
        }
    }
    for (&run, stored) in &world.store.runs {
        if stored.epochs.windows(2).any(|pair| pair[0] > pair[1]) {
            found.push((run, "invariant 10: an earlier owner wrote".to_owned()));
        }
        match log::read(&stored.log) {
            Err(error) => found.push((run, format!("invariant 8: {error}"))),
            Ok(contents) if contents.length < stored.log.len() => {
                found.push((run, "invariant 8: the log ends in a torn record".to_owned()));
            }
            Ok(contents) => {
                let plan = &world.revisions[stored.revision].1;
                let events = contents.records.iter().map(|record| (record.at, &record.event));
                let events: Vec<(Time, &Event)> = events.collect();
                found.extend(of_records(plan, &events).into_iter().map(|what| (run, what)));
                found.extend(
                    of_effects(world, run, plan, &events)
                        .into_iter()
                        .map(|what| (run, what)),
                );
            }
        }
    }
    for (run, status) in world.ends().into_iter().map(|(run, (status, _))| (run, status)) {
        let place = match status {
            Status::Completed => 0,
            Status::Compensated => 1,
            Status::Stuck => 2,
            Status::Running | Status::Compensating => {
                found.push((run, "invariant 1: it has neither ended nor got stuck".to_owned()));
                continue;
            }
        };
        world.counts.ends[place] += 1;
    }
    world.violations.extend(found);
}

/// What the records say of the order of calls: 5, 6, 7, 12.
pub(super) fn of_records(plan: &Plan, events: &[(Time, &Event)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut effects = Vec::new();
    let Some(((first, event), rest)) = events.split_first() else {
        return found;
    };
    let Ok((mut state, begun)) = run::start(plan, event, *first) else {
        return vec!["invariant 8: the first record is no start".to_owned()];
    };
    let mut seen = Seen::default();
    seen.effects(plan, &begun, &mut found);
    for (at, event) in rest {
        effects.clear();
        let is_turned = state.status() == Status::Compensating;
        if state.apply(plan, event, *at, &mut effects).is_err() {
            found.push("invariant 9: a record does not fit those before it".to_owned());
            return found;
        }
        seen.event(plan, *at, event, &mut found);
        if is_turned {
            seen.no_new_tries(&effects, &mut found);
        }
        seen.effects(plan, &effects, &mut found);
    }
    found
}

/// What is known of the calls, apart from the state of the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    /// Calls that were tried and have not been answered since.
    on_their_way: BTreeSet<CallId>,
    /// Actions that were tried, by step, with their elements.
    tried: BTreeMap<u32, BTreeSet<u32>>,
    /// Compensations that are done.
    compensated: BTreeSet<(u32, u32)>,
    pivot_is_done: bool,
    timers: BTreeMap<Timer, Time>,
}

impl Seen {
    pub(super) fn event(&mut self, plan: &Plan, at: Time, event: &Event, found: &mut Vec<String>) {
        match event {
            Event::Answered { call, outcome, .. } => {
                self.on_their_way.remove(call);
                if matches!(outcome, Outcome::Done(_)) {
                    self.done(plan, *call);
                }
            }
            Event::Operator {
                verb: Verb::Skip { call, .. },
                ..
            } => {
                self.on_their_way.remove(call);
                self.done(plan, *call);
            }
            Event::TimerFired(timer) => match self.timers.remove(timer) {
                None => found.push("invariant 12: a timer fired that nobody waits for".to_owned()),
                Some(until) if at < until => {
                    found.push("invariant 12: a timer fired before its time".to_owned());
                }
                Some(_) => {}
            },
            _ => {}
        }
    }

    fn done(&mut self, plan: &Plan, call: CallId) {
        match call.op {
            Op::Action => self.pivot_is_done |= plan.pivot() == Some(call.step as usize),
            Op::Compensation => {
                self.compensated.insert((call.step, call.item));
            }
        }
    }

    /// On the way back an action is asked how far it is, and never tried again.
    pub(super) fn no_new_tries(&self, effects: &[Effect], found: &mut Vec<String>) {
        let is_new = |effect: &Effect| matches!(effect, Effect::Call { call, poll: None, .. } if call.op == Op::Action);
        if effects.iter().any(is_new) {
            found.push("invariant 5: an action is tried after the run has turned round".to_owned());
        }
    }

    /// What is not compensated of what was tried and can be.
    pub(super) fn left(&self, plan: &Plan) -> usize {
        let tried = self
            .tried
            .iter()
            .flat_map(|(step, items)| items.iter().map(move |item| (*step, *item)));
        tried
            .filter(|place| plan.has_compensation(place.0 as usize) && !self.compensated.contains(place))
            .count()
    }

    pub(super) fn effects(&mut self, plan: &Plan, effects: &[Effect], found: &mut Vec<String>) {
        for effect in effects {
            match effect {
                Effect::Wait { timer, until } => {
                    self.timers.insert(*timer, *until);
                }
                Effect::Call { call, .. } => {
                    match call.op {
                        Op::Action => {
                            self.tried.entry(call.step).or_default().insert(call.item);
                        }
                        Op::Compensation => self.compensation(plan, *call, found),
                    }
                    self.on_their_way.insert(*call);
                }
                _ => {}
            }
        }
    }

    fn compensation(&self, plan: &Plan, call: CallId, found: &mut Vec<String>) {
        if self.pivot_is_done {
            found.push("invariant 7: something is compensated after the pivot was done".to_owned());
        }
        let is_of = |step: u32| {
            self.on_their_way
                .iter()
                .any(|other| other.op == Op::Action && other.step == step)
        };
        if is_of(call.step) {
            found.push("invariant 5: a step is compensated while its action is on its way".to_owned());
        }
        for step in behind(plan, call.step as usize) {
            let step = u32::try_from(step).unwrap_or(u32::MAX);
            if is_of(step) {
                found.push("invariant 6: a step is compensated while one after it is on its way".to_owned());
            }
            let tried = self.tried.get(&step).into_iter().flatten();
            let mut left = tried.filter(|item| !self.compensated.contains(&(step, **item)));
            if plan.has_compensation(step as usize) && left.next().is_some() {
                found.push("invariant 6: a step is compensated before one after it".to_owned());
            }
        }
    }
}

/// All steps after one.
fn behind(plan: &Plan, step: usize) -> BTreeSet<usize> {
    let mut behind = BTreeSet::from([step]);
    // The order of the definition may be any.
    loop {
        let before = behind.len();
        for next in 0..plan.len() {
            if plan.after(next).iter().any(|before| behind.contains(before)) {
                behind.insert(next);
            }
        }
        if behind.len() == before {
            behind.remove(&step);
            return behind;
        }
    }
}

/// What participants have done, by how the run has ended: 1, 2, 3, 4.
fn of_effects(world: &World, run: RunId, plan: &Plan, events: &[(Time, &Event)]) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(Some(state)) = world.read(run) else {
        return found;
    };
    let skipped: BTreeSet<(u32, u32, Op)> = events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Operator {
                verb: Verb::Skip { call, .. },
                ..
            } => Some((call.step, call.item, call.op)),
            _ => None,
        })
        .collect();
    let cancelled = state.causes().iter().any(|cause| cause.what == What::Cancelled);
    let entries = world
        .participants
        .entries
        .range((run, 0, 0)..=(run, u32::MAX, u32::MAX));
    for ((_, step, item), entry) in entries.clone() {
        let name = || format!("step {step}, element {item}");
        if entry.is_hanging {
            found.push(format!("invariant 4: {} was done after its compensation", name()));
        }
        if entry.actions.values().any(|times| *times > 1) {
            found.push(format!("invariant 2: {} was done more than once", name()));
        }
        if entry.compensations > 1 {
            found.push(format!("invariant 3: {} was compensated more than once", name()));
        }
    }
    let is_forced = state.end().is_some_and(|end| end.is_forced);
    match state.status() {
        Status::Stuck if state.causes().is_empty() => {
            found.push("invariant 1: it is stuck without a cause".to_owned());
        }
        Status::Completed if !is_forced => {
            for (step, elements) in expected(plan, events) {
                for item in 0..elements {
                    let entry = world.participants.entries.get(&(run, step, item));
                    let is_done = entry.is_some_and(|entry| !entry.actions.is_empty());
                    if !is_done && !skipped.contains(&(step, item, Op::Action)) {
                        found.push(format!(
                            "invariant 2: completed, and step {step}, element {item} was never done"
                        ));
                    }
                    if entry.is_some_and(|entry| entry.compensations > 0) {
                        found.push(format!("invariant 2: completed, and step {step} was compensated"));
                    }
                }
            }
        }
        Status::Compensated if !is_forced => {
            for ((_, step, item), entry) in entries {
                let place = *step as usize;
                let is_safe = world.revisions[world.store.runs[&run].revision].0.steps[place].is_safe();
                let is_pivot =
                    world.revisions[world.store.runs[&run].revision].0.steps[place].kind == Kind::Pivot;
                let excused = is_safe
                    || skipped.contains(&(*step, *item, Op::Compensation))
                    // Who cancels with the pivot stuck says that it was not done.
                    || (is_pivot && cancelled);
                if entry.remains() && !excused {
                    found.push(format!(
                        "invariant 3: compensated, and what step {step}, element {item} did remains"
                    ));
                }
            }
        }
        _ => {}
    }
    found
}

/// The steps that are to be done, with how many elements each has, by the decisions in the log.
fn expected(plan: &Plan, events: &[(Time, &Event)]) -> BTreeMap<u32, u32> {
    let mut expected: BTreeMap<u32, u32> = (0..plan.len())
        .map(|step| (u32::try_from(step).unwrap_or(u32::MAX), 1))
        .collect();
    // Steps that could not be decided; who skips one has none of it done.
    let mut undecided = BTreeSet::new();
    for (_, event) in events {
        match event {
            Event::Decided { step, decision, .. } => {
                undecided.remove(step);
                let elements = match decision {
                    Decision::Skip => 0,
                    Decision::Items(count) => *count,
                    Decision::Once | Decision::Failed(_) => 1,
                };
                let most = plan.steps.get(*step as usize).map_or(0, |step| step.max_items);
                if matches!(decision, Decision::Failed(_)) || elements > most.max(1) {
                    undecided.insert(*step);
                }
                expected.insert(*step, elements);
            }
            Event::Operator {
                verb: Verb::Skip { call, .. },
                ..
            } if undecided.contains(&call.step) => {
                expected.insert(call.step, 0);
            }
            _ => {}
        }
    }
    expected
}
