//! The runs of some partitions: one task that decides on events in memory, appends what was decided in batches, and acts on it when
//! that is committed.
//!
//! ```text
//! message --> event --> State::apply --> record --\
//!                                    --> effects --+--> batch --append--> committed: effects, replies
//! ```
//!
//! One append is under way at a time; what happens meanwhile is the next one. So a single run waits for nobody, and many runs share
//! commits. If the store does not answer, what it has is not known: everything of the partitions of that append is dropped, to be
//! claimed and read anew.

mod append;
mod effects;
mod live;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::OptionFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time,
};
use trellis_saga_core::{
    definition::RetryCondition,
    event::{CallId, Effect, Event, Op, Outcome, Payload, Time, Timer, Verb},
    log,
    run::{self, Refused},
};

use self::{
    append::{Batch, UnderWay},
    live::Live,
};
use crate::{
    admission::Room,
    definitions::{Compiled, Definitions},
    id::{Partition, RunId},
    lanes::Lanes,
    observe::Observe,
    participants::Participants,
    store::{Claim, Error, Key, Start, Store, Stored},
};

/// Messages that are taken at once.
const MOST_AT_ONCE: usize = 1024;

/// What a shard is told.
pub enum Message {
    /// Partitions that were claimed, and their runs; told when they are looked after.
    Own(Vec<Claim>, Vec<Stored>, oneshot::Sender<()>),
    /// Partitions that are given up; told when nothing of them is acted on any more.
    Disown(Vec<Partition>, oneshot::Sender<()>),
    /// A run is to begin.
    Start(NewRun, oneshot::Sender<Result<RunId, StartError>>),
    /// Something has happened to a run.
    Happened(RunId, Event),
    /// An operator intervenes.
    Intervene(Intervention, oneshot::Sender<Result<(), VerbError>>),
    /// Somebody wants to know when a run has ended.
    Wait(RunId, oneshot::Sender<()>),
}

/// A run that is to begin.
pub struct NewRun {
    /// In which partition.
    pub partition: Partition,
    /// What it is made of.
    pub compiled: Arc<Compiled>,
    /// What it is started by.
    pub key: Option<Key>,
    /// With what.
    pub input: Option<Payload>,
    /// A digest of that.
    pub input_digest: u128,
}

/// What an operator wants done.
pub struct Intervention {
    /// With which run.
    pub run: RunId,
    /// What.
    pub verb: Verb,
    /// Who.
    pub by: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another run has the key.
    #[error("another run was started by this key")]
    Taken,
    /// This replica has as many runs as it may have.
    #[error("this replica looks after {0} runs, which is as many as it may")]
    Full(usize),
    /// This replica has as many runs of the saga as it may have of one.
    #[error("this replica looks after {0} runs of this saga, which is as many as it may of one")]
    FullOfSaga(usize),
    /// The runs of this replica keep as many bytes as they may.
    #[error("the runs of this replica keep {0} bytes, which is as many as they may")]
    NoMemory(usize),
    /// What it is to be started with is more than a run may keep.
    #[error("a run may keep {0} bytes, which is less than it is to be started with")]
    TooLarge(usize),
    /// This replica owns no partition, or has just lost the one that it was for.
    #[error("this replica owns no partition at the moment")]
    NotOwned,
    /// Whether it has begun is not known.
    #[error("the store did not answer, so whether the run has begun is not known")]
    Unknown(#[source] Arc<Error>),
}

/// Why an operator's verb did nothing.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// It does not fit the run.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The run has ended, or is another replica's.
    #[error("the run has ended, or is not here")]
    NotHere,
    /// Whether it was done is not known.
    #[error("the store did not answer, so whether it was done is not known")]
    Unknown(#[source] Arc<Error>),
}

/// Which partitions are owned, by their epochs. Shards take out what they lose.
#[derive(Debug, Default)]
pub struct Owned(pub Mutex<BTreeMap<Partition, u64>>);

/// The runs of some partitions.
pub struct Shard<S, P> {
    pub store: Arc<S>,
    pub participants: Arc<P>,
    pub definitions: Arc<Definitions>,
    /// Of the whole replica.
    pub owned: Arc<Owned>,
    /// Of the whole replica.
    pub room: Arc<Room>,
    /// Of the whole replica.
    pub lanes: Lanes,
    /// Hears what happens.
    pub observer: Arc<dyn Observe>,
    /// Tells this shard.
    pub tell: mpsc::UnboundedSender<Message>,
    epochs: BTreeMap<Partition, u64>,
    runs: HashMap<RunId, Live>,
    timers: BTreeSet<(Time, RunId, Timer)>,
    /// Decisions that were made and are to be taken in.
    decided: VecDeque<(RunId, Event)>,
    batch: Batch,
}

impl<S: Store, P: Participants> Shard<S, P> {
    /// A shard without partitions, and what it is told by.
    pub fn new(
        store: Arc<S>,
        participants: Arc<P>,
        definitions: Arc<Definitions>,
        owned: Arc<Owned>,
        room: Arc<Room>,
        lanes: Lanes,
        observer: Arc<dyn Observe>,
    ) -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (tell, told) = mpsc::unbounded_channel();
        let shard = Self {
            store,
            participants,
            definitions,
            owned,
            room,
            lanes,
            observer,
            tell,
            epochs: BTreeMap::new(),
            runs: HashMap::new(),
            timers: BTreeSet::new(),
            decided: VecDeque::new(),
            batch: Batch::default(),
        };
        (shard, told)
    }

    /// Works until nobody tells it anything any more.
    pub async fn run(mut self, mut told: mpsc::UnboundedReceiver<Message>) {
        let mut messages = Vec::with_capacity(MOST_AT_ONCE);
        let mut under_way: Option<UnderWay> = None;
        loop {
            self.settle();
            if under_way.is_none() {
                under_way = self.append();
            }
            let answer: OptionFuture<_> = under_way.as_mut().map(|under_way| &mut under_way.answer).into();
            tokio::select! {
                Some(answer) = answer => {
                    if let Some(UnderWay { claims, batch, .. }) = under_way.take() {
                        self.answered(answer, &claims, batch);
                    }
                }
                taken = told.recv_many(&mut messages, MOST_AT_ONCE) => {
                    if taken == 0 {
                        return;
                    }
                    for message in messages.drain(..) {
                        self.take(message);
                    }
                }
                () = time::sleep(self.until_timer()), if !self.timers.is_empty() => self.fire(),
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Own(claims, runs, done) => {
                self.own(&claims, runs);
                // Who asked may have gone.
                let _ = done.send(());
            }
            Message::Disown(partitions, done) => {
                self.drop_partitions(&partitions, None);
                // Who asked may have gone.
                let _ = done.send(());
            }
            Message::Start(new, reply) => self.start(new, reply),
            Message::Happened(run, event) => {
                let event = self.bounded(run, event);
                // What makes no sense any more, a late answer, changes nothing.
                let _ = self.happen(run, &event);
            }
            Message::Intervene(intervention, reply) => self.intervene(intervention, reply),
            Message::Wait(run, reply) => match self.runs.get_mut(&run) {
                Some(live) => {
                    live.waiters.retain(|waiter| !waiter.is_closed());
                    live.waiters.push(reply);
                }
                None => drop(reply),
            },
        }
    }

    /// Takes the decisions in that were made.
    fn settle(&mut self) {
        while let Some((run, event)) = self.decided.pop_front() {
            // One of a run that was dropped meanwhile is none.
            let _ = self.happen(run, &event);
        }
    }

    fn own(&mut self, claims: &[Claim], runs: Vec<Stored>) {
        for claim in claims {
            self.epochs.insert(claim.partition, claim.epoch);
            self.owned.0.lock().insert(claim.partition, claim.epoch);
        }
        for stored in runs {
            let run = stored.run;
            if let Err(error) = self.load(&stored) {
                // It stays in the store, and others go on.
                tracing::error!(%run, error, "failed to take a run over");
            }
        }
    }

    /// Takes a stored run over and does again what was under way.
    fn load(&mut self, stored: &Stored) -> Result<(), String> {
        let compiled = self.definitions.get(stored.revision);
        let compiled = compiled.ok_or_else(|| format!("there is no revision {}", stored.revision.0))?;
        let contents = log::read(&stored.log).map_err(|error| error.to_string())?;
        let events = contents.records.iter().map(|record| (record.at, &record.event));
        let state = run::replay(&compiled.plan, events)
            .map_err(|(place, refused)| format!("record {place} does not fit: {refused}"))?
            .ok_or("it has no records")?;
        let sequence = u32::try_from(contents.records.len()).map_err(|_| "it has too many records")?;
        let outstanding = state.outstanding(&compiled.plan, now());
        let place = self.room.place(&compiled, state.bytes());
        let live = Live::new(stored.run, compiled, state, sequence, place);
        self.runs.insert(stored.run, live);
        for effect in outstanding {
            match effect {
                Effect::Wait { timer, until } => {
                    self.timers.insert((until, stored.run, timer));
                }
                effect => self.perform(stored.run, effect),
            }
        }
        Ok(())
    }

    fn start(&mut self, new: NewRun, reply: oneshot::Sender<Result<RunId, StartError>>) {
        let NewRun {
            partition,
            compiled,
            key,
            input,
            input_digest,
        } = new;
        let bytes = input.as_ref().map_or(0, |input| input.0.len());
        let place = match self.room.enter(&compiled, bytes) {
            Ok(place) => place,
            Err(full) => {
                // Who asked may have gone; nothing has begun.
                let _ = reply.send(Err(full));
                return;
            }
        };
        if !self.epochs.contains_key(&partition) {
            // Who asked may have gone; nothing has begun.
            let _ = reply.send(Err(StartError::NotOwned));
            return;
        }
        let now = now();
        let run = RunId::new(now.0, rand::random(), partition);
        let seed = rand::random();
        let event = match compiled.program.definition.concurrency {
            None => Event::Started { input, seed },
            Some(_) => Event::Queued { input, seed },
        };
        let Ok((state, effects)) = run::start(&compiled.plan, &event, now) else {
            return;
        };
        let revision = compiled.id;
        let mut live = Live::new(run, compiled, state, 0, place);
        let standing = live.standing();
        self.batch.starts.push(Start {
            run,
            revision,
            key,
            input_digest,
            started_at: now,
            standing,
        });
        self.batch.records.push(live.record(run, now, event, true));
        self.runs.insert(run, live);
        self.batch.started.push((run, reply));
        self.note(run, effects);
    }

    /// The same, or, if the run cannot keep the answer, that there was none that is of use.
    fn bounded(&self, run: RunId, event: Event) -> Event {
        let (
            Some(live),
            Event::Answered {
                call: call @ CallId { op: Op::Action, .. },
                attempt,
                outcome: Outcome::Done(Some(output)),
            },
        ) = (self.runs.get(&run), &event)
        else {
            return event;
        };
        let (bytes, most) = (output.0.len(), self.room.most_of_run());
        if live.place.bytes() + bytes <= most {
            return event;
        }
        let detail = format!(
            "the answer has {bytes} bytes: with it the run would keep more than the {most} that it may"
        );
        let outcome = Outcome::Retry {
            condition: RetryCondition::ServerError,
            after: None,
            detail: detail.into(),
        };
        Event::Answered {
            call: *call,
            attempt: *attempt,
            outcome,
        }
    }

    fn happen(&mut self, run: RunId, event: &Event) -> Result<(), Refused> {
        let Some(live) = self.runs.get_mut(&run) else {
            return Err(Refused::Stale);
        };
        let mut effects = Vec::new();
        live.state
            .apply(&live.compiled.plan, event, now(), &mut effects)?;
        if let Event::Answered { call, outcome, .. } = event {
            self.observer.answered(&live.compiled, run, *call, outcome);
        }
        let start = self.batch.starts.iter_mut().rev().find(|start| start.run == run);
        let record = live.record(run, live.state.now(), event.clone(), start.is_some());
        self.batch.records.push(record);
        live.keep(event);
        let standing = live.standing();
        if (standing.status, standing.is_queued) != (live.status, live.is_queued) {
            (live.status, live.is_queued) = (standing.status, standing.is_queued);
            match start {
                Some(start) => start.standing = standing,
                None => {
                    self.batch.changes.insert(run, standing);
                }
            }
        }
        self.note(run, effects);
        Ok(())
    }

    /// Notes what is to be done when the record is stored. A decision is made at once: it is no effect that anybody sees.
    fn note(&mut self, run: RunId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Wait { timer, until } => {
                    self.timers.insert((until, run, timer));
                }
                Effect::Decide { step, incarnation } => self.decide(run, step, incarnation),
                effect => self.batch.effects.push((run, effect)),
            }
        }
    }

    fn intervene(&mut self, intervention: Intervention, reply: oneshot::Sender<Result<(), VerbError>>) {
        let Intervention {
            run,
            verb,
            by,
            reason,
        } = intervention;
        let refused = if self.runs.contains_key(&run) {
            self.happen(run, &Event::Operator { verb, by, reason })
                .err()
                .map(VerbError::Refused)
        } else {
            Some(VerbError::NotHere)
        };
        match refused {
            // Who asked may have gone.
            Some(refused) => drop(reply.send(Err(refused))),
            None => self.batch.intervened.push((run, reply)),
        }
    }

    /// Nobody waits for the end of time of a run that is over.
    fn forget_deadline(&mut self, run: RunId, live: &Live) {
        if let Some(timeout) = live.compiled.program.definition.timeout {
            let until = Time(live.state.begun_at().0.saturating_add(timeout.0));
            self.timers.remove(&(until, run, Timer::Deadline));
        }
    }

    fn until_timer(&self) -> Duration {
        let until = self.timers.first().map_or(0, |(until, ..)| until.0);
        Duration::from_millis(until.saturating_sub(now().0))
    }

    fn fire(&mut self) {
        let now = now();
        while let Some((until, run, timer)) = self.timers.pop_first() {
            if until > now {
                self.timers.insert((until, run, timer));
                return;
            }
            // What is over does not wait any more; a clock that jumped back is waited for.
            if self.happen(run, &Event::TimerFired(timer)) == Err(Refused::TooEarly) {
                let again = Time(now.0.saturating_add(1_000));
                self.timers.insert((again, run, timer));
            }
        }
    }
}

/// The time, by this machine's clock.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
