//! What a seed decides.

use trellis_rate::Moment;
use trellis_rate::lease::DRIFT;

use crate::world::MILLI;

/// What can go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Messages are lost, doubled and late; pods are cut off.
    pub network: bool,
    /// Pods restart, end and come.
    pub pods: bool,
    /// Authorities stop, stall, and others take over.
    pub authorities: bool,
    /// Clocks are off by as much as they may be.
    pub clocks: bool,
}

impl Faults {
    pub const fn all() -> Self {
        Self {
            network: true,
            pods: true,
            authorities: true,
            clocks: true,
        }
    }

    pub const fn none() -> Self {
        Self {
            network: false,
            pods: false,
            authorities: false,
            clocks: false,
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from).max(1)
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }
}

/// A clock that is off by a constant and by a rate.
#[derive(Clone, Copy)]
pub struct Clock {
    offset: u64,
    /// Parts in a million that it is fast, above `MILLION - 1000`.
    rate: u64,
}

const MILLION: u64 = 1_000_000;

impl Clock {
    pub fn new(chance: &mut Chance, faults: Faults) -> Self {
        let drift = MILLION / u64::from(DRIFT);
        let rate = match (faults.clocks, chance.between(0, 3)) {
            (false, _) | (_, 0) => MILLION,
            (_, 1) => MILLION - drift,
            _ => MILLION + drift,
        };
        let offset = chance.between(0, 1_000_000 * MILLI);
        Self { offset, rate }
    }

    pub fn read(self, now: u64) -> Moment {
        let elapsed = u128::from(now) * u128::from(self.rate) / u128::from(MILLION);
        Moment::from_nanos(self.offset + elapsed as u64)
    }
}
