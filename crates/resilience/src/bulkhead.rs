//! The bulkhead: so many requests to a dependency at once, so many waiting, the rest refused at once.
//!
//! A dependency that answers slowly holds the requests that wait for it. Without a bound they take all memory and all
//! connections of the caller, and with them its other dependencies. In front of a full bulkhead there is a queue that is
//! bounded in length and in time: it evens out bursts and cannot hide an overload.
//!
//! **Guarantees.** Never more than `max_concurrent` are in. Who waits enters in the order of arrival, and a newcomer never
//! overtakes. Nobody waits while there is a free place, and nobody enters after the end of their wait. A caller who goes
//! away, waiting or just let in, frees the place for the next.
//!
//! The machine counts and orders; it names who enters by a [`Ticket`] and leaves waking to its driver.
//!
//! **What it does not protect against**: requests that differ in cost (each takes one place), a limit that is wrong for
//! the capacity behind it (that is adaptive concurrency), one caller that takes all places (that is a rate limit), and connections that
//! were switched to another protocol: they have left their place.
//!
//! Sources: M. Nygard, "Release It!", 2007; the defaults are Envoy's circuit breakers (`max_requests`,
//! `max_pending_requests`: 1024), and a second of waiting.

#[cfg(feature = "tower")]
pub mod layer;

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    fault::{self, Fault},
    outcome::Refusal,
    wire,
};

/// How many requests, and how long they wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Requests under way at once. Default 1024.
    pub max_concurrent: NonZeroU32,
    /// Requests that wait for a place. Default 1024; 0: none waits.
    pub max_waiting: u32,
    /// Longest wait. Default 1 s.
    #[serde(with = "wire::millis")]
    pub max_wait: Duration,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Bulkhead {
    settings: Settings,
    inside: u32,
    waiting: VecDeque<Waiting>,
    next: u64,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    ticket: Ticket,
    until: Instant,
}

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What becomes of a request that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Arrival {
    /// It is in: [`Bulkhead::leave`] when it is done.
    Entered,
    /// It waits to be named, until then.
    Waits {
        /// Its name.
        ticket: Ticket,
        /// When it stops waiting.
        until: Instant,
    },
    /// There is no room to wait.
    Full,
}

/// Who is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many as may are in, and as many as may wait.
    #[error("failed to get a place: as many requests as may are under way and waiting")]
    Full,
    /// No place came free in time.
    #[error("failed to get a place in time")]
    Timeout,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrent: const { NonZeroU32::new(1024).expect("not zero") },
            max_waiting: 1024,
            max_wait: Duration::from_secs(1),
        }
    }
}

impl Settings {
    /// Every fault.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(60));
        if self.max_waiting > 0 {
            fault::within(&mut faults, "bulkhead.queueTimeout", self.max_wait, least, most);
        }
        faults
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::BulkheadFull,
            Refused::Timeout => Self::BulkheadTimeout,
        }
    }
}

impl Bulkhead {
    /// An empty one.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            inside: 0,
            waiting: VecDeque::new(),
            next: 0,
        }
    }

    /// Takes new settings; returns who enters because of them. Those above a lower limit finish.
    #[must_use]
    pub fn reconfigure(&mut self, settings: Settings, now: Instant) -> Vec<Ticket> {
        self.settings = settings;
        std::iter::from_fn(|| self.admit(now)).collect()
    }

    /// A request arrives. It waits until its deadline at the latest.
    pub fn arrive(&mut self, now: Instant, deadline: Option<Instant>) -> Arrival {
        if self.waiting.len() >= self.settings.max_waiting as usize {
            // Those whose wait has ended take no room, even if they have not gone yet.
            self.waiting.retain(|waiting| waiting.until > now);
        }
        if self.waiting.is_empty() && self.has_place() {
            self.inside += 1;
            return Arrival::Entered;
        }
        if self.waiting.len() >= self.settings.max_waiting as usize {
            return Arrival::Full;
        }
        let longest = now.checked_add(self.settings.max_wait);
        let until = [longest, deadline].into_iter().flatten().min().unwrap_or(now);
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiting.push_back(Waiting { ticket, until });
        Arrival::Waits { ticket, until }
    }

    /// One that was in is done; returns who enters in its place.
    #[must_use]
    pub fn leave(&mut self, now: Instant) -> Option<Ticket> {
        self.inside = self.inside.saturating_sub(1);
        self.admit(now)
    }

    /// One that waits goes away.
    pub fn abandon(&mut self, ticket: Ticket) {
        // Tickets are in order.
        if let Ok(place) = self
            .waiting
            .binary_search_by_key(&ticket, |waiting| waiting.ticket)
        {
            self.waiting.remove(place);
        }
    }

    /// How many are in.
    #[must_use]
    pub const fn inside(&self) -> u32 {
        self.inside
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    const fn has_place(&self) -> bool {
        self.inside < self.settings.max_concurrent.get()
    }

    fn admit(&mut self, now: Instant) -> Option<Ticket> {
        while self.has_place() {
            let next = self.waiting.pop_front()?;
            if next.until > now {
                self.inside += 1;
                return Some(next.ticket);
            }
        }
        None
    }
}
