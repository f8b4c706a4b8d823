//! A number that threads change together: by compare-and-swap, or held for a moment.
//!
//! A limit with one rate is a single compare-and-swap ([`Word::change`]). A decision over several words cannot be one: it
//! *holds* each word in turn ([`Word::hold`]), looks at all, and then sets all or none. While a word is held, nobody
//! else changes it, so a refusal leaves no trace: there is no charge to give back, and nobody was refused on
//! account of a charge that was given back later. (To charge and give back is no way out for a token bucket: what drained in
//! between is not known any more, and giving back the whole charge would admit too much.)
//!
//! The upper bit says "held". Words are held in one order everywhere, so holders never wait in a circle; they wait for
//! nanoseconds, and give the processor away if it takes longer.

use crate::atomic::{AtomicU64, Ordering, pause};

const HELD: u64 = 1 << 63;

/// 63 bits of state.
#[derive(Debug)]
pub(crate) struct Word(AtomicU64);

/// A word that only this holder may change. Dropped, it is let go with its state as it was.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    word: &'a Word,
    state: u64,
}

impl Word {
    pub fn new(state: u64) -> Self {
        debug_assert_eq!(state & HELD, 0, "a state has 63 bits");
        Self(AtomicU64::new(state))
    }

    /// The state; while the word is held, that from before.
    pub fn state(&self) -> u64 {
        self.0.load(Ordering::Acquire) & !HELD
    }

    /// Changes the state to what `next` makes of it, or leaves it, and returns what `next` says besides. `next` is
    /// asked again if another thread was faster.
    #[inline]
    pub fn change<T>(&self, mut next: impl FnMut(u64) -> (Option<u64>, T)) -> T {
        let mut seen = self.0.load(Ordering::Acquire);
        let mut turn = 0;
        loop {
            if seen & HELD != 0 {
                pause(turn);
                turn += 1;
                seen = self.0.load(Ordering::Acquire);
                continue;
            }
            let (state, answer) = next(seen);
            let Some(state) = state else {
                return answer;
            };
            debug_assert_eq!(state & HELD, 0, "a state has 63 bits");
            match self
                .0
                .compare_exchange_weak(seen, state, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return answer,
                Err(other) => seen = other,
            }
        }
    }

    /// Keeps all others from changing the state.
    pub fn hold(&self) -> Held<'_> {
        let mut seen = self.0.load(Ordering::Acquire);
        let mut turn = 0;
        loop {
            if seen & HELD != 0 {
                pause(turn);
                turn += 1;
                seen = self.0.load(Ordering::Acquire);
                continue;
            }
            match self
                .0
                .compare_exchange_weak(seen, seen | HELD, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => {
                    return Held {
                        word: self,
                        state: seen,
                    };
                }
                Err(other) => seen = other,
            }
        }
    }
}

impl Held<'_> {
    /// The state that is held.
    pub fn state(&self) -> u64 {
        self.state
    }

    /// Lets go with a new state.
    pub fn set(mut self, state: u64) {
        debug_assert_eq!(state & HELD, 0, "a state has 63 bits");
        self.state = state;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.word.0.store(self.state, Ordering::Release);
    }
}
