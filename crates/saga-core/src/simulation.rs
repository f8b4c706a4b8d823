//! A simulator: engines, their store, the network and participants in one thread, with everything that can go wrong.
//!
//! ```text
//! outbox --start--> engine --append, sync--> store        crashes: unsynced tail lost, last record torn
//!                     |  ^                                 another engine takes over; the former goes on for a while
//!                     v  |  lost, late, twice, in any order
//!                   network <--> participants (barrier)    errors before and after the effect, refusals, slow work
//! clocks jump; operators retry, skip, cancel and force
//! ```
//!
//! One seed is one history. After a while the faults stop, and what is left is judged by [`oracles`]: the invariants of sagas, each by
//! the records that are stored and the effects that participants have seen, not by what the engine thinks.
//!
//! **What it does not show**: PostgreSQL, HTTP, payloads, and engines that run in parallel on real processors. Those belong to
//! the engine's own tests.

pub mod exhaustive;
pub mod generate;
pub mod oracles;
pub mod participants;
pub mod random;
pub mod store;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt::Write as _,
};

use self::{
    participants::{Fate, Mishap, Participants},
    random::Random,
    store::{RunId, Store, Write},
};
use crate::{
    definition::{Definition, RetryCondition},
    event::{CallId, Decision, Effect, Event, Op, Outcome, Payload, Time, Timer, Verb},
    log::{self, Record},
    mutation::{Mutation, is_on},
    plan::Plan,
    run::{self, State, Status},
};

/// When the simulation begins.
const BEGIN: u64 = 1_700_000_000_000;
/// When faults stop, after the beginning.
const CALM: u64 = 10 * 60_000;
/// How long everything may take from then on.
const BOUND: u64 = 24 * 3_600_000;
/// Most events of one history; one that has more goes round in circles.
const MOST_EVENTS: u64 = 200_000;

/// How often what goes wrong, in a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// A message is lost.
    pub lost: u64,
    /// A message comes twice.
    pub twice: u64,
    /// A message is late: seconds, not milliseconds.
    pub late: u64,
    /// A participant errs, before or after the effect, or is slow.
    pub mishap: u64,
    /// A call is refused for good.
    pub refused: u64,
    /// An engine crashes, with each message that it gets.
    pub crash: u64,
    /// Another engine takes over while the first goes on.
    pub takeover: u64,
    /// A clock jumps.
    pub jump: u64,
    /// Somebody intervenes in a run, with each record of it.
    pub operator: u64,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        lost: 0,
        twice: 0,
        late: 0,
        mishap: 0,
        refused: 0,
        crash: 0,
        takeover: 0,
        jump: 0,
        operator: 0,
    };
    /// Everything does.
    pub const ALL: Self = Self {
        lost: 40,
        twice: 60,
        late: 50,
        mishap: 150,
        refused: 60,
        crash: 12,
        takeover: 8,
        jump: 10,
        operator: 10,
    };
}

/// How often what went wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that were lost.
    pub lost: u64,
    /// Messages that came twice.
    pub twice: u64,
    /// Tries with a mishap.
    pub mishaps: u64,
    /// Engines that crashed.
    pub crashes: u64,
    /// Records that a crash tore.
    pub torn: u64,
    /// Engines that took over from one that went on.
    pub takeovers: u64,
    /// Writes of earlier owners that the store refused.
    pub fenced: u64,
    /// Clocks that jumped.
    pub jumps: u64,
    /// Interventions.
    pub operators: u64,
    /// Runs by how they ended: completed, compensated, stuck.
    pub ends: [u64; 3],
    /// Records of all runs.
    pub records: u64,
    /// Starts that came again.
    pub starts_again: u64,
}

/// What is broken, in which history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// What.
    pub what: String,
    /// The history of the run that it is about.
    pub history: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}: {}\n{}", self.seed, self.what, self.history)
    }
}

/// One history.
pub struct World {
    pub(crate) seed: u64,
    random: Random,
    faults: Faults,
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Message)>>,
    sent: u64,
    pub(crate) store: Store,
    engines: Vec<Engine>,
    pub(crate) participants: Participants,
    /// Revisions of the definition, oldest first, with what runs of them are made of.
    pub(crate) revisions: Vec<(Definition, Plan)>,
    /// What services have committed: keys, with a digest of the input.
    pub(crate) outbox: BTreeMap<u64, u64>,
    /// Keys whose start was acknowledged, with the run.
    pub(crate) acknowledged: BTreeMap<u64, RunId>,
    /// Runs whose participants never answer until it is calm.
    poisoned: BTreeSet<RunId>,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<(RunId, String)>,
    next_run: RunId,
}

/// An engine process.
struct Engine {
    /// Grows with each crash: messages for an earlier process are lost.
    generation: u64,
    is_alive: bool,
    /// What it believes to own.
    epoch: u64,
    /// How far its clock is ahead, in milliseconds.
    offset: i64,
    runs: BTreeMap<RunId, Live>,
    unsynced: Vec<Write>,
    /// What is to be done when all of that is on disk.
    then: Vec<Then>,
    is_syncing: bool,
}

struct Live {
    state: State,
    sequence: u64,
    revision: usize,
}

#[derive(Debug, Clone)]
enum Then {
    Effect(RunId, Effect),
    Acknowledge(u64, RunId),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Message {
    /// The relay of the outbox sends a start.
    Relay(u64),
    /// A start reaches an engine.
    Start { engine: usize, key: u64, input: u64 },
    /// An engine's writes reach the disk.
    Sync { engine: usize, generation: u64 },
    /// A decision was made.
    Decide {
        engine: usize,
        generation: u64,
        run: RunId,
        step: u32,
    },
    /// A try reaches a participant.
    Try {
        engine: usize,
        generation: u64,
        run: RunId,
        call: CallKey,
        attempt: u32,
        revision: usize,
    },
    /// Its answer reaches the engine.
    Answer {
        engine: usize,
        generation: u64,
        run: RunId,
        call: CallKey,
        attempt: u32,
        outcome: usize,
    },
    /// A try has taken too long.
    Overdue {
        engine: usize,
        generation: u64,
        run: RunId,
        call: CallKey,
        attempt: u32,
    },
    /// A timer of an engine.
    Timer {
        engine: usize,
        generation: u64,
        run: RunId,
        timer: TimerKey,
        until: u64,
    },
    /// A crashed engine is back.
    Restart(usize),
    /// Somebody intervenes.
    Intervene { run: RunId, how: u64 },
}

type CallKey = (u32, u32, bool, u32);
type TimerKey = Option<(CallKey, u32)>;

const fn key_of(call: CallId) -> CallKey {
    let is_compensation = matches!(call.op, Op::Compensation);
    (call.step, call.item, is_compensation, call.incarnation)
}

const fn call_of((step, item, is_compensation, incarnation): CallKey) -> CallId {
    CallId {
        step,
        item,
        op: if is_compensation {
            Op::Compensation
        } else {
            Op::Action
        },
        incarnation,
    }
}

thread_local! {
    /// Outcomes under way; a message has the place.
    static OUTCOMES: std::cell::RefCell<Vec<Outcome>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Runs a history of a definition made up by the seed.
///
/// # Errors
/// An invariant is broken.
pub fn run(seed: u64, faults: Faults) -> Result<Counts, Violation> {
    let mut random = Random::new(seed);
    let definitions: Vec<Definition> = (0..2).map(|_| generate::definition(&mut random, 6)).collect();
    run_of(seed, faults, definitions)
}

/// Runs a history of a definition and its later revisions.
///
/// # Errors
/// An invariant is broken.
pub fn run_of(seed: u64, faults: Faults, definitions: Vec<Definition>) -> Result<Counts, Violation> {
    let mut world = World::new(seed, faults, definitions);
    world.play();
    oracles::judge(&mut world);
    world.verdict()
}

impl World {
    /// A world at its beginning.
    #[must_use]
    pub fn new(seed: u64, faults: Faults, definitions: Vec<Definition>) -> Self {
        OUTCOMES.with_borrow_mut(Vec::clear);
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
            store: Store::default(),
            engines: vec![engine(), engine()],
            participants: Participants::default(),
            revisions,
            outbox: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            poisoned: BTreeSet::new(),
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

    /// The participants of the first run never answer until it is calm.
    pub fn poison(&mut self) {
        self.poisoned.insert(1);
    }

    fn is_calm(&self) -> bool {
        self.now >= BEGIN + CALM
    }

    /// Whether something goes wrong that does so often in a thousand, before it is calm.
    fn fails(&mut self, often: u64) -> bool {
        let fails = self.random.permille(often);
        fails && !self.is_calm()
    }

    fn send(&mut self, at: u64, message: Message) {
        self.sent += 1;
        self.queue.push(Reverse((at, self.sent, message)));
    }

    /// A message over the network: it may be lost, late, or come twice.
    fn post(&mut self, message: Message) {
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
            self.happen(message);
        }
    }

    fn happen(&mut self, message: Message) {
        match message {
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
                revision,
            } => self.participate(engine, generation, run, call, attempt, revision),
            Message::Decide {
                engine,
                generation,
                run,
                step,
            } => {
                let decision = self.decision(run, step);
                self.tell(engine, generation, run, &Event::Decided { step, decision });
            }
            Message::Answer {
                engine,
                generation,
                run,
                call,
                attempt,
                outcome,
            } => {
                let outcome = OUTCOMES.with_borrow(|all| all[outcome].clone());
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
    fn relay(&mut self, key: u64) {
        if self.acknowledged.contains_key(&key) || !self.outbox.contains_key(&key) {
            return;
        }
        let input = self.outbox[&key];
        if is_on(Mutation::OutboxForgets) && self.fails(300) {
            return;
        }
        let engine = self.random.below(2) as usize;
        self.post(Message::Start { engine, key, input });
        let again = self.now + self.random.between(100, 5_000);
        self.send(again, Message::Relay(key));
    }

    /// Any engine takes a start; the one that owns everything handles it.
    fn start(&mut self, engine: usize, key: u64, input: u64) {
        let owner = (0..self.engines.len())
            .filter(|&engine| self.engines[engine].is_alive && self.engines[engine].epoch > 0)
            .max_by_key(|&engine| (self.engines[engine].epoch, engine == 0));
        let Some(engine) = owner.or(Some(engine)) else {
            return;
        };
        if !self.engines[engine].is_alive {
            return;
        }
        let pending = self.engines[engine].unsynced.iter().find_map(|write| {
            write
                .key
                .filter(|(known, _)| *known == key)
                .map(|(_, input)| (write.run, input))
        });
        let known = self.store.keys.get(&key).copied().or(pending);
        if let Some((run, digest)) = known.filter(|_| !is_on(Mutation::KeysAreForgotten)) {
            self.counts.starts_again += 1;
            if digest != input {
                self.violations
                    .push((run, "invariant 11: another input for the same key".to_owned()));
            }
            // Acknowledged when it is on disk.
            if self.store.keys.contains_key(&key) {
                self.acknowledged.insert(key, run);
            }
            return;
        }
        let run = self.next_run;
        self.next_run += 1;
        let revision = self.random.below(self.revisions.len() as u64) as usize;
        let event = Event::Started {
            input: Some(Payload::from(input.to_string().as_str())),
            seed: self.random.next(),
        };
        let now = self.clock(engine);
        let Ok((state, effects)) = run::start(&self.revisions[revision].1, &event, now) else {
            return;
        };
        let live = Live {
            state,
            sequence: 1,
            revision,
        };
        self.engines[engine].runs.insert(run, live);
        let record = Record {
            sequence: 0,
            at: now,
            event,
        };
        if is_on(Mutation::AcknowledgedBeforeStored) {
            self.acknowledged.insert(key, run);
        } else {
            self.engines[engine].then.push(Then::Acknowledge(key, run));
        }
        self.append(engine, run, revision, Some((key, input)), record, effects);
    }

    fn clock(&self, engine: usize) -> Time {
        Time(self.now.saturating_add_signed(self.engines[engine].offset))
    }

    /// Tells an engine of an event, if it is still the process that waits for it.
    fn tell(&mut self, engine: usize, generation: u64, run: RunId, event: &Event) {
        let process = &self.engines[engine];
        if !process.is_alive || process.generation != generation {
            return;
        }
        if self.fails(self.faults.crash) {
            self.crash(engine);
            return;
        }
        if self.fails(self.faults.takeover) {
            self.counts.takeovers += 1;
            self.take_over(1 - engine);
        }
        if self.fails(self.faults.jump) {
            self.counts.jumps += 1;
            let jump = self.random.between(0, 120_000) as i64 - 60_000;
            self.engines[engine].offset += jump;
        }
        let now = self.clock(engine);
        let Some(live) = self.engines[engine].runs.get_mut(&run) else {
            return;
        };
        let revision = if is_on(Mutation::NewestRevision) {
            self.revisions.len() - 1
        } else {
            live.revision
        };
        let plan = &self.revisions[revision].1;
        let mut effects = Vec::new();
        if live.state.apply(plan, event, now, &mut effects).is_err() {
            return;
        }
        let record = Record {
            sequence: live.sequence,
            at: live.state.now(),
            event: event.clone(),
        };
        live.sequence += 1;
        self.append(engine, run, revision, None, record, effects);
    }

    fn append(
        &mut self,
        engine: usize,
        run: RunId,
        revision: usize,
        key: Option<(u64, u64)>,
        record: Record,
        effects: Vec<Effect>,
    ) {
        self.counts.records += 1;
        let process = &mut self.engines[engine];
        process.unsynced.push(Write {
            run,
            revision,
            key,
            record,
        });
        process
            .then
            .extend(effects.into_iter().map(|effect| Then::Effect(run, effect)));
        if is_on(Mutation::EffectsBeforeEvents) {
            let then = std::mem::take(&mut self.engines[engine].then);
            for then in then {
                self.perform(engine, then);
            }
        }
        let process = &mut self.engines[engine];
        if !process.is_syncing {
            process.is_syncing = true;
            let generation = process.generation;
            let at = self.now + self.random.between(1, 8);
            self.send(at, Message::Sync { engine, generation });
        }
        if self.fails(self.faults.operator) {
            let at = self.now + self.random.between(1, 20_000);
            let how = self.random.next();
            self.send(at, Message::Intervene { run, how });
        }
    }

    fn sync(&mut self, engine: usize, generation: u64) {
        let process = &mut self.engines[engine];
        if !process.is_alive || process.generation != generation {
            return;
        }
        process.is_syncing = false;
        let (writes, then) = (
            std::mem::take(&mut process.unsynced),
            std::mem::take(&mut process.then),
        );
        let epoch = process.epoch;
        if self.store.sync(epoch, &writes).is_err() {
            self.counts.fenced += 1;
            self.step_down(engine);
            return;
        }
        for write in &writes {
            self.compare(engine, write.run);
        }
        for then in then {
            self.perform(engine, then);
        }
    }

    /// Invariant 9: what is stored is what is in memory.
    fn compare(&mut self, engine: usize, run: RunId) {
        let Some(live) = self.engines[engine].runs.get(&run) else {
            return;
        };
        let stored = &self.store.runs[&run];
        match self.read(run) {
            Ok(state) if state.as_ref() == Some(&live.state) => {}
            // What an earlier owner writes is another violation.
            _ if stored.epochs.windows(2).any(|pair| pair[0] > pair[1]) => {
                self.violations
                    .push((run, "invariant 10: an earlier owner wrote".to_owned()));
            }
            Ok(_) => self.violations.push((
                run,
                "invariant 9: the log has another state than the engine".to_owned(),
            )),
            Err(error) => self.violations.push((run, format!("invariant 9: {error}"))),
        }
    }

    /// A run as it is stored.
    pub(crate) fn read(&self, run: RunId) -> Result<Option<State>, String> {
        let Some(stored) = self.store.runs.get(&run) else {
            return Ok(None);
        };
        let contents = log::read(&stored.log).map_err(|error| error.to_string())?;
        let events = contents.records.iter().map(|record| (record.at, &record.event));
        run::replay(&self.revisions[stored.revision].1, events)
            .map_err(|(place, refused)| format!("record {place} does not fit: {refused}"))
    }

    fn perform(&mut self, engine: usize, then: Then) {
        let generation = self.engines[engine].generation;
        let (run, effect) = match then {
            Then::Acknowledge(key, run) => {
                self.acknowledged.insert(key, run);
                return;
            }
            Then::Effect(run, effect) => (run, effect),
        };
        let Some(revision) = self.engines[engine].runs.get(&run).map(|live| live.revision) else {
            return;
        };
        match effect {
            Effect::Decide { step } => {
                let at = self.now + 1;
                self.send(
                    at,
                    Message::Decide {
                        engine,
                        generation,
                        run,
                        step,
                    },
                );
            }
            Effect::Call {
                call, attempt, until, ..
            } => {
                let call = key_of(call);
                self.post(Message::Try {
                    engine,
                    generation,
                    run,
                    call,
                    attempt,
                    revision,
                });
                let left = until.0.saturating_sub(self.clock(engine).0);
                let overdue = Message::Overdue {
                    engine,
                    generation,
                    run,
                    call,
                    attempt,
                };
                self.send(self.now + left.max(1), overdue);
            }
            Effect::Wait { timer, until } => {
                let timer = match timer {
                    Timer::Deadline => None,
                    Timer::Try { call, attempt } => Some((key_of(call), attempt)),
                };
                self.set_timer(engine, generation, run, timer, until.0);
            }
            // Somebody looks after it, sooner or later.
            Effect::Stuck => {
                let at = self.now + self.random.between(1_000, 60_000);
                let how = self.random.next();
                if self.random.permille(700) {
                    self.send(at, Message::Intervene { run, how });
                }
            }
            Effect::Ended(_) => {}
        }
    }

    fn set_timer(&mut self, engine: usize, generation: u64, run: RunId, timer: TimerKey, until: u64) {
        let left = until.saturating_sub(self.clock(engine).0);
        // Clocks are not exact: sometimes a timer fires early, sometimes twice.
        let early = if self.fails(30) { self.random.below(50) } else { 0 };
        let message = Message::Timer {
            engine,
            generation,
            run,
            timer,
            until,
        };
        if self.fails(20) {
            self.send(self.now + left + 5, message.clone());
        }
        self.send(self.now + left.saturating_sub(early), message);
    }

    fn timer(&mut self, engine: usize, generation: u64, run: RunId, timer: TimerKey, until: u64) {
        let process = &self.engines[engine];
        if !process.is_alive || process.generation != generation {
            return;
        }
        let event = Event::TimerFired(match timer {
            None => Timer::Deadline,
            Some((call, attempt)) => Timer::Try {
                call: call_of(call),
                attempt,
            },
        });
        let before = self.clock(engine).0;
        self.tell(engine, generation, run, &event);
        if before.min(self.clock(engine).0) < until {
            // It was refused, or may have been; it is waited for once more.
            let wait = until.saturating_sub(self.clock(engine).0).max(1);
            self.send(
                self.now + wait,
                Message::Timer {
                    engine,
                    generation,
                    run,
                    timer,
                    until,
                },
            );
        }
    }

    fn participate(
        &mut self,
        engine: usize,
        generation: u64,
        run: RunId,
        key: CallKey,
        attempt: u32,
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
        let place = [
            run,
            u64::from(key.0),
            u64::from(key.1),
            u64::from(key.2),
            u64::from(key.3),
        ];
        let refuses = Random::about(self.seed, &place).permille(match call.op {
            Op::Action => self.faults.refused,
            Op::Compensation => self.faults.refused / 4,
        });
        let fate = if refuses { Fate::Refuses } else { Fate::Works };
        let mishap = if self.fails(self.faults.mishap) {
            self.counts.mishaps += 1;
            match self.random.below(4) {
                0 => Mishap::ErrorBefore,
                1 => Mishap::ErrorAfter,
                2 => Mishap::Throttled,
                _ => Mishap::Pending,
            }
        } else {
            Mishap::None
        };
        let outcome = self.participants.take(run, call, fate, mishap, &mut self.random);
        let outcome = OUTCOMES.with_borrow_mut(|all| {
            all.push(outcome);
            all.len() - 1
        });
        self.post(Message::Answer {
            engine,
            generation,
            run,
            call: key,
            attempt,
            outcome,
        });
    }

    /// The same whenever it is asked.
    fn decision(&self, run: RunId, step: u32) -> Decision {
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

    fn intervene(&mut self, run: RunId, how: u64) {
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

    fn crash(&mut self, engine: usize) {
        self.counts.crashes += 1;
        let process = &mut self.engines[engine];
        process.is_alive = false;
        process.generation += 1;
        process.is_syncing = false;
        process.runs.clear();
        process.then.clear();
        let writes = std::mem::take(&mut process.unsynced);
        let epoch = process.epoch;
        self.counts.torn += u64::from(!writes.is_empty());
        self.store.crash(epoch, &writes, &mut self.random);
        let at = self.now + self.random.between(10, 10_000);
        self.send(at, Message::Restart(engine));
    }

    fn restart(&mut self, engine: usize) {
        self.engines[engine].is_alive = true;
        self.take_over(engine);
    }

    /// An engine claims everything, and goes on with what is under way.
    fn take_over(&mut self, engine: usize) {
        if !self.engines[engine].is_alive {
            return;
        }
        let epoch = self.store.claim();
        let process = &mut self.engines[engine];
        process.generation += 1;
        process.epoch = epoch;
        process.is_syncing = false;
        process.unsynced.clear();
        process.then.clear();
        process.runs.clear();
        let runs: Vec<RunId> = self.store.runs.keys().copied().collect();
        for run in runs {
            let state = match self.read(run) {
                Ok(Some(state)) => state,
                Ok(None) => continue,
                Err(error) => {
                    self.violations.push((run, format!("invariant 8: {error}")));
                    return;
                }
            };
            let stored = &self.store.runs[&run];
            let records = log::read(&stored.log).map_or(0, |contents| contents.records.len() as u64);
            let revision = stored.revision;
            let outstanding = state.outstanding(&self.revisions[revision].1, self.clock(engine));
            let live = Live {
                state,
                sequence: records,
                revision,
            };
            self.engines[engine].runs.insert(run, live);
            for effect in outstanding {
                self.perform(engine, Then::Effect(run, effect));
            }
        }
    }

    /// An engine that was fenced drops everything and claims again after a while, so that somebody always does.
    fn step_down(&mut self, engine: usize) {
        let process = &mut self.engines[engine];
        process.generation += 1;
        process.runs.clear();
        process.unsynced.clear();
        process.then.clear();
        process.is_syncing = false;
    }

    fn verdict(&mut self) -> Result<Counts, Violation> {
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
