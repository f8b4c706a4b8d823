//! The engine of a replica: its shards, which partitions are whose, and what others ask of it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::seq::IteratorRandom as _;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};
use trellis_saga_core::{
    event::{Payload, Verb},
    log::{self, Record},
    program,
    run::{self, State},
};

pub use crate::shard::{StartError, VerbError};
use crate::{
    admission::{Limits, Room},
    definitions::{self, Compiled, Definitions},
    id::{Partition, RunId},
    lanes::Lanes,
    observe::Observe,
    participants::Participants,
    shard::{Intervention, Message, NewRun, Owned, Shard, now},
    store::{Error, Key, Members, Replica, Revision, Store, Stored},
};

/// Tasks that partitions are shared out to.
const SHARDS: usize = 2;
/// How long a replica is there for without a sign of life.
const LEASE: Duration = Duration::from_secs(5);
/// Runs that are deleted in one transaction.
const PURGED_AT_ONCE: u32 = 200;
/// Partitions that are claimed and read together.
const CLAIMED_AT_ONCE: usize = 4;
/// Time between signs of life.
const BEAT: Duration = Duration::from_secs(1);

/// The engine of a replica. Clones are the same one.
pub struct Engine<S> {
    pub(crate) store: Arc<S>,
    pub(crate) definitions: Arc<Definitions>,
    shards: Arc<[mpsc::UnboundedSender<Message>]>,
    pub(crate) owned: Arc<Owned>,
    pub(crate) room: Arc<Room>,
    members: watch::Receiver<Members>,
}

/// What a run is to be started with.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Namespace of the saga.
    pub namespace: String,
    /// The saga.
    pub saga: String,
    /// The same again is the same run.
    pub key: Option<String>,
    /// For expressions: `input`.
    pub input: Option<Json>,
}

/// What became of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The run.
    pub run: RunId,
    /// Whether it was there before.
    pub is_known: bool,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such saga, or it has no revision yet.
    #[error("there is no saga {saga} in namespace {namespace}, or it has no revision")]
    NoSaga {
        /// The namespace.
        namespace: String,
        /// The saga.
        saga: String,
    },
    /// The input is not what the saga takes.
    #[error(transparent)]
    Input(#[from] program::Error),
    /// The key was used with another input.
    #[error("run {0} was started by the same key with another input")]
    Conflict(RunId),
    /// Not now.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Where a run is looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// Here.
    Here,
    /// At this replica.
    At(Replica),
    /// Nowhere, at the moment.
    Nowhere,
}

/// A run as it is stored, and what that means.
#[derive(Debug, Clone)]
pub struct View {
    /// As it is stored.
    pub stored: Stored,
    /// What it is made of.
    pub compiled: Arc<Compiled>,
    /// Its records.
    pub records: Vec<Record>,
    /// Where they lead.
    pub state: State,
}

impl<S> Clone for Engine<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            definitions: Arc::clone(&self.definitions),
            shards: Arc::clone(&self.shards),
            owned: Arc::clone(&self.owned),
            room: Arc::clone(&self.room),
            members: self.members.clone(),
        }
    }
}

/// Takes partitions and gives them up, so that each replica has its part.
pub struct Membership<S> {
    engine: Engine<S>,
    replica: Replica,
    members: watch::Sender<Members>,
}

impl<S: Store> Engine<S> {
    /// An engine without partitions that looks after so much at most, and the task that gets it some. Must be called within a Tokio
    /// runtime.
    pub fn new<P: Participants>(
        store: Arc<S>,
        participants: &Arc<P>,
        definitions: Arc<Definitions>,
        replica: Replica,
        most: impl Into<Limits>,
        observer: &Arc<dyn Observe>,
    ) -> (Self, Membership<S>) {
        let owned = Arc::new(Owned::default());
        let room = Arc::new(Room::new(most.into()));
        let lanes = Lanes::default();
        let shards = (0..SHARDS).map(|_| {
            let (shard, told) = Shard::new(
                Arc::clone(&store),
                Arc::clone(participants),
                Arc::clone(&definitions),
                Arc::clone(&owned),
                Arc::clone(&room),
                lanes.clone(),
                Arc::clone(observer),
            );
            let tell = shard.tell.clone();
            tokio::spawn(shard.run(told));
            tell
        });
        let (members, seen) = watch::channel(Members::default());
        let engine = Self {
            shards: shards.collect(),
            store,
            definitions,
            owned,
            room,
            members: seen,
        };
        let membership = Membership {
            engine: engine.clone(),
            replica,
            members,
        };
        (engine, membership)
    }

    /// Starts a run, or finds the one that was started by the same key.
    ///
    /// # Errors
    /// Nothing was started, or it is not known ([`StartError::Unknown`]); with a key the same can be asked again.
    pub async fn start(&self, request: Request) -> Result<Started, Refusal> {
        let Request {
            namespace,
            saga,
            key,
            input,
        } = request;
        let key = key.map(|text| Key {
            digest: digest([&*namespace, &*saga, &*text]),
            text,
        });
        // Maps are sorted, so the same input has the same text.
        let text = input.as_ref().map(Json::to_string);
        let input_digest = digest([text.as_deref().unwrap_or_default()]);
        let key_digest = key.as_ref().map(|key| key.digest);
        let begun = async {
            let compiled = self.definitions.current(&namespace, &saga);
            let compiled = compiled.ok_or(Refusal::NoSaga { namespace, saga })?;
            compiled.program.check_input(input.as_ref())?;
            let partition = self.owned.0.lock().keys().copied().choose(&mut rand::rng());
            let partition = partition.ok_or(StartError::NotOwned)?;
            let (reply, replied) = oneshot::channel();
            let new = NewRun {
                partition,
                compiled,
                key,
                input: text.map(|text| Payload(text.into())),
                input_digest,
            };
            self.tell(partition, Message::Start(new, reply));
            replied
                .await
                .unwrap_or(Err(StartError::NotOwned))
                .map_err(Refusal::from)
        };
        let refusal = match begun.await {
            Ok(run) => return Ok(Started { run, is_known: false }),
            Err(refusal) => refusal,
        };
        // Whatever is wrong with it now: what has begun by this key has begun. A refusal that ends the
        // matter is only given where the store says that nothing has.
        let known = match key_digest {
            Some(key) => self.store.of_key(key).await?,
            None => None,
        };
        match known {
            Some((run, digest)) if digest == input_digest => Ok(Started { run, is_known: true }),
            Some((run, _)) => Err(Refusal::Conflict(run)),
            None => Err(match refusal {
                // It was purged a moment ago.
                Refusal::Start(StartError::Taken) => StartError::NotOwned.into(),
                other => other,
            }),
        }
    }

    /// Does what an operator wants.
    ///
    /// # Errors
    /// Nothing was done, or it is not known ([`VerbError::Unknown`]).
    pub async fn intervene(&self, run: RunId, verb: Verb, by: &str, reason: &str) -> Result<(), VerbError> {
        let (reply, replied) = oneshot::channel();
        let intervention = Intervention {
            run,
            verb,
            by: by.into(),
            reason: reason.into(),
        };
        self.tell(run.partition(), Message::Intervene(intervention, reply));
        replied.await.unwrap_or(Err(VerbError::NotHere))
    }

    /// Waits until a run has ended, is not looked after here any more, or the time is over.
    pub async fn ended(&self, run: RunId, most: Duration) {
        let (reply, replied) = oneshot::channel();
        self.tell(run.partition(), Message::Wait(run, reply));
        // Whatever came of it, the store says where the run is.
        let _ = time::timeout(most, replied).await;
    }

    /// Where a run is looked after.
    #[must_use]
    pub fn whereabouts(&self, run: RunId) -> Whereabouts {
        let partition = run.partition();
        if self.owned.0.lock().contains_key(&partition) {
            return Whereabouts::Here;
        }
        let members = self.members.borrow();
        let owner = members.owners.get(usize::from(partition.0)).copied().flatten();
        let owner = owner.and_then(|owner| members.replicas.iter().find(|replica| replica.id == owner));
        owner.cloned().map_or(Whereabouts::Nowhere, Whereabouts::At)
    }

    /// A run as it is stored; None: there is none.
    ///
    /// # Errors
    /// The store cannot be asked, or has something else than this engine writes.
    pub async fn view(&self, run: RunId) -> Result<Option<View>, Error> {
        let Some(stored) = self.store.run(run).await? else {
            return Ok(None);
        };
        let damaged = |what: String| Error::Damaged(format!("run {run}: {what}"));
        if self.definitions.get(stored.revision).is_none() {
            self.refresh().await?;
        }
        let compiled = self.definitions.get(stored.revision);
        let compiled =
            compiled.ok_or_else(|| damaged(format!("there is no revision {}", stored.revision.0)))?;
        let contents = log::read(&stored.log).map_err(|error| damaged(error.to_string()))?;
        let events = contents.records.iter().map(|record| (record.at, &record.event));
        let state = run::replay(&compiled.plan, events)
            .map_err(|(place, refused)| damaged(format!("record {place} does not fit: {refused}")))?
            .ok_or_else(|| damaged("it has no records".to_owned()))?;
        Ok(Some(View {
            stored,
            compiled,
            records: contents.records,
            state,
        }))
    }

    /// Takes in the revisions that are stored, and which of them are current: when the process begins. One that is of no use is left
    /// out: its runs stay where they are.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub async fn restore(&self) -> Result<(), Error> {
        for (id, revision) in self.store.revisions().await? {
            report(self.definitions.put(id, &revision), &revision);
        }
        Ok(())
    }

    /// Takes in revisions that another replica was handed over. Which are current this one is told itself.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub async fn refresh(&self) -> Result<(), Error> {
        for (id, revision) in self.store.revisions().await? {
            report(self.definitions.add(id, &revision), &revision);
        }
        Ok(())
    }

    /// Whether this replica does what one has to do for all: it owns the first partition.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.owned.0.lock().contains_key(&Partition(0))
    }

    /// How many partitions this replica owns.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.owned.0.lock().len()
    }

    /// How many runs this replica looks after.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.room.runs()
    }

    /// Deletes runs whose retention is over, if it is this replica's turn: whoever owns the first partition. In small batches, so that
    /// nobody waits for it.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub async fn purge(&self) -> Result<u64, Error> {
        let mut purged = 0;
        while self.is_first() {
            let batch = self.store.purge(now(), PURGED_AT_ONCE).await?;
            purged += batch;
            if batch < u64::from(PURGED_AT_ONCE) {
                break;
            }
        }
        Ok(purged)
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The revisions.
    #[must_use]
    pub fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    pub(crate) fn tell(&self, partition: Partition, message: Message) {
        // A shard ends only with the process.
        let _ = self.shards[usize::from(partition.0) % self.shards.len()].send(message);
    }

    async fn disown(&self, partitions: &[Partition]) {
        let mut done = Vec::new();
        for shard in 0..self.shards.len() {
            let of_shard: Vec<_> = partitions
                .iter()
                .copied()
                .filter(|partition| usize::from(partition.0) % self.shards.len() == shard)
                .collect();
            if let Some(&first) = of_shard.first() {
                let (reply, replied) = oneshot::channel();
                self.tell(first, Message::Disown(of_shard, reply));
                done.push(replied);
            }
        }
        for done in done {
            // A shard that has ended acts on nothing.
            let _ = done.await;
        }
    }
}

impl<S: Store> Membership<S> {
    /// Keeps this replica's part until `stop` is done; then gives it up.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        // Beside each other: whoever takes much over says all the while that it is there.
        let work = async { tokio::join!(self.beat(), self.balance(), self.engine.turns()) };
        tokio::select! {
            _ = work => {}
            () = stop => {}
        }
        self.engine.disown(&self.owned()).await;
        if let Err(error) = self.engine.store.leave(self.replica.id).await {
            warn(
                &error,
                "failed to give partitions up; they are claimed when the lease is over",
            );
        }
    }

    fn owned(&self) -> Vec<Partition> {
        self.engine.owned.0.lock().keys().copied().collect()
    }

    /// Says that this replica is there, and drops what others have claimed because it was not.
    async fn beat(&self) {
        let mut seen = Instant::now();
        loop {
            let (asked, owned) = (Instant::now(), self.owned());
            if seen.elapsed() >= LEASE {
                // It was stopped, or the store was away: others may have claimed everything.
                self.engine.disown(&owned).await;
            }
            match self.engine.store.beat(&self.replica, LEASE).await {
                Ok(members) => {
                    seen = asked;
                    let is_lost = |partition: &Partition| {
                        let owner = members.owners.get(usize::from(partition.0)).copied().flatten();
                        owner != Some(self.replica.id)
                    };
                    let lost: Vec<_> = owned.into_iter().filter(is_lost).collect();
                    self.engine.disown(&lost).await;
                    self.members.send_replace(members);
                }
                Err(error) => warn(&error, "failed to say that this replica is there"),
            }
            time::sleep(BEAT).await;
        }
    }

    /// Takes and gives up partitions, whenever it is known who is there.
    async fn balance(&self) {
        let mut members = self.engine.members.clone();
        // The sender lives as long as this.
        while members.changed().await.is_ok() {
            let members = members.borrow_and_update().clone();
            if let Err(error) = self.balance_among(&members).await {
                warn(&error, "failed to take partitions over");
            }
        }
    }

    async fn balance_among(&self, members: &Members) -> Result<(), Error> {
        let engine = &self.engine;
        let part = part(members, self.replica.id);
        let owned: BTreeSet<Partition> = self.owned().into_iter().collect();
        if owned.len() > part {
            let surplus: Vec<_> = owned.iter().rev().copied().take(owned.len() - part).collect();
            return self.give_up(&surplus).await;
        }
        let there: BTreeSet<u128> = members.replicas.iter().map(|replica| replica.id).collect();
        let is_free = |partition: &Partition| {
            let owner = members.owners.get(usize::from(partition.0)).copied().flatten();
            owner.is_none_or(|owner| owner == self.replica.id || !there.contains(&owner))
        };
        let free: Vec<Partition> = Partition::all()
            .filter(|partition| !owned.contains(partition) && is_free(partition))
            .take(part.saturating_sub(owned.len()))
            .collect();
        for some in free.chunks(CLAIMED_AT_ONCE) {
            if engine.room.is_full() {
                tracing::warn!(runs = engine.room.runs(), "no room to take more partitions over");
                return Ok(());
            }
            let claims = engine.store.claim(self.replica.id, some).await?;
            let partitions: Vec<_> = claims.iter().map(|claim| claim.partition).collect();
            let mut runs = engine.store.live(&partitions).await?;
            if runs
                .iter()
                .any(|run| engine.definitions.get(run.revision).is_none())
            {
                engine.refresh().await?;
            }
            tracing::info!(
                partitions = claims.len(),
                runs = runs.len(),
                "took partitions over"
            );
            for shard in 0..engine.shards.len() {
                let is_of = |partition: Partition| usize::from(partition.0) % engine.shards.len() == shard;
                let of_shard: Vec<_> = claims
                    .iter()
                    .copied()
                    .filter(|claim| is_of(claim.partition))
                    .collect();
                let (ours, others) = runs.into_iter().partition(|run| is_of(run.run.partition()));
                runs = others;
                if let Some(first) = of_shard.first().map(|claim| claim.partition) {
                    let (done, owned) = oneshot::channel();
                    engine.tell(first, Message::Own(of_shard, ours, done));
                    // A shard ends only with the process.
                    let _ = owned.await;
                }
            }
        }
        Ok(())
    }

    async fn give_up(&self, partitions: &[Partition]) -> Result<(), Error> {
        let claims: Vec<_> = {
            let owned = self.engine.owned.0.lock();
            let claim = |partition: &Partition| {
                let epoch = *owned.get(partition)?;
                Some(crate::store::Claim {
                    partition: *partition,
                    epoch,
                })
            };
            partitions.iter().filter_map(claim).collect()
        };
        self.engine.disown(partitions).await;
        self.engine.store.release(self.replica.id, &claims).await
    }
}

fn report(taken: Result<(), definitions::Error>, revision: &Revision) {
    if let Err(error) = taken {
        let error: &dyn std::error::Error = &error;
        let Revision {
            namespace,
            saga,
            revision,
            ..
        } = revision;
        tracing::error!(namespace, saga, revision, error, "a stored revision is of no use");
    }
}

pub(crate) fn warn(error: &Error, what: &str) {
    let error: &dyn std::error::Error = error;
    tracing::warn!(error, "{what}");
}

/// How many partitions a replica is to have: as many as the others, the first in the order of their numbers one more.
fn part(members: &Members, replica: u128) -> usize {
    let all = usize::from(crate::id::PARTITIONS);
    let count = members.replicas.len().max(1);
    let place = members.replicas.iter().position(|other| other.id == replica);
    let one_more = place.is_some_and(|place| place < all % count);
    all / count + usize::from(one_more)
}

/// A digest of texts, each apart from the next.
fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> u128 {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    let bytes = hasher.finalize();
    bytes
        .iter()
        .take(16)
        .fold(0, |digest, byte| digest << 8 | u128::from(*byte))
}
