//! The retry budget: how many retries a dependency gets, whatever its callers would like.
//!
//! Retries multiply load exactly when there is too little capacity, and over several hops they multiply each other. The
//! budget bounds the sum: a share of the requests (20 %) and a floor (10 per second) so that a service with few requests
//! can be retried at all.
//!
//! **Two accounts**, each exact, in integers:
//!
//! - the *share*: requests and retries are counted in [`SLOTS`] time slots. A retry is granted if, with it, the retries
//!   of the last `SLOTS + 1` slots are at most the share of the requests of the last `SLOTS`: the first range is never
//!   shorter than the window, the second never longer. So in every window that ends with a retry of this account, retries
//!   are at most the share of requests: **no rounding, no edge of a slot, no drift.** The price is that under a steady
//!   load about 1 in [`SLOTS`] retries that the share would allow is refused as well.
//! - the *floor*: the times of its last retries. In no second are there more than `min_per_second`.
//!
//! tower's `TpsBudget`, the model for this, converts the share into a whole number of tokens and so grants 1.0 for 0.6
//! (tower issue 857). Envoy's budget is a share of the requests in flight, which lets a slow service be retried more. The
//! defaults are Linkerd's and those of Gateway API's GEP-3388: 20 % over 10 s, at least 10 per second.
//!
//! **What it does not protect against**: the retries of other proxies (each has its own budget, so the sum is the share of
//! the sum of their requests and a floor for each), retries that the application makes itself, and the load of the
//! requests proper.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    fault::{self, Fault},
    percent::Percent,
    wire,
};

/// Slots of a window.
pub const SLOTS: u64 = 50;
const KEPT: usize = SLOTS as usize + 1;
const SECOND: Duration = Duration::from_secs(1);
/// Highest floor: its times are remembered one by one.
const MAX_FLOOR: u32 = 1000;

/// How many retries there may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Retries per hundred requests. Default 20.
    pub percent: Percent,
    /// Retries in any second that are granted beside these. Default 10.
    pub min_per_second: u32,
    /// How far back requests count. Default 10 s.
    #[serde(with = "wire::millis")]
    pub window: Duration,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Budget {
    settings: Settings,
    slot_nanos: u128,
    origin: Option<Instant>,
    latest: u64,
    slots: [Slot; KEPT],
    floor: VecDeque<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    requests: u32,
    retries: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            percent: Percent::constant(20),
            min_per_second: 10,
            window: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// Every fault.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let most = Duration::from_secs(600);
        fault::within(&mut faults, "retry.budget.window", self.window, SECOND, most);
        if self.min_per_second > MAX_FLOOR {
            faults.push(Fault {
                field: "retry.budget.minPerSecond",
                message: format!("is {}; write 0 to {MAX_FLOOR}", self.min_per_second),
            });
        }
        faults
    }
}

impl Budget {
    /// A budget that has seen no request.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            slot_nanos: (settings.window.as_nanos() / u128::from(SLOTS)).max(1),
            settings,
            origin: None,
            latest: 0,
            slots: [Slot::default(); KEPT],
            floor: VecDeque::new(),
        }
    }

    /// Takes new settings. What was counted goes on counting, unless the window changed.
    pub fn reconfigure(&mut self, settings: Settings) {
        if settings.window == self.settings.window {
            self.settings = settings;
        } else {
            let floor = std::mem::take(&mut self.floor);
            *self = Self {
                floor,
                ..Self::new(settings)
            };
        }
    }

    /// Counts a request (not a retry).
    pub fn request(&mut self, now: Instant) {
        self.advance(now);
        let slot = self.slot(0);
        slot.requests = slot.requests.saturating_add(1);
    }

    /// Takes a retry out of the budget. False: there is none left, and nothing was taken.
    #[must_use]
    pub fn withdraw(&mut self, now: Instant) -> bool {
        self.advance(now);
        self.withdraw_from_share() || self.withdraw_from_floor(now)
    }

    fn withdraw_from_share(&mut self) -> bool {
        let (mut requests, mut retries) = (0, 1);
        for back in 0..=SLOTS {
            let slot = *self.slot(back);
            retries += u64::from(slot.retries);
            if back < SLOTS {
                requests += u64::from(slot.requests);
            }
        }
        let granted = self.settings.percent.covers(retries, requests);
        if granted {
            self.slot(0).retries += 1;
        }
        granted
    }

    fn withdraw_from_floor(&mut self, now: Instant) -> bool {
        // Readings of the clock by several threads may come out of order by a little.
        let now = self.floor.back().map_or(now, |last| now.max(*last));
        while self.floor.front().is_some_and(|time| *time + SECOND <= now) {
            self.floor.pop_front();
        }
        let granted = self.floor.len() < self.settings.min_per_second.min(MAX_FLOOR) as usize;
        if granted {
            self.floor.push_back(now);
        }
        granted
    }

    /// The slot so many slots ago; before the first request there are empty ones.
    fn slot(&mut self, back: u64) -> &mut Slot {
        let kept = KEPT as u64;
        &mut self.slots[((self.latest % kept + kept - back) % kept) as usize]
    }

    fn advance(&mut self, now: Instant) {
        let origin = *self.origin.get_or_insert(now);
        let number = now.saturating_duration_since(origin).as_nanos() / self.slot_nanos;
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        for _ in 0..number.saturating_sub(self.latest).min(KEPT as u64) {
            self.latest += 1;
            *self.slot(0) = Slot::default();
        }
        self.latest = self.latest.max(number);
    }
}
