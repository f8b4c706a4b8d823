//! How many requests are under way at once.
//!
//! A [`Permit`] counts from the decision until it is dropped: when the response has ended, or the request failed, or its
//! task was cancelled. There is nothing to return by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The right to be under way. Gives its units back when it is dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped counts no longer"]
pub struct Permit {
    in_flight: Arc<InFlight>,
    units: u32,
}

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct InFlight(AtomicU32);

impl InFlight {
    /// Units under way.
    pub fn units(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Takes so many units, if no more than `most` are then under way. The other side of the answer is what was
    /// under way.
    pub fn enter(self: &Arc<Self>, units: u32, most: u32) -> Result<Permit, u32> {
        let within = |now: u32| now.checked_add(units).filter(|after| *after <= most);
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, within) {
            Ok(_) => Ok(Permit {
                in_flight: Arc::clone(self),
                units,
            }),
            Err(now) => Err(now),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.0.fetch_sub(self.units, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_makes_room() {
        let in_flight = Arc::new(InFlight::default());
        let first = in_flight.enter(2, 3).unwrap();
        let second = in_flight.enter(1, 3).unwrap();
        assert_eq!(in_flight.enter(1, 3).unwrap_err(), 3);
        drop(first);
        assert_eq!(in_flight.units(), 1);
        assert!(in_flight.enter(3, 3).is_err() && in_flight.enter(u32::MAX, u32::MAX).is_err());
        drop(second);
        assert_eq!(in_flight.units(), 0);
    }
}
