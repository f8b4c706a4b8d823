//! What is on its way.

use super::store::RunId;
use crate::event::{CallId, Op};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Message {
    /// The relay of the outbox sends a start.
    Relay(u64),
    /// A start reaches an engine.
    Start { engine: usize, key: u64, input: u64 },
    /// An engine's writes reach the disk.
    Sync { engine: usize, generation: u64 },
    /// A decision was made.
    Decide {
        engine: usize,
        generation: u64,
        run: RunId,
        step: u32,
        incarnation: u32,
    },
    /// A try reaches a participant.
    Try {
        engine: usize,
        generation: u64,
        run: RunId,
        call: CallKey,
        attempt: u32,
        is_poll: bool,
        revision: usize,
    },
    /// Its answer reaches the engine.
    Answer {
        engine: usize,
        generation: u64,
        run: RunId,
        call: CallKey,
        attempt: u32,
        outcome: usize,
    },
    /// A try has taken too long.
    Overdue {
        engine: usize,
        generation: u64,
        run: RunId,
        call: CallKey,
        attempt: u32,
    },
    /// A timer of an engine.
    Timer {
        engine: usize,
        generation: u64,
        run: RunId,
        timer: TimerKey,
        until: u64,
    },
    /// A crashed engine is back.
    Restart(usize),
    /// Somebody intervenes.
    Intervene { run: RunId, how: u64 },
}

pub(super) type CallKey = (u32, u32, bool, u32);
pub(super) type TimerKey = Option<(CallKey, u32)>;

pub(super) const fn key_of(call: CallId) -> CallKey {
    let is_compensation = matches!(call.op, Op::Compensation);
    (call.step, call.item, is_compensation, call.incarnation)
}

pub(super) const fn call_of((step, item, is_compensation, incarnation): CallKey) -> CallId {
    CallId {
        step,
        item,
        op: if is_compensation {
            Op::Compensation
        } else {
            Op::Action
        },
        incarnation,
    }
}
