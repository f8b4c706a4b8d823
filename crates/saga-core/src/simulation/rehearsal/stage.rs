//! The stage of a rehearsal: one engine, its log, participants, and a clock that goes from event to event.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value as Json;

use super::{At, BEGIN, Behaviour, Fault, Line, MOST_EVENTS, OUTAGE, RUN, Rehearsal};
use crate::{
    data,
    definition::RetryCondition,
    event::{CallId, Decision, Effect, Event, Op, Outcome, Payload, Time, Timer},
    log::{self, Record},
    plan::Plan,
    program::Program,
    random::Random,
    run::{self, State, Status},
    simulation::{
        oracles,
        participants::{Fate, Mishap, Participants},
        sample::{self, Variant},
    },
};

/// What a rehearsed run is known by.
const RUN_OF: data::Run<'_> = data::Run {
    id: "0198c1de-run",
    revision: "rehearsal",
    started_at: "2026-01-01T00:00:00Z",
};

pub(super) struct Stage<'a> {
    pub(super) program: &'a Program,
    pub(super) plan: &'a Plan,
    pub(super) schedule: &'a [At],
    pub(super) variant: Variant,
    pub(super) behaviour: Behaviour,
    pub(super) now: u64,
    pub(super) input: Option<Json>,
    pub(super) participants: Participants,
    /// What participants without a barrier have done: actions and compensations, by place.
    pub(super) naive: BTreeMap<(u32, u32), (u32, u32)>,
    pub(super) log: Vec<u8>,
    pub(super) records: Vec<Record>,
    pub(super) pending: VecDeque<Effect>,
    pub(super) timers: BTreeSet<(Time, Timer)>,
    /// Requests that arrive once more at the end.
    pub(super) copies: Vec<CallId>,
    /// Faults at calls that have happened: those of one try.
    pub(super) hit: BTreeSet<(Fault, CallId)>,
    pub(super) timeline: Vec<Line>,
    pub(super) problems: Vec<String>,
}

impl Stage<'_> {
    pub(super) fn play(&mut self) -> Option<State> {
        let begin = Event::Started {
            input: self
                .input
                .as_ref()
                .map(|input| Payload::from(input.to_string().as_str())),
            seed: 1,
        };
        let (mut state, effects) = run::start(self.plan, &begin, Time(self.now)).ok()?;
        self.append(begin, Time(self.now));
        self.say("run", "starts".to_owned());
        self.take(effects);
        for _ in 0..MOST_EVENTS {
            let event = match self.pending.pop_front() {
                Some(effect) => match self.perform(&state, &effect) {
                    Some(event) => event,
                    None => continue,
                },
                None => {
                    let Some((until, timer)) = self.timers.pop_first() else {
                        return Some(state);
                    };
                    self.now = self.now.max(until.0);
                    Event::TimerFired(timer)
                }
            };
            let crashes = self.crashes(&event);
            // A timer of what is over is refused, and changes nothing.
            let mut effects = Vec::new();
            let status = state.status();
            if state
                .apply(self.plan, &event, Time(self.now), &mut effects)
                .is_err()
            {
                continue;
            }
            if crashes {
                state = self.restart()?;
                continue;
            }
            self.append(event, state.now());
            if status == Status::Running && state.status() == Status::Compensating {
                let why = state.causes().last().map_or("", |cause| cause.what.as_ref());
                self.say("run", format!("turns round: {why}"));
            }
            self.take(effects);
            if state.end().is_some() {
                self.pending.retain(|effect| matches!(effect, Effect::Ended(_)));
                self.timers.clear();
            }
        }
        self.problems.push("the run does not come to an end".to_owned());
        Some(state)
    }

    fn say(&mut self, about: &str, what: String) {
        self.timeline.push(Line {
            at: self.now - BEGIN,
            about: about.to_owned(),
            what,
        });
    }

    fn append(&mut self, event: Event, at: Time) {
        let record = Record {
            sequence: self.records.len() as u64,
            at,
            event,
        };
        log::append(&record, &mut self.log);
        self.records.push(record);
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Wait { timer, until } => {
                    self.timers.insert((until, timer));
                }
                effect => self.pending.push_back(effect),
            }
        }
    }

    /// Whether the engine dies before it has recorded this.
    fn crashes(&mut self, event: &Event) -> bool {
        let Event::Answered { call, .. } = event else {
            return false;
        };
        self.is_at(Fault::Crash, *call) && self.hit.insert((Fault::Crash, *call))
    }

    /// Another engine goes on by the log.
    fn restart(&mut self) -> Option<State> {
        self.say("run", "the engine dies, and goes on by its log".to_owned());
        self.pending.clear();
        self.timers.clear();
        let contents = log::read(&self.log).ok()?;
        let events = contents.records.iter().map(|record| (record.at, &record.event));
        let state = run::replay(self.plan, events).ok()??;
        let effects = state.outstanding(self.plan, Time(self.now));
        self.take(effects);
        Some(state)
    }

    fn is_at(&self, fault: Fault, call: CallId) -> bool {
        let at = At {
            fault,
            step: call.step as usize,
            op: call.op,
        };
        self.schedule.contains(&at)
    }

    fn name(&self, step: usize) -> String {
        self.program.definition.steps[step].name.clone()
    }

    fn perform(&mut self, state: &State, effect: &Effect) -> Option<Event> {
        match *effect {
            Effect::Decide { step, incarnation } => {
                let decision = self.decide(state, step as usize);
                self.say(
                    &self.name(step as usize),
                    format!("is decided: {}", shown(&decision)),
                );
                Some(Event::Decided {
                    step,
                    incarnation,
                    decision,
                })
            }
            Effect::Call { call, attempt, .. } => {
                let outcome = self.call(state, call, attempt);
                Some(Event::Answered {
                    call,
                    attempt,
                    outcome,
                })
            }
            Effect::Stuck => {
                self.say("run", "needs an operator".to_owned());
                None
            }
            Effect::Ended(end) => {
                let how = if end.is_completed {
                    "completed"
                } else {
                    "compensated"
                };
                self.say("run", format!("is {how}"));
                None
            }
            Effect::Wait { .. } => None,
        }
    }

    fn decide(&mut self, state: &State, step: usize) -> Decision {
        let decision = self.program.decide(state, RUN_OF, step);
        if let Decision::Failed(error) = &decision {
            let place = format!("spec.steps[{step}]: {error}, with input {}", self.shown_input());
            self.problems.push(place);
        }
        decision
    }

    fn shown_input(&self) -> String {
        let text = self
            .input
            .as_ref()
            .map_or_else(|| "none".to_owned(), Json::to_string);
        match text.char_indices().nth(200) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text,
        }
    }

    fn call(&mut self, state: &State, call: CallId, attempt: u32) -> Outcome {
        let step = call.step as usize;
        let definition = &self.program.definition.steps[step];
        let (field, target) = match call.op {
            Op::Action => ("action", Some(&definition.action)),
            Op::Compensation => ("compensation", definition.compensation.as_ref()),
        };
        let request = match self.program.request(state, RUN_OF, call, attempt) {
            Ok(request) => request,
            Err(error) => {
                let input = self.shown_input();
                self.problems
                    .push(format!("spec.steps[{step}].{field}: {error}, with input {input}"));
                return Outcome::Failed(error.to_string().into());
            }
        };
        let (Some(request), Some(target)) = (request, target) else {
            return Outcome::Failed("there is no such call".into());
        };
        let sent = format!(
            "{} {} {}{}",
            target.call.method,
            target.call.microservice,
            request.path,
            if attempt > 1 {
                format!(" (try {attempt})")
            } else {
                String::new()
            }
        );
        let outcome = self.answer(call);
        let what = match call.op {
            Op::Action => "action",
            Op::Compensation => "compensation",
        };
        let item = if self.program.definition.steps[step].for_each.is_some() {
            format!("[{}]", call.item)
        } else {
            String::new()
        };
        let line = format!("{what}{item} {sent}: {}", shown_outcome(&outcome));
        self.say(&self.name(step), line);
        outcome
    }

    fn answer(&mut self, call: CallId) -> Outcome {
        let lost = |detail: &str| Outcome::Retry {
            condition: RetryCondition::Timeout,
            after: None,
            detail: detail.into(),
        };
        if self.is_at(Fault::Refusal, call) {
            return Outcome::Failed("422".into());
        }
        if self.is_at(Fault::Outage, call) && self.now < BEGIN + OUTAGE {
            if self.hit.insert((Fault::Outage, call)) {
                self.act(call);
            }
            return lost("no answer");
        }
        let answer = self.act(call);
        if self.is_at(Fault::Timeout, call) && self.hit.insert((Fault::Timeout, call)) {
            return lost("the answer is lost");
        }
        if self.is_at(Fault::Duplicate, call) && self.hit.insert((Fault::Duplicate, call)) {
            self.act(call);
            self.copies.push(call);
        }
        answer
    }

    /// The participant acts.
    fn act(&mut self, call: CallId) -> Outcome {
        let answer = match self.behaviour {
            Behaviour::Barrier => {
                let mut random = Random::new(0);
                self.participants
                    .take(RUN, call, false, (Fate::Works, Mishap::None), &mut random)
            }
            Behaviour::Naive => {
                let done = self.naive.entry((call.step, call.item)).or_default();
                match call.op {
                    Op::Action => done.0 += 1,
                    Op::Compensation => done.1 += 1,
                }
                Outcome::Done(None)
            }
        };
        match (answer, call.op) {
            (Outcome::Done(_), Op::Action) => Outcome::Done(self.output(call)),
            (answer, _) => answer,
        }
    }

    /// What a participant answers: the same for the same element.
    fn output(&self, call: CallId) -> Option<Payload> {
        let schema = &self.program.definition.steps[call.step as usize]
            .output
            .as_ref()?
            .schema;
        let variant = match self.variant {
            Variant::Random(seed) => {
                let place = [u64::from(call.step), u64::from(call.item)];
                Variant::Random(Random::about(seed, &place).next())
            }
            other => other,
        };
        Some(Payload::from(sample::value(schema, variant).to_string().as_str()))
    }

    pub(super) fn judge(mut self, state: Option<State>) -> Rehearsal {
        for copy in std::mem::take(&mut self.copies) {
            self.act(copy);
        }
        let status = state.as_ref().map_or(Status::Stuck, State::status);
        let events: Vec<(Time, &Event)> = self
            .records
            .iter()
            .map(|record| (record.at, &record.event))
            .collect();
        let mut problems = oracles::of_records(self.plan, &events);
        match status {
            Status::Completed => problems.extend(self.twice()),
            Status::Compensated => problems.extend(self.remains()),
            Status::Running | Status::Compensating => {
                problems.push("the run has neither ended nor got stuck".to_owned());
            }
            Status::Stuck => {}
        }
        problems.append(&mut self.problems);
        let mut seen = BTreeSet::new();
        problems.retain(|problem| seen.insert(problem.clone()));
        Rehearsal {
            schedule: self.schedule.to_vec(),
            status,
            causes: state.map_or_else(Vec::new, |state| state.causes().to_vec()),
            problems,
            timeline: self.timeline,
        }
    }

    /// Effects that are there more than once.
    fn twice(&self) -> Vec<String> {
        let of = |step: u32| self.name(step as usize);
        let naive = self
            .naive
            .iter()
            .filter(|((step, _), done)| {
                done.0 > 1 && !self.program.definition.steps[*step as usize].is_safe()
            })
            .map(|((step, _), done)| format!("{} took effect {} times", of(*step), done.0));
        let barrier = self
            .participants
            .entries
            .iter()
            .filter(|(_, entry)| entry.actions.values().any(|times| *times > 1))
            .map(|((_, step, _), _)| format!("{} took effect more than once", of(*step)));
        naive.chain(barrier).collect()
    }

    /// Effects that are there although the run was compensated.
    fn remains(&self) -> Vec<String> {
        let steps = &self.program.definition.steps;
        let of = |step: u32| {
            let step = &steps[step as usize];
            (!step.is_safe())
                .then(|| format!("what {} did remains, although the run was compensated", step.name))
        };
        let naive = self.naive.iter().filter(|(_, done)| done.0 != done.1);
        let barrier = self
            .participants
            .entries
            .iter()
            .filter(|(_, entry)| entry.remains() || entry.is_hanging);
        naive
            .filter_map(|((step, _), _)| of(*step))
            .chain(barrier.filter_map(|((_, step, _), _)| of(*step)))
            .collect()
    }
}

fn shown(decision: &Decision) -> String {
    match decision {
        Decision::Skip => "not done".to_owned(),
        Decision::Once => "done".to_owned(),
        Decision::Items(count) => format!("{count} elements"),
        Decision::Failed(detail) => detail.to_string(),
    }
}

fn shown_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(_) => "done".to_owned(),
        Outcome::Pending { .. } => "worked on".to_owned(),
        Outcome::Failed(detail) => format!("refused, {detail}"),
        Outcome::Retry { detail, .. } => detail.to_string(),
    }
}
