//! The atomics that `word` is made of; its model check puts others in their place.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

/// Turns of waiting after which the processor is given away: who holds a word was set aside.
const PATIENCE: u32 = 32;

/// Waits a moment for another thread.
pub(crate) fn pause(turn: u32) {
    if turn < PATIENCE {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}
