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

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::{BoxFuture, FutureExt as _, OptionFuture};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time,
};
use trellis_saga_core::{
    data,
    definition::RetryCondition,
    event::{CallId, Effect, Event, Op, Outcome, Payload, Time, Timer, Verb},
    log::{self, Record},
    run::{self, Refused, State, Status},
};

use crate::{
    definitions::{Compiled, Definitions},
    id::{Partition, RunId},
    participants::{Asked, Participants, Try},
    store::{Append, Appended, Claim, Error, Key, NewRecord, Standing, Start, Store, Stored},
};

/// Messages that are taken at once.
const MOST_AT_ONCE: usize = 1024;

/// What a shard is told.
pub enum Message {
    /// Partitions that were claimed, and their runs.
    Own(Vec<Claim>, Vec<Stored>),
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

/// How many runs are in memory, and how many may be.
#[derive(Debug)]
pub struct Room {
    runs: AtomicUsize,
    most: usize,
}

impl Room {
    /// Room for so many.
    pub const fn new(most: usize) -> Self {
        Self {
            runs: AtomicUsize::new(0),
            most,
        }
    }

    /// How many there are.
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.runs() >= self.most
    }
}

/// A run in memory.
struct Live {
    compiled: Arc<Compiled>,
    state: State,
    /// Number of the next record.
    sequence: u32,
    id: Arc<str>,
    started_at: Arc<str>,
    status: Status,
    waiters: Vec<oneshot::Sender<()>>,
}

/// What is to be appended, and what is to be done then.
#[derive(Default)]
struct Batch {
    starts: Vec<Start>,
    records: Vec<NewRecord>,
    changes: BTreeMap<RunId, Standing>,
    effects: Vec<(RunId, Effect)>,
    started: Vec<(RunId, oneshot::Sender<Result<RunId, StartError>>)>,
    intervened: Vec<(RunId, oneshot::Sender<Result<(), VerbError>>)>,
}

/// An append that is under way.
struct UnderWay {
    answer: BoxFuture<'static, Result<Appended, Error>>,
    partitions: Vec<Partition>,
    batch: Batch,
}

/// The runs of some partitions.
pub struct Shard<S, P> {
    pub store: Arc<S>,
    pub participants: Arc<P>,
    pub definitions: Arc<Definitions>,
    /// Of the whole replica.
    pub owned: Arc<Owned>,
    /// Of the whole replica.
    pub room: Arc<Room>,
    /// What this shard counts in there.
    counted: usize,
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
    ) -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (tell, told) = mpsc::unbounded_channel();
        let shard = Self {
            store,
            participants,
            definitions,
            owned,
            room,
            counted: 0,
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
            self.count();
            if under_way.is_none() {
                under_way = self.append();
            }
            let answer: OptionFuture<_> = under_way.as_mut().map(|under_way| &mut under_way.answer).into();
            tokio::select! {
                Some(answer) = answer => {
                    if let Some(UnderWay { partitions, batch, .. }) = under_way.take() {
                        self.answered(answer, &partitions, batch);
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
            Message::Own(claims, runs) => self.own(&claims, runs),
            Message::Disown(partitions, done) => {
                self.drop_partitions(&partitions, None);
                // Who asked may have gone.
                let _ = done.send(());
            }
            Message::Start(new, reply) => self.start(new, reply),
            Message::Happened(run, event) => {
                // What makes no sense any more, a late answer, changes nothing.
                let _ = self.happen(run, &event);
            }
            Message::Intervene(intervention, reply) => self.intervene(intervention, reply),
            Message::Wait(run, reply) => match self.runs.get_mut(&run) {
                Some(live) => live.waiters.push(reply),
                None => drop(reply),
            },
        }
    }

    fn count(&mut self) {
        let now = self.runs.len();
        // One after the other, so that it is never less than nothing.
        self.room.runs.fetch_add(now, Ordering::Relaxed);
        self.room.runs.fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = now;
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
            if let Err(error) = self.load(stored) {
                // It stays in the store, and others go on.
                tracing::error!(%run, error, "failed to take a run over");
            }
        }
    }

    /// Takes a stored run over and does again what was under way.
    fn load(&mut self, stored: Stored) -> Result<(), String> {
        let compiled = self.definitions.get(stored.revision);
        let compiled = compiled.ok_or_else(|| format!("there is no revision {}", stored.revision.0))?;
        let contents = log::read(&stored.log).map_err(|error| error.to_string())?;
        let events = contents.records.iter().map(|record| (record.at, &record.event));
        let state = run::replay(&compiled.plan, events)
            .map_err(|(place, refused)| format!("record {place} does not fit: {refused}"))?
            .ok_or("it has no records")?;
        let sequence = u32::try_from(contents.records.len()).map_err(|_| "it has too many records")?;
        let outstanding = state.outstanding(&compiled.plan, now());
        let live = Live::new(stored.run, compiled, state, sequence);
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
        if self.room.is_full() {
            // Who asked may have gone; nothing has begun.
            let _ = reply.send(Err(StartError::Full(self.room.runs())));
            return;
        }
        if !self.epochs.contains_key(&partition) {
            // Who asked may have gone; nothing has begun.
            let _ = reply.send(Err(StartError::NotOwned));
            return;
        }
        let now = now();
        let run = RunId::new(now.0, rand::random(), partition);
        let event = Event::Started {
            input,
            seed: rand::random(),
        };
        let Ok((state, effects)) = run::start(&compiled.plan, &event, now) else {
            return;
        };
        let revision = compiled.id;
        let mut live = Live::new(run, compiled, state, 0);
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

    fn happen(&mut self, run: RunId, event: &Event) -> Result<(), Refused> {
        let Some(live) = self.runs.get_mut(&run) else {
            return Err(Refused::Stale);
        };
        let mut effects = Vec::new();
        live.state
            .apply(&live.compiled.plan, event, now(), &mut effects)?;
        let start = self.batch.starts.iter_mut().rev().find(|start| start.run == run);
        let record = live.record(run, live.state.now(), event.clone(), start.is_some());
        self.batch.records.push(record);
        let status = live.state.status();
        if status != live.status {
            live.status = status;
            let standing = live.standing();
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

    fn decide(&mut self, run: RunId, step: u32, incarnation: u32) {
        let Some(live) = self.runs.get(&run) else { return };
        let decision = live
            .compiled
            .program
            .decide(&live.state, live.about(), step as usize);
        let event = Event::Decided {
            step,
            incarnation,
            decision,
        };
        self.decided.push_back((run, event));
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

    /// Begins to append what there is.
    fn append(&mut self) -> Option<UnderWay> {
        if self.batch.records.is_empty() {
            return None;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let partitions: BTreeSet<Partition> = batch
            .records
            .iter()
            .map(|record| record.run.partition())
            .collect();
        let claims = partitions.iter().filter_map(|&partition| {
            let epoch = *self.epochs.get(&partition)?;
            Some(Claim { partition, epoch })
        });
        let append = Append {
            claims: claims.collect(),
            starts: std::mem::take(&mut batch.starts),
            records: std::mem::take(&mut batch.records),
            changes: std::mem::take(&mut batch.changes).into_iter().collect(),
        };
        let store = Arc::clone(&self.store);
        Some(UnderWay {
            answer: async move { store.append(append).await }.boxed(),
            partitions: partitions.into_iter().collect(),
            batch,
        })
    }

    fn answered(&mut self, answer: Result<Appended, Error>, partitions: &[Partition], batch: Batch) {
        let Appended { lost, taken } = match answer {
            Ok(appended) => appended,
            Err(error) => {
                let error = Arc::new(error);
                let shown: &dyn std::error::Error = &*error;
                tracing::warn!(error = shown, "failed to append; the runs are read anew");
                for (_, reply) in batch.started {
                    // Who asked may have gone.
                    let _ = reply.send(Err(StartError::Unknown(Arc::clone(&error))));
                }
                for (_, reply) in batch.intervened {
                    let _ = reply.send(Err(VerbError::Unknown(Arc::clone(&error))));
                }
                self.drop_partitions(partitions, Some(&error));
                return;
            }
        };
        if !lost.is_empty() {
            tracing::warn!(partitions = lost.len(), "another replica has claimed partitions");
            self.drop_partitions(&lost, None);
        }
        for run in &taken {
            self.runs.remove(run);
        }
        for (run, reply) in batch.started {
            let outcome = if taken.contains(&run) {
                Err(StartError::Taken)
            } else if lost.contains(&run.partition()) {
                Err(StartError::NotOwned)
            } else {
                Ok(run)
            };
            let _ = reply.send(outcome);
        }
        for (run, reply) in batch.intervened {
            let is_lost = lost.contains(&run.partition());
            let _ = reply.send(if is_lost { Err(VerbError::NotHere) } else { Ok(()) });
        }
        for (run, effect) in batch.effects {
            if !lost.contains(&run.partition()) {
                self.perform(run, effect);
            }
        }
    }

    /// Forgets everything of some partitions: from now on they are somebody else's, or have to be claimed anew.
    fn drop_partitions(&mut self, partitions: &[Partition], error: Option<&Arc<Error>>) {
        let is_dropped = |run: &RunId| partitions.contains(&run.partition());
        for partition in partitions {
            self.epochs.remove(partition);
            self.owned.0.lock().remove(partition);
        }
        self.runs.retain(|run, _| !is_dropped(run));
        self.timers.retain(|(_, run, _)| !is_dropped(run));
        self.decided.retain(|(run, _)| !is_dropped(run));
        let batch = &mut self.batch;
        batch.starts.retain(|start| !is_dropped(&start.run));
        batch.records.retain(|record| !is_dropped(&record.run));
        batch.changes.retain(|run, _| !is_dropped(run));
        batch.effects.retain(|(run, _)| !is_dropped(run));
        for (run, reply) in std::mem::take(&mut batch.started) {
            if is_dropped(&run) {
                let _ = reply.send(Err(match error {
                    Some(error) => StartError::Unknown(Arc::clone(error)),
                    None => StartError::NotOwned,
                }));
            } else {
                batch.started.push((run, reply));
            }
        }
        for (run, reply) in std::mem::take(&mut batch.intervened) {
            if is_dropped(&run) {
                let _ = reply.send(Err(VerbError::NotHere));
            } else {
                batch.intervened.push((run, reply));
            }
        }
    }

    /// Does what was decided; it is stored.
    fn perform(&mut self, run: RunId, effect: Effect) {
        match effect {
            Effect::Decide { step, incarnation } => self.decide(run, step, incarnation),
            Effect::Wait { timer, until } => {
                self.timers.insert((until, run, timer));
            }
            Effect::Call {
                call,
                attempt,
                until,
                poll,
            } => self.call(run, call, attempt, until, poll),
            Effect::Stuck => tracing::warn!(%run, "a run is stuck"),
            Effect::Ended(_) => {
                if let Some(live) = self.runs.remove(&run) {
                    for waiter in live.waiters {
                        // Who waited may have gone.
                        let _ = waiter.send(());
                    }
                }
            }
        }
    }

    fn call(&mut self, run: RunId, call: CallId, attempt: u32, until: Time, poll: Option<Arc<str>>) {
        let (Some(live), Some(&epoch)) = (self.runs.get(&run), self.epochs.get(&run.partition())) else {
            return;
        };
        let answered = move |outcome| {
            let event = Event::Answered {
                call,
                attempt,
                outcome,
            };
            Message::Happened(run, event)
        };
        let request = match poll {
            Some(location) => Ok(Some(Asked::Poll(location))),
            None => live
                .compiled
                .program
                .request(&live.state, live.about(), call, attempt)
                .map(|request| request.map(Asked::Do)),
        };
        let tell = self.tell.clone();
        let request = match request {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                // Nobody listens any more only when the process ends.
                let _ = tell.send(answered(Outcome::Failed(error.to_string().into())));
                return;
            }
        };
        let a_try = Try {
            run,
            compiled: Arc::clone(&live.compiled),
            call,
            attempt,
            epoch,
            timeout: until.0.saturating_sub(now().0).max(1),
            request,
        };
        let participants = Arc::clone(&self.participants);
        tokio::spawn(async move {
            let outcome = answer(&*participants, a_try).await;
            let _ = tell.send(answered(outcome));
        });
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

impl Live {
    fn new(run: RunId, compiled: Arc<Compiled>, state: State, sequence: u32) -> Self {
        let started_at = i64::try_from(state.started_at().0).ok();
        let started_at = started_at.and_then(|millis| Timestamp::from_millisecond(millis).ok());
        Self {
            id: run.to_string().into(),
            started_at: started_at.unwrap_or_default().to_string().into(),
            status: state.status(),
            compiled,
            state,
            sequence,
            waiters: Vec::new(),
        }
    }

    fn about(&self) -> data::Run<'_> {
        data::Run {
            id: &self.id,
            revision: &self.compiled.revision,
            started_at: &self.started_at,
        }
    }

    fn standing(&self) -> Standing {
        let retention = &self.compiled.program.definition.retention;
        let end = self.state.end();
        let kept = end.map(|end| {
            if end.is_completed {
                retention.completed.0
            } else {
                retention.compensated.0
            }
        });
        let now = self.state.now();
        Standing {
            status: self.state.status(),
            ended_at: end.map(|_| now),
            purge_at: kept.map(|kept| Time(now.0.saturating_add(kept))),
        }
    }

    fn record(&mut self, run: RunId, at: Time, event: Event, is_of_start: bool) -> NewRecord {
        let sequence = self.sequence;
        self.sequence += 1;
        let record = Record {
            sequence: sequence.into(),
            at,
            event,
        };
        let mut bytes = Vec::new();
        log::append(&record, &mut bytes);
        NewRecord {
            run,
            sequence,
            is_of_start,
            bytes,
        }
    }
}

/// Tries a call within its time. An answer that is not what the definition says is none.
async fn answer<P: Participants>(participants: &P, a_try: Try) -> Outcome {
    let (compiled, call) = (Arc::clone(&a_try.compiled), a_try.call);
    let late = |detail: &str, condition| Outcome::Retry {
        condition,
        after: None,
        detail: detail.into(),
    };
    let within = Duration::from_millis(a_try.timeout);
    let outcome = match time::timeout(within, participants.call(a_try)).await {
        Ok(outcome) => outcome,
        Err(_) => return late("no answer in time", RetryCondition::Timeout),
    };
    let Outcome::Done(output) = &outcome else {
        return outcome;
    };
    if call.op == Op::Compensation {
        return Outcome::Done(None);
    }
    let json = output
        .as_ref()
        .map(|output| serde_json::from_str(&output.0))
        .transpose();
    let checked = match json {
        Ok(json) => compiled
            .program
            .check_output(call.step as usize, json.as_ref())
            .map_err(|error| error.to_string()),
        Err(error) => Err(format!("the answer is no JSON: {error}")),
    };
    match checked {
        Ok(()) => outcome,
        Err(error) => late(&error, RetryCondition::ServerError),
    }
}

/// The time, by this machine's clock.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
