//! The algorithms whose state is one word.

use std::time::Duration;

use crate::fixed_window::FixedWindow;
use crate::gcra::Gcra;
use crate::quota::{Quota, Share};
use crate::time::Moment;

/// What a word means, and how it is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WordRule {
    Gcra(Gcra),
    FixedWindow(FixedWindow),
}

impl WordRule {
    /// The state after a charge, or `None` if there is no room, and the quota either way.
    #[inline]
    pub fn charge(&self, state: u64, now: Moment, cost: u32, share: Share) -> (Option<u64>, Quota) {
        match self {
            Self::Gcra(rule) => rule.charge(state, now, cost, share),
            Self::FixedWindow(rule) => rule.charge(state, now, cost, share),
        }
    }

    /// Whether the state is as good as none.
    pub fn is_idle(&self, state: u64, now: Moment) -> bool {
        match self {
            Self::Gcra(_) => Gcra::is_idle(state, now),
            Self::FixedWindow(rule) => rule.is_idle(state, now),
        }
    }

    /// What was used of the rate and still counts.
    pub fn used(&self, state: u64, now: Moment) -> u32 {
        match self {
            Self::Gcra(rule) => rule.used(state, now),
            Self::FixedWindow(rule) => rule.used(state, now),
        }
    }

    /// The state in which so much of the rate is used.
    pub fn missing(&self, used: u32, now: Moment) -> u64 {
        match self {
            Self::Gcra(rule) => rule.missing(used, now),
            Self::FixedWindow(rule) => rule.missing(used, now),
        }
    }

    /// The state for this rule of a word that was kept by another: as much is used, and at most all.
    pub fn carried(&self, state: u64, from: &Self, now: Moment) -> u64 {
        if self == from {
            return state;
        }
        self.missing(from.used(state, now), now)
    }

    /// After this long nothing still counts.
    pub fn memory(&self) -> Duration {
        match self {
            Self::Gcra(rule) => rule.memory(),
            Self::FixedWindow(rule) => rule.memory(),
        }
    }

    /// The window's length in nanoseconds.
    pub fn window(&self) -> u64 {
        match self {
            Self::Gcra(rule) => rule.window(),
            Self::FixedWindow(rule) => rule.window(),
        }
    }
}
