//! One history: what happens when, and what goes wrong.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt::Write as _,
};

use super::{
    Counts, Faults, Violation,
    engine::Engine,
    message::{CallKey, Message, call_of},
    participants::{Fate, Mishap, Participants},
    store::{RunId, Store},
};
use crate::{
    definition::{Definition, RetryCondition},
    event::{Decision, Event, Op, Outcome, Time, Verb},
    log,
    mutation::{Mutation, is_on},
    plan::Plan,
    random::Random,
    run::Status,
};

/// When the simulation begins.
const BEGIN: u64 = 1_700_000_000_000;
/// When faults stop, after the beginning.
const CALM: u64 = 10 * 60_000;
/// How long everything may take from then on.
const BOUND: u64 = 24 * 3_600_000;
/// Most events of one history; one that has more goes round in circles.
const MOST_EVENTS: u64 = 200_000;

/// One history.
pub struct World {
    pub(super) seed: u64,
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) now: u64,
    pub(super) queue: BinaryHeap<Reverse<(u64, u64, Message)>>,
    pub(super) sent: u64,
    pub(super) store: Store,
    pub(super) engines: Vec<Engine>,
    pub(super) participants: Participants,
    /// What participants have answered; a message has the place.
    pub(super) outcomes: Vec<Outcome>,
    /// Revisions of the definition, oldest first, with what runs of them are made of.
    pub(super) revisions: Vec<(Definition, Plan)>,
    /// What services have committed: keys, with a digest of the input.
    pub(super) outbox: BTreeMap<u64, u64>,
    /// Keys whose start was acknowledged, with the run.
    pub(super) acknowledged: BTreeMap<u64, RunId>,
    /// Runs whose participants never answer until it is calm.
    pub(super) poisoned: BTreeSet<RunId>,
    /// The append at which the engine is killed, and whether it is stored before.
    pub(super) kill: Option<(u64, bool)>,
    /// Appends so far.
    pub(super) appends: u64,
    pub(super) counts: Counts,
    pub(super) violations: Vec<(RunId, String)>,
    pub(super) next_run: RunId,
}

impl World {
    /// A world at its beginning.
    #[must_use]
    pub fn new(seed: u64, faults: Faults, definitions: Vec<Definition>) -> Self {
        Self::on(Store::default(), seed, faults, definitions)
    }

    /// A world at its beginning, with a store.
    #[must_use]
    pub fn on(store: Store, seed: u64, faults: Faults, definitions: Vec<Definition>) -> Self {
        let mut random = Random::new(seed ^ 0x5a6a);
        let revisions = definitions
            .into_iter()
            .filter_map(|definition| {
                let plan = Plan::new(&definition)?;
                Some((definition, plan))
            })
            .collect();
        let engine = || Engine {
            generation: 0,
            is_alive: true,
            epoch: 0,
            offset: 0,
            runs: BTreeMap::new(),
            unsynced: Vec::new(),
            then: Vec::new(),
            is_syncing: false,
        };
        let mut world = Self {
            seed,
            faults,
            now: BEGIN,
            queue: BinaryHeap::new(),
            sent: 0,
            store,
            engines: vec![engine(), engine()],
            participants: Participants::default(),
            outcomes: Vec::new(),
            revisions,
            outbox: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            poisoned: BTreeSet::new(),
            kill: None,
            appends: 0,
            counts: Counts::default(),
            violations: Vec::new(),
            next_run: 1,
            random: random.clone(),
        };
        world.take_over(0);
        for key in 0..random.between(1, 4) {
            let input = random.next();
            world.outbox.insert(key, input);
            let at = BEGIN + random.below(60_000);
            world.send(at, Message::Relay(key));
        }
        world.random = random;
        world
    }

    /// Kills the engine at an append, before or after it is stored.
    pub const fn kill_at(&mut self, append: u64, is_stored: bool) {
        self.kill = Some((append, is_stored));
    }

    /// Appends so far.
    #[must_use]
    pub const fn appends(&self) -> u64 {
        self.appends
    }

    /// The participants of the first run never answer until it is calm.
    pub fn poison(&mut self) {
        self.poisoned.insert(1);
    }

    pub(super) fn is_calm(&self) -> bool {
        self.now >= BEGIN + CALM
    }

    /// Whether something goes wrong that does so often in a thousand, before it is calm.
    pub(super) fn fails(&mut self, often: u64) -> bool {
        let fails = self.random.permille(often);
        fails && !self.is_calm()
    }

    pub(super) fn send(&mut self, at: u64, message: Message) {
        self.sent += 1;
        self.queue.push(Reverse((at, self.sent, message)));
    }

    /// A message over the network: it may be lost, late, or come twice.
    pub(super) fn post(&mut self, message: &Message) {
        if self.fails(self.faults.lost) {
            self.counts.lost += 1;
            return;
        }
        let copies = if self.fails(self.faults.twice) {
            self.counts.twice += 1;
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = if self.fails(self.faults.late) {
                self.random.between(1_000, 30_000)
            } else {
                self.random.between(1, 20)
            };
            self.send(self.now + delay, message.clone());
        }
    }

    /// Goes on until nothing is left to happen.
    pub fn play(&mut self) {
        let mut events = 0;
        while let Some(Reverse((at, _, message))) = self.queue.pop() {
            self.now = self.now.max(at);
            events += 1;
            if events > MOST_EVENTS || self.now > BEGIN + CALM + BOUND {
                self.violations
                    .push((0, "invariant 14: it does not come to an end".to_owned()));
                return;
            }
            if !self.violations.is_empty() {
                return;
            }
            self.happen(&message);
        }
    }

    pub(super) fn happen(&mut self, message: &Message) {
        match *message {
            Message::Relay(key) => self.relay(key),
            Message::Start { engine, key, input } => self.start(engine, key, input),
            Message::Sync { engine, generation } => self.sync(engine, generation),
            Message::Restart(engine) => self.restart(engine),
            Message::Intervene { run, how } => self.intervene(run, how),
            Message::Try {
                engine,
                generation,
                run,
                call,
                attempt,
                is_poll,
                revision,
            } => {
                let to = (engine, generation);
                self.participate(to, run, (call, attempt, is_poll), revision);
            }
            Message::Decide {
                engine,
                generation,
                run,
                step,
                incarnation,
            } => {
                let event = Event::Decided {
                    step,
                    incarnation,
                    decision: self.decision(run, step),
                };
                self.tell(engine, generation, run, &event);
            }
            Message::Answer {
                engine,
                generation,
                run,
                call,
                attempt,
                outcome,
            } => {
                let outcome = self.outcomes[outcome].clone();
                let call = call_of(call);
                let event = Event::Answered {
                    call,
                    attempt,
                    outcome,
                };
                self.tell(engine, generation, run, &event);
            }
            Message::Overdue {
                engine,
                generation,
                run,
                call,
                attempt,
            } => {
                let event = Event::Answered {
                    call: call_of(call),
                    attempt,
                    outcome: Outcome::Retry {
                        condition: RetryCondition::Timeout,
                        after: None,
                        detail: "no answer in time".into(),
                    },
                };
                self.tell(engine, generation, run, &event);
            }
            Message::Timer {
                engine,
                generation,
                run,
                timer,
                until,
            } => self.timer(engine, generation, run, timer, until),
        }
    }

    /// The service's relay: at least once.
    pub(super) fn relay(&mut self, key: u64) {
        if self.acknowledged.contains_key(&key) || !self.outbox.contains_key(&key) {
            return;
        }
        let input = self.outbox[&key];
        if is_on(Mutation::OutboxForgets) && self.fails(300) {
            return;
        }
        let engine = self.random.below(2) as usize;
        self.post(&Message::Start { engine, key, input });
        let again = self.now + self.random.between(100, 5_000);
        self.send(again, Message::Relay(key));
    }

    pub(super) fn participate(
        &mut self,
        (engine, generation): (usize, u64),
        run: RunId,
        (key, attempt, is_poll): (CallKey, u32, bool),
        revision: usize,
    ) {
        let call = call_of(key);
        if self.poisoned.contains(&run) && !self.is_calm() {
            return;
        }
        if self
            .store
            .runs
            .get(&run)
            .is_some_and(|stored| stored.revision != revision)
        {
            self.violations.push((
                run,
                "invariant 13: a step of another revision is called".to_owned(),
            ));
        }
        // Whoever asks a second time may be answered otherwise: somebody has bought the last one.
        let refused = match call.op {
            Op::Action => self.faults.refused / 2,
            Op::Compensation => self.faults.refused / 8,
        };
        let fate = if self.random.permille(refused) {
            Fate::Refuses
        } else {
            Fate::Works
        };
        let mishap = if self.fails(self.faults.mishap) {
            self.counts.mishaps += 1;
            match self.random.below(5) {
                0 => Mishap::ErrorBefore,
                1 => Mishap::ErrorAfter,
                2 => Mishap::Throttled,
                3 => Mishap::Forgotten,
                _ => Mishap::Pending,
            }
        } else {
            Mishap::None
        };
        let outcome = self
            .participants
            .take(run, call, is_poll, (fate, mishap), &mut self.random);
        self.outcomes.push(outcome);
        let outcome = self.outcomes.len() - 1;
        self.post(&Message::Answer {
            engine,
            generation,
            run,
            call: key,
            attempt,
            outcome,
        });
    }

    /// The same whenever it is asked.
    pub(super) fn decision(&self, run: RunId, step: u32) -> Decision {
        let mut random = Random::about(self.seed, &[run, u64::from(step), 77]);
        let revision = self.store.runs.get(&run).map_or(0, |stored| stored.revision);
        let Some(definition) = self.revisions[revision].0.steps.get(step as usize) else {
            return Decision::Once;
        };
        if definition.when.is_some() && random.permille(400) {
            return Decision::Skip;
        }
        if random.permille(self.faults.refused / 2) {
            return Decision::Failed("division_by_zero".into());
        }
        match definition.for_each {
            Some(_) if random.permille(self.faults.refused) => Decision::Items(5),
            Some(_) => Decision::Items(random.below(5) as u32),
            None => Decision::Once,
        }
    }

    pub(super) fn intervene(&mut self, run: RunId, how: u64) {
        let Some(engine) = (0..self.engines.len()).find(|&engine| {
            let process = &self.engines[engine];
            process.is_alive && process.epoch == self.store.epoch && process.runs.contains_key(&run)
        }) else {
            return;
        };
        let state = &self.engines[engine].runs[&run].state;
        let stuck = state.stuck_calls();
        let step =
            (how >> 8) as u32 % self.revisions[self.engines[engine].runs[&run].revision].1.len() as u32;
        let verb = match how % 10 {
            0 => Verb::Cancel,
            1 => Verb::ForceComplete,
            2 | 3 => Verb::RetryFrom { step },
            4 | 5 => match stuck.first() {
                Some(call) => Verb::Skip {
                    call: *call,
                    output: None,
                },
                None => Verb::Retry,
            },
            _ => Verb::Retry,
        };
        self.counts.operators += 1;
        let event = Event::Operator {
            verb,
            by: "operator".into(),
            reason: "simulation".into(),
        };
        let generation = self.engines[engine].generation;
        self.tell(engine, generation, run, &event);
    }

    /// What was counted, or what is broken.
    ///
    /// # Errors
    /// An invariant is broken.
    pub fn verdict(&mut self) -> Result<Counts, Violation> {
        match self.violations.first().cloned() {
            None => Ok(self.counts),
            Some((run, what)) => Err(Violation {
                seed: self.seed,
                history: self.history(run),
                what,
            }),
        }
    }

    /// The records of a run, a line each.
    #[must_use]
    pub fn history(&self, run: RunId) -> String {
        let mut text = String::new();
        let Some(stored) = self.store.runs.get(&run) else {
            return text;
        };
        if let Some((definition, _)) = self.revisions.get(stored.revision) {
            for step in &definition.steps {
                let _ = writeln!(
                    text,
                    "  step {} {:?} after {:?}{}{}",
                    step.name,
                    step.kind,
                    step.after,
                    if step.when.is_some() { ", when" } else { "" },
                    if step.for_each.is_some() { ", forEach" } else { "" }
                );
            }
        }
        for record in log::read(&stored.log)
            .map(|contents| contents.records)
            .unwrap_or_default()
        {
            let _ = writeln!(
                text,
                "  {:>8} ms  {:?}",
                record.at.0.saturating_sub(BEGIN),
                record.event
            );
        }
        if let Ok(Some(state)) = self.read(run) {
            let _ = writeln!(text, "  {} {:?}", state.status().as_ref(), state.causes());
        }
        text
    }

    /// When each run has ended, or got stuck.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<RunId, (Status, Time)> {
        let mut ends = BTreeMap::new();
        for &run in self.store.runs.keys() {
            if let Ok(Some(state)) = self.read(run) {
                ends.insert(run, (state.status(), state.now));
            }
        }
        ends
    }
}
