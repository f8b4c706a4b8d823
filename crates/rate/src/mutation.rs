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
