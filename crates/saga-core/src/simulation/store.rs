//! The store: a log for each run, with an end that a crash may tear off, behind an epoch that fences earlier owners.

use std::collections::BTreeMap;

use crate::random::Random;
use crate::{
    log::{self, Record},
    mutation::{Mutation, is_on},
};

/// A run.
pub type RunId = u64;

/// What is stored of a run.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// Its records.
    pub log: Vec<u8>,
    /// Which definition it is made of.
    pub revision: usize,
    /// Epochs of those who wrote, in order.
    pub epochs: Vec<u64>,
}

/// A write that is not on disk yet.
#[derive(Debug, Clone)]
pub struct Write {
    /// Which run.
    pub run: RunId,
    /// Which definition, if it begins.
    pub revision: usize,
    /// The key that it was started by, and with what, if it begins.
    pub key: Option<(u64, u64)>,
    /// The record.
    pub record: Record,
}

/// A store of the engine's own, to be simulated with: what it has is what counts.
pub trait Disk {
    /// Stores writes, all of them or none.
    ///
    /// # Errors
    /// Another owner has claimed everything since.
    fn sync(&mut self, epoch: u64, writes: &[Write]) -> Result<(), Fenced>;

    /// Takes everything over; the owner's number.
    fn claim(&mut self) -> u64;

    /// A run as it is stored.
    fn read(&mut self, run: RunId) -> Option<Stored>;
}

/// All runs.
#[derive(Default)]
pub struct Store {
    /// Where they really are; what is here is what was read there. None: nowhere else.
    pub disk: Option<Box<dyn Disk>>,
    /// The owner's number.
    pub epoch: u64,
    /// By run.
    pub runs: BTreeMap<RunId, Stored>,
    /// Runs by the key that they were started by, with a digest of the input.
    pub keys: BTreeMap<u64, (RunId, u64)>,
}

/// An earlier owner writes.
#[derive(Debug)]
pub struct Fenced;

impl Store {
    /// Puts writes on disk, all of them or none.
    pub fn sync(&mut self, epoch: u64, writes: &[Write]) -> Result<(), Fenced> {
        match &mut self.disk {
            Some(disk) => disk.sync(epoch, writes)?,
            None if epoch != self.epoch && !is_on(Mutation::EarlierOwnersWrite) => return Err(Fenced),
            None => {}
        }
        for write in writes {
            self.put(epoch, write);
        }
        Ok(())
    }

    fn put(&mut self, epoch: u64, write: &Write) {
        let stored = self.runs.entry(write.run).or_default();
        if let Some((key, input)) = write.key {
            stored.revision = write.revision;
            self.keys.insert(key, (write.run, input));
        }
        log::append(&write.record, &mut stored.log);
        stored.epochs.push(epoch);
    }

    /// Loses writes that were not on disk: the first may have reached it, the next in part.
    pub fn crash(&mut self, epoch: u64, writes: &[Write], random: &mut Random) {
        if self.disk.is_some() {
            // A transaction is there or not; whoever is gone does not know which.
            if random.permille(500) {
                let _ = self.sync(epoch, writes);
            }
            return;
        }
        if epoch != self.epoch {
            return;
        }
        let whole = random.below(writes.len() as u64 + 1) as usize;
        for write in &writes[..whole] {
            self.put(epoch, write);
        }
        // A key is stored with its run's first record, so a torn one has none.
        let Some(torn) = writes.get(whole).filter(|write| write.key.is_none()) else {
            return;
        };
        let mut bytes = Vec::new();
        log::append(&torn.record, &mut bytes);
        bytes.truncate(random.below(bytes.len() as u64) as usize);
        if let (true, Some(last)) = (random.permille(300), bytes.last_mut()) {
            *last ^= 1 << random.below(8);
        }
        self.runs.entry(torn.run).or_default().log.extend(bytes);
    }

    /// Reads anew what is really stored.
    pub fn reread(&mut self) {
        let Some(disk) = &mut self.disk else {
            return;
        };
        self.runs = self
            .runs
            .keys()
            .filter_map(|&run| Some((run, disk.read(run)?)))
            .collect();
        self.keys.retain(|_, (run, _)| self.runs.contains_key(run));
    }

    /// Takes everything over: nobody else writes from now on.
    pub fn claim(&mut self) -> u64 {
        if let Some(disk) = &mut self.disk {
            self.epoch = disk.claim();
            self.reread();
            return self.epoch;
        }
        self.epoch += 1;
        if !is_on(Mutation::TornRecordsStay) {
            for stored in self.runs.values_mut() {
                if let Ok(contents) = log::read(&stored.log) {
                    stored.log.truncate(contents.length);
                }
            }
        }
        self.epoch
    }
}
