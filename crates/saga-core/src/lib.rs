//! Sagas without I/O and clock.
//!
//! ```text
//! definition   what is done: steps with an action and a compensation each, an order, a pivot
//! order        which steps are before which
//! check        every fault of a definition, at its place; else the program
//! program      the definition with its expressions compiled: what a call says, by the data of a run
//! canonical    the bytes that a revision is named by
//! ```

pub mod canonical;
pub mod check;
pub mod definition;
pub mod order;
pub mod program;

pub use check::{Fault, compile};
pub use definition::Definition;
pub use program::Program;
