//! Faults that can be switched on, one at a time, to see that the tests find them.
//!
//! Without the feature `mutations`, which only this package's tests ask for, every switch is a constant "off".

/// A mistake that one could make here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::EnumIter)]
pub enum Mutation {
    /// An action of which nobody knows what came is not compensated.
    UnknownIsNotCompensated,
    /// A step is compensated before those after it.
    CompensatedInAnyOrder,
    /// A compensation does not wait for the answer to its action.
    CompensatedInFlight,
    /// The run's timeout turns it round after the pivot was tried.
    TimeoutAfterPivot,
    /// A pivot of which nobody knows whether it was done is given up.
    UnknownPivotTurnsRound,
    /// A timer counts whenever it fires.
    TimerBeforeItsTime,
    /// A timer counts again.
    TimerTwice,
    /// An action is tried again on the way back.
    RetriedOnTheWayBack,
    /// A step for several elements is done with the first.
    FirstElementIsAll,
    /// Of several elements the last is compensated.
    OneElementCompensated,
    /// A compensation that fails for good counts as done.
    FailedCompensationIsDone,
    /// A step after the pivot that fails for good turns the run round.
    RetriableTurnsRound,
    /// Whoever takes a run over forgets the calls that were on their way.
    CallsAreForgotten,
    /// Whoever takes a run over forgets the timers.
    TimersAreForgotten,
    /// A step whose condition does not hold keeps those after it waiting.
    SkippedBlocks,
    /// A run ends while a step is open.
    EndsTooEarly,
    /// Pauses are another at each replay.
    PausesByTheClock,
    /// Effects are done before their event is stored.
    EffectsBeforeEvents,
    /// A start is acknowledged before it is stored.
    AcknowledgedBeforeStored,
    /// What a crash left of a record is taken for one.
    TornRecordsStay,
    /// The store takes what an earlier owner writes.
    EarlierOwnersWrite,
    /// A start with a key that was seen begins another run.
    KeysAreForgotten,
    /// A run goes on by the newest revision.
    NewestRevision,
    /// A message of the outbox is taken out before it was sent.
    OutboxForgets,
    /// A participant does again what it has done.
    DuplicatesAreDone,
    /// A participant does what it has refused.
    RefusalsAreForgotten,
    /// A compensation of what was never done leaves nothing behind.
    NullCompensationIsForgotten,
    /// A participant compensates again what it has compensated.
    DuplicatesAreCompensated,
}

#[cfg(feature = "mutations")]
mod switch {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Runs something with a fault, on this thread.
    pub fn with<T>(mutation: Mutation, run: impl FnOnce() -> T) -> T {
        struct Off;
        impl Drop for Off {
            fn drop(&mut self) {
                ON.set(None);
            }
        }
        let _off = Off;
        ON.set(Some(mutation));
        run()
    }

    pub(crate) fn is_on(mutation: Mutation) -> bool {
        ON.get() == Some(mutation)
    }
}

#[cfg(feature = "mutations")]
pub use switch::with;

#[cfg(feature = "mutations")]
pub(crate) use switch::is_on;

#[cfg(not(feature = "mutations"))]
pub(crate) const fn is_on(_: Mutation) -> bool {
    false
}
