//! Cells by key, in bounded memory.
//!
//! Keys are spread over shards, each behind a lock. A decision reads: it takes the lock shared and changes cells
//! by their own means. Inserting, sweeping and changing the rules take it alone.
//!
//! **Memory.** A key and its cell take 32 bytes and a byte of the table's own; tables are between 7/16 and 7/8
//! full, so 38 to 76 bytes a key for a limit with one rate that is a token bucket or a fixed window. Several rates take 32 (and
//! the allocator's) more; a sliding window up to 1.1 KiB for a key that is busy in every part of its window.
//!
//! **Expiry.** Whether a cell is idle (forgetting it changes no decision) follows from its state and the time. When a
//! table would have to grow or is full, its idle cells are evicted first, at most eight times in the time that a cell
//! needs to become idle.
//!
//! **Eviction never resets a limit that still bites.** When a shard is full of cells that are not idle, new keys of this shard are
//! counted together in its *common* cell, against one limit: no key gets more than it should; strangers share until there is
//! room. A key that gets a cell of its own later takes over what was used in the common one. (A limit on concurrency has
//! no such way, since a permit ends in the cell where it began: new keys are refused.)

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};

use crate::cell::Cell;
use crate::key::{Key, KeyHash};
use crate::limit::{Limit, Rules};
use crate::mutation::{Mutation, is_on};
use crate::time::{Moment, nanos};

/// Shards of a store that is big enough for them.
const MOST_SHARDS: usize = 64;
/// Keys per shard below which there are fewer shards.
const KEYS_PER_SHARD: usize = 64;
/// Sweeps in the time that a cell needs to become idle.
const SWEEPS_PER_MEMORY: u64 = 8;

/// All cells of a limiter.
#[derive(Debug)]
pub(crate) struct Store {
    shards: Box<[RwLock<Shard>]>,
    overflowed: AtomicU64,
}

/// Some of the cells, and the rules that they were made by.
#[derive(Debug)]
pub(crate) struct Shard {
    rules: Arc<Rules>,
    common: Cell,
    cells: HashMap<Key, Cell, KeyHash>,
    most: usize,
    next_sweep: Moment,
    evicted: u64,
}

/// Where a key is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a cell of its own.
    Own(Key),
    /// In the cell of all that have none.
    Common,
    /// Nowhere: there is no room.
    Nowhere,
}

/// How full a limiter's memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Keys with a cell of their own.
    pub keys: usize,
    /// Keys that were forgotten since they were idle.
    pub evicted: u64,
    /// Decisions on keys for which there was no room.
    pub overflowed: u64,
    /// Bytes that the tables take; logs of sliding windows and cells of several rates come on top.
    pub table_bytes: usize,
}

impl Store {
    /// For at most about so many keys; none for a limit that has no counters.
    pub fn new(limit: &Limit, most_keys: usize) -> Self {
        let rules = Arc::new(limit.rules());
        let shards = (most_keys / KEYS_PER_SHARD)
            .clamp(1, MOST_SHARDS)
            .next_power_of_two();
        let shard = |_| {
            RwLock::new(Shard {
                common: Cell::fresh(&rules),
                rules: Arc::clone(&rules),
                cells: HashMap::default(),
                most: most_keys.div_ceil(shards),
                next_sweep: Moment::ORIGIN,
                evicted: 0,
            })
        };
        Self {
            shards: (0..shards).map(shard).collect(),
            overflowed: AtomicU64::new(0),
        }
    }

    fn shard(&self, key: Option<Key>) -> &RwLock<Shard> {
        &self.shards[key.map_or(0, |key| key.shard(self.shards.len()))]
    }

    /// The shard in which a key is counted. While it is held, no cell of it comes or goes.
    #[inline]
    pub fn read(&self, key: Option<Key>) -> RwLockReadGuard<'_, Shard> {
        self.shard(key).read()
    }

    /// Makes a cell for a key, or says where else it is counted. No other shard may be held.
    #[cold]
    pub fn insert(&self, key: Key, now: Moment) -> Place {
        let place = self.shard(Some(key)).write().insert(key, now);
        if !matches!(place, Place::Own(_)) {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        }
        place
    }

    /// Goes by another limit from now on. Each key is carried over in one step, seen by no decision half-way.
    pub fn update(&self, limit: &Limit, now: Moment) {
        let rules = Arc::new(limit.rules());
        for shard in &self.shards {
            shard.write().update(&rules, now);
        }
    }

    /// Forgets every idle key and gives the memory back.
    pub fn sweep(&self, now: Moment) {
        for shard in &self.shards {
            let mut shard = shard.write();
            shard.sweep(now);
            let keys = shard.cells.len();
            shard.cells.shrink_to(keys * 2);
        }
    }

    /// How full the memory is.
    pub fn occupancy(&self) -> Occupancy {
        let mut occupancy = Occupancy {
            overflowed: self.overflowed.load(Ordering::Relaxed),
            ..Occupancy::default()
        };
        for shard in &self.shards {
            let shard = shard.read();
            occupancy.keys += shard.cells.len();
            occupancy.evicted += shard.evicted;
            occupancy.table_bytes += table_bytes(shard.cells.capacity());
        }
        occupancy
    }
}

/// What a table for so many entries takes: slots are a power of two of which 7/8 are used, with a byte of control each.
const fn table_bytes(capacity: usize) -> usize {
    let slots = if capacity < 8 {
        capacity + 1
    } else {
        capacity / 7 * 8
    };
    slots * (size_of::<(Key, Cell)>() + 1)
}

impl Shard {
    /// The rules of every cell here.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The cell at a place; none for a key that has none yet.
    #[inline]
    pub fn cell(&self, place: Place) -> Option<&Cell> {
        match place {
            Place::Own(key) => self.cells.get(&key),
            Place::Common | Place::Nowhere => Some(&self.common),
        }
    }

    fn insert(&mut self, key: Key, now: Moment) -> Place {
        if self.cells.contains_key(&key) {
            return Place::Own(key);
        }
        let full = self.cells.len() >= self.most;
        if (full || self.cells.len() == self.cells.capacity()) && now >= self.next_sweep {
            self.sweep(now);
        }
        if self.cells.len() >= self.most && is_on(Mutation::EvictionForgetsUse) {
            self.cells.clear();
        }
        if self.cells.len() >= self.most {
            return match *self.rules {
                Rules::InFlight(_) => Place::Nowhere,
                Rules::Words(_) | Rules::Logs(_) => Place::Common,
            };
        }
        let cell = if is_on(Mutation::OverflowIsForgotten) {
            Cell::fresh(&self.rules)
        } else {
            self.common.copy()
        };
        self.cells.insert(key, cell);
        Place::Own(key)
    }

    fn sweep(&mut self, now: Moment) {
        let before = self.cells.len();
        let rules = &self.rules;
        self.cells.retain(|_, cell| !cell.is_idle(rules, now));
        self.evicted += (before - self.cells.len()) as u64;
        let pause = nanos(rules.memory()) / SWEEPS_PER_MEMORY;
        self.next_sweep = Moment::from_nanos(now.as_nanos().saturating_add(pause));
    }

    fn update(&mut self, rules: &Arc<Rules>, now: Moment) {
        if self.rules == *rules {
            return;
        }
        let from = std::mem::replace(&mut self.rules, Arc::clone(rules));
        for cell in self.cells.values_mut().chain([&mut self.common]) {
            *cell = if is_on(Mutation::UpdateForgetsUse) {
                Cell::fresh(rules)
            } else {
                cell.carried(&from, rules, now)
            };
        }
        self.next_sweep = Moment::ORIGIN;
    }
}
