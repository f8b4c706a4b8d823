//! A limit and all that was counted for it.

use std::num::NonZeroU32;

use crate::key::Key;
use crate::limit::Limit;
use crate::quota::Share;
use crate::store::{Occupancy, Place, Store};
use crate::time::Moment;

/// Counts by one limit. It is used through a `LimitSet`, and may be part of several (a namespace's limit applies to every
/// route): all of them count in it.
#[derive(Debug)]
pub struct Limiter {
    store: Store,
}

/// What was used of a limit and still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// So much passed, in parts of the whole: a sliding window knows.
    Passed(u32),
    /// So much of the bucket is missing, in parts of the whole: it was taken at the shares that held then.
    Missing(u32),
    /// Something did, or nothing at all: a fixed window has forgotten what passed in the one before.
    Something(bool),
}

impl Usage {
    /// Of nothing.
    pub(crate) const NOTHING: Self = Self::Passed(0);

    /// About how much, in parts of the `whole` that it was asked for in.
    pub fn about(self, whole: NonZeroU32) -> u32 {
        match self {
            Self::Passed(parts) | Self::Missing(parts) => parts,
            Self::Something(false) => 0,
            Self::Something(true) => whole.get(),
        }
    }

    /// Whether nothing was used that still counts.
    pub fn is_nothing(self) -> bool {
        self.about(NonZeroU32::MIN) == 0
    }
}

/// What a request asks of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Whose counter; none if the limit has no counters. A limit has them for all requests or for none.
    pub key: Option<Key>,
    /// How much; 1 for most.
    pub cost: u32,
    /// The part of the limit that this process may use.
    pub share: Share,
}

impl Charge {
    /// One unit, of a limit without counters.
    pub const ONE: Self = Self {
        key: None,
        cost: 1,
        share: Share::WHOLE,
    };

    /// One unit, of a key's counter.
    pub const fn of(key: Key) -> Self {
        Self {
            key: Some(key),
            ..Self::ONE
        }
    }

    /// So many units.
    #[must_use]
    pub const fn costing(self, cost: u32) -> Self {
        Self { cost, ..self }
    }

    /// Of a part of the limit.
    #[must_use]
    pub const fn within(self, share: Share) -> Self {
        Self { share, ..self }
    }
}

impl Limiter {
    /// For a limit without counters.
    pub fn new(limit: &Limit) -> Self {
        Self {
            store: Store::new(limit, 0),
        }
    }

    /// For a limit with counters, of which at most about `most_keys` are kept apart (see `store`).
    pub fn keyed(limit: &Limit, most_keys: usize) -> Self {
        Self {
            store: Store::new(limit, most_keys.max(1)),
        }
    }

    /// Goes by another limit from now on, whatever it was, while decisions go on.
    ///
    /// What was used and still counts stays used:
    /// - A rate goes on with the counter of the rate that had the same window; if there was none, with that in its
    ///   place in the list, or with the last one.
    /// - 100 of 100 used and the limit raised to 150: 50 are left at once. Lowered to 50: none, until enough has run off.
    ///   A token bucket is at most empty: lowered to 50, it refills from nothing at the new rate.
    /// - A sliding window keeps the moments, as exactly as it has them. If the window gets longer, what ran off from
    ///   the shorter one is not known any more.
    /// - From one algorithm to another, the amount is carried over, as if used just now.
    /// - What is under way stays counted. Between rates and concurrency there is nothing to carry over.
    ///
    /// The bound of the new limit holds for every window that begins after the update. Costs about ten nanoseconds a
    /// key; decisions on a shard (1/64 of the keys) wait for that shard.
    pub fn update(&self, limit: &Limit, now: Moment) {
        self.store.update(limit, now);
    }

    /// What was used of a key's limit and still counts, in parts of `whole`, rounded up.
    pub fn usage(&self, key: Option<Key>, whole: NonZeroU32, now: Moment) -> Usage {
        let shard = self.store.read(key);
        let place = key.map_or(Place::Common, Place::Own);
        // A key without a cell may have been counted in that of all that have none.
        let cell = shard.cell(place).or_else(|| shard.cell(Place::Common));
        cell.map_or(Usage::NOTHING, |cell| cell.usage(shard.rules(), whole, now))
    }

    /// Forgets every idle key. Needed only to give memory back early: a table that would grow or is full does it by itself.
    pub fn sweep(&self, now: Moment) {
        self.store.sweep(now);
    }

    /// How full the memory is.
    pub fn occupancy(&self) -> Occupancy {
        self.store.occupancy()
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }
}
