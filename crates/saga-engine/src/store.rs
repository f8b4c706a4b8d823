//! What is durable, behind a trait.

pub mod postgres;

use std::{future::Future, time::Duration};

use trellis_saga_core::{event::Time, run::Status};

use crate::id::{Partition, RunId};

/// A replica of the engine. A process that starts anew is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its number: anything that no other process has.
    pub id: u128,
    /// Its name, for people.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
}

/// The right to write runs of a partition, as long as nobody else claims it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Whose runs.
    pub partition: Partition,
    /// Its number: grows with each owner.
    pub epoch: u64,
}

/// Who is there, and whose partitions are whose.
#[derive(Debug, Clone, Default)]
pub struct Members {
    /// Replicas whose time is not up.
    pub replicas: Vec<Replica>,
    /// Who claimed each partition last, by the number of the replica; None: it was given up. In the order of partitions.
    pub owners: Vec<Option<u128>>,
}

/// A revision of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Namespace of the saga.
    pub namespace: String,
    /// Its name.
    pub saga: String,
    /// Name of the revision.
    pub revision: String,
    /// The canonical form.
    pub definition: String,
    /// Whether new runs are made of it.
    pub is_current: bool,
}

/// Number of a revision in this store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionId(pub i32);

/// What is appended together. Of each partition all of it is stored, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Append {
    /// By what right: one for each partition that something here is of.
    pub claims: Vec<Claim>,
    /// Runs that begin; their first records are below.
    pub starts: Vec<Start>,
    /// Records.
    pub records: Vec<NewRecord>,
    /// Runs that were there before and have another status now.
    pub changes: Vec<(RunId, Standing)>,
}

/// A run that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Its id.
    pub run: RunId,
    /// What it is made of.
    pub revision: RevisionId,
    /// What it was started by.
    pub key: Option<Key>,
    /// Of what it was started with.
    pub input_digest: u128,
    /// When.
    pub started_at: Time,
    /// Where it is after the records that are appended with it.
    pub standing: Standing,
}

/// What a run was started by. The same again is the same run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// As it was given.
    pub text: String,
    /// Of namespace, saga and text.
    pub digest: u128,
}

/// Where a run is, as it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Where.
    pub status: Status,
    /// Whether it waits for its turn: it is running, and has not begun.
    pub is_queued: bool,
    /// When it ended; None: it has not.
    pub ended_at: Option<Time>,
    /// From when on it may be purged.
    pub purge_at: Option<Time>,
}

/// A record that is appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Of which run.
    pub run: RunId,
    /// Its number in the run, from 0.
    pub sequence: u32,
    /// Whether its run begins in the same append.
    pub is_of_start: bool,
    /// As [`trellis_saga_core::log`] has it.
    pub bytes: Vec<u8>,
}

/// What became of an append.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    /// Partitions that another owner has claimed since. Nothing of them was stored.
    pub lost: Vec<Partition>,
    /// Runs that did not begin, since their key is taken. Nothing of them was stored.
    pub taken: Vec<RunId>,
}

/// A run as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its id.
    pub run: RunId,
    /// What it is made of.
    pub revision: RevisionId,
    /// What it was started by.
    pub key: Option<String>,
    /// Of what it was started with.
    pub input_digest: u128,
    /// When.
    pub started_at: Time,
    /// Where it is.
    pub standing: Standing,
    /// Its records, one after the other.
    pub log: Vec<u8>,
    /// Epochs of those who wrote them.
    pub epochs: Vec<u64>,
}

/// Which runs are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of which namespace.
    pub namespace: Option<String>,
    /// Of which saga.
    pub saga: Option<String>,
    /// With which status; empty: with any.
    pub statuses: Vec<Status>,
    /// Older than this one.
    pub before: Option<RunId>,
    /// At most so many.
    pub limit: u32,
}

/// A run as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub run: RunId,
    /// Namespace of its saga.
    pub namespace: String,
    /// Its saga.
    pub saga: String,
    /// Revision that it is made of.
    pub revision: String,
    /// What it was started by.
    pub key: Option<String>,
    /// When.
    pub started_at: Time,
    /// Where it is.
    pub standing: Standing,
}

/// How many runs of a revision there are of each status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Namespace of the saga.
    pub namespace: String,
    /// The saga.
    pub saga: String,
    /// The revision.
    pub revision: String,
    /// With which status.
    pub status: Status,
    /// How many.
    pub count: u64,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be asked, or has not answered: whether it was done is not known.
    #[error("failed to reach the store")]
    Away(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It has something that no release of this engine writes.
    #[error("failed to read the store: {0}")]
    Damaged(String),
}

/// What is durable.
pub trait Store: Send + Sync + 'static {
    /// Says that a replica is there for so long, and looks who else is.
    fn beat(&self, replica: &Replica, lease: Duration)
    -> impl Future<Output = Result<Members, Error>> + Send;

    /// Says that a replica is gone, with all its claims.
    fn leave(&self, replica: u128) -> impl Future<Output = Result<(), Error>> + Send;

    /// Claims those of the partitions that nobody owns whose time is not up, except the replica itself. Appends by earlier claims are refused from now on.
    fn claim(
        &self,
        replica: u128,
        partitions: &[Partition],
    ) -> impl Future<Output = Result<Vec<Claim>, Error>> + Send;

    /// Gives claims up.
    fn release(&self, replica: u128, claims: &[Claim]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Stores what is appended.
    fn append(&self, append: Append) -> impl Future<Output = Result<Appended, Error>> + Send;

    /// Lets as many runs of a saga begin that wait as long as fewer than `most` are under way, the oldest first; None: all. Those in partitions
    /// that are claimed whose turn it is, until they are appended as running. Nobody else admits runs of the saga meanwhile.
    fn admit(
        &self,
        namespace: &str,
        saga: &str,
        most: Option<u32>,
        claims: &[Claim],
    ) -> impl Future<Output = Result<Vec<RunId>, Error>> + Send;

    /// The runs of some partitions that have not ended.
    fn live(&self, partitions: &[Partition]) -> impl Future<Output = Result<Vec<Stored>, Error>> + Send;

    /// A run.
    fn run(&self, run: RunId) -> impl Future<Output = Result<Option<Stored>, Error>> + Send;

    /// The run that was started by a key: its id, and the digest of what it was started with.
    fn of_key(&self, digest: u128) -> impl Future<Output = Result<Option<(RunId, u128)>, Error>> + Send;

    /// Runs, the newest first.
    fn list(&self, filter: &Filter) -> impl Future<Output = Result<Vec<Summary>, Error>> + Send;

    /// How many runs there are.
    fn counts(&self) -> impl Future<Output = Result<Vec<Count>, Error>> + Send;

    /// Deletes runs whose time has come, at most so many; how many it were.
    fn purge(&self, now: Time, most: u32) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Stores a revision, or that it is the one that new runs are made of, or is not any more.
    fn put_revision(&self, revision: &Revision) -> impl Future<Output = Result<RevisionId, Error>> + Send;

    /// All revisions.
    fn revisions(&self) -> impl Future<Output = Result<Vec<(RevisionId, Revision)>, Error>> + Send;

    /// Forgets a revision, unless a run is made of it; whether it is gone.
    fn forget_revision(&self, revision: RevisionId) -> impl Future<Output = Result<bool, Error>> + Send;
}
