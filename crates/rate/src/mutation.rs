//! Faults that can be switched on, one at a time, to see that the tests find them.
//!
//! Without the feature `mutations`, which only this package's tests ask for, every switch is a constant "off".

/// A mistake that one could make here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A refusal leaves the charges of the limits that had room.
    RefusalKeepsCharges,
    /// A full store forgets keys that are not idle.
    EvictionForgetsUse,
    /// A key that gets a cell of its own after the store was full begins with nothing used.
    OverflowIsForgotten,
    /// A sliding window counts only the sub-windows that begin within it.
    WindowWithoutItsEdge,
    /// An updated limit begins with nothing used.
    UpdateForgetsUse,
    /// A new epoch grants at once.
    LearningSkipped,
    /// What was spent no longer counts when the lease has ended.
    SpentReturnsAtOnce,
    /// A client says that it has used nothing.
    UseIsNotTold,
    /// A new epoch forgets the pods that ended before it.
    EndedAreForgotten,
    /// A new epoch takes what an earlier process of a pod spent for known when the present one is heard.
    RestartIsForgotten,
    /// An authority grants after its claim has ended.
    ClaimOutlived,
    /// A new epoch takes a message from before it for the pod's present state.
    HearsayIsBelieved,
    /// A new epoch sets nothing aside for pods that it has not heard from.
    FallbackNotSetAside,
    /// A client goes on with its lease when it has ended.
    LeaseOutlived,
    /// A client takes the answer to any of its requests.
    AnyAnswerTaken,
    /// A client counts the lease from the receipt of the grant.
    LengthFromReceipt,
    /// A client lets a lease that has ended be renewed.
    RenewalOfWhatHasEnded,
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
