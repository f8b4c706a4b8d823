//! Sagas without I/O and clock.
//!
//! ```text
//! definition   what is done: steps with an action and a compensation each, an order, a pivot
//! order        which steps are before which
//! check        every fault of a definition, at its place; else the program
//! program      the definition with its expressions compiled: what a call says, by the data of a run
//! data         the data of a run: its input, what its steps have answered
//! canonical    the bytes that a revision is named by
//!
//! plan         what decisions need to know of a definition
//! event        what happens to a run, and what is to be done about it
//! run          (state, event, now) -> (state', effects)
//! simulation   engines, store, network and participants in one thread, with everything that can go wrong
//! log          records: events as they are stored, for ever
//! ```

pub mod canonical;
pub mod check;
pub mod data;
pub mod definition;
pub mod event;
pub mod log;
pub mod mutation;
pub mod order;
pub mod plan;
pub mod program;
pub mod random;
pub mod run;
pub mod simulation;

pub use check::{Fault, compile};
pub use definition::Definition;
pub use program::Program;
