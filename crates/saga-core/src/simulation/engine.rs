//! Engines: they append, sync, do effects, crash and take each other's runs over.

use std::collections::BTreeMap;

use super::{
    message::{Message, TimerKey, call_of, key_of},
    store::{RunId, Write},
    world::World,
};
use crate::{
    event::{Effect, Event, Payload, Time, Timer},
    log::{self, Record},
    mutation::{Mutation, is_on},
    run::{self, State},
};

/// An engine process.
pub(super) struct Engine {
    /// Grows with each crash: messages for an earlier process are lost.
    pub(super) generation: u64,
    pub(super) is_alive: bool,
    /// What it believes to own.
    pub(super) epoch: u64,
    /// How far its clock is ahead, in milliseconds.
    pub(super) offset: i64,
    pub(super) runs: BTreeMap<RunId, Live>,
    pub(super) unsynced: Vec<Write>,
    /// What is to be done when all of that is on disk.
    pub(super) then: Vec<Then>,
    pub(super) is_syncing: bool,
}

pub(super) struct Live {
    pub(super) state: State,
    pub(super) sequence: u64,
    pub(super) revision: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Then {
    Effect(RunId, Effect),
    Acknowledge(u64, RunId),
}

impl World {
    /// Any engine takes a start; the one that owns everything handles it.
    pub(super) fn start(&mut self, engine: usize, key: u64, input: u64) {
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

    pub(super) fn clock(&self, engine: usize) -> Time {
        Time(self.now.saturating_add_signed(self.engines[engine].offset))
    }

    /// Tells an engine of an event, if it is still the process that waits for it.
    pub(super) fn tell(&mut self, engine: usize, generation: u64, run: RunId, event: &Event) {
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

    pub(super) fn append(
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

    pub(super) fn sync(&mut self, engine: usize, generation: u64) {
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
        self.appends += 1;
        if let Some((append, is_stored)) = self.kill
            && append == self.appends
        {
            if is_stored {
                // Whether it is, nobody is left to know.
                let _ = self.store.sync(epoch, &writes);
            }
            self.crash(engine);
            return;
        }
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
    pub(super) fn compare(&mut self, engine: usize, run: RunId) {
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

    pub(super) fn perform(&mut self, engine: usize, then: Then) {
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
            Effect::Decide { step, incarnation } => {
                let decide = Message::Decide {
                    engine,
                    generation,
                    run,
                    step,
                    incarnation,
                };
                self.send(self.now + 1, decide);
            }
            Effect::Call {
                call,
                attempt,
                until,
                poll,
            } => {
                let call = key_of(call);
                self.post(&Message::Try {
                    engine,
                    generation,
                    run,
                    call,
                    attempt,
                    is_poll: poll.is_some(),
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

    pub(super) fn set_timer(
        &mut self,
        engine: usize,
        generation: u64,
        run: RunId,
        timer: TimerKey,
        until: u64,
    ) {
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

    pub(super) fn timer(&mut self, engine: usize, generation: u64, run: RunId, timer: TimerKey, until: u64) {
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

    pub(super) fn crash(&mut self, engine: usize) {
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

    pub(super) fn restart(&mut self, engine: usize) {
        self.engines[engine].is_alive = true;
        self.take_over(engine);
    }

    /// An engine claims everything, and goes on with what is under way.
    pub(super) fn take_over(&mut self, engine: usize) {
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
    pub(super) fn step_down(&mut self, engine: usize) {
        let process = &mut self.engines[engine];
        process.generation += 1;
        process.runs.clear();
        process.unsynced.clear();
        process.then.clear();
        process.is_syncing = false;
    }
}
