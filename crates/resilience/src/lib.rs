//! What stands around a call to another service, so that its trouble does not become ours.
//!
//! Each policy is a small state machine that takes the time (and chance) as an argument: no clock, no network, no task.
//! With the feature `tower` each has a thin layer that reads the clock and drives it (`drive`).
//!
//! ```text
//! request
//!   fallback      outermost: what is answered instead, also when the deadline passed
//!   deadline      the whole request, waiting and tries together; the caller's or ours, the earlier
//!   bulkhead      so many at once, so many waiting, in order
//!   retry         attempts, back-off, and the budget that bounds them all
//!   timeout       one try
//!   breaker       per dependency and per endpoint; counts tries
//!   balance, send
//! ```
//!
//! The order is a contract. Inside out: the breaker sees every try; a retry takes none of its own places in the bulkhead;
//! all waiting is within the deadline; and whatever goes wrong below it, the fallback can answer.
//!
//! All policies speak of what happened in one vocabulary, [`outcome`]. A further layer (ejection of endpoints, hedging,
//! adaptive concurrency, a cache) takes the same [`outcome::Outcome`] and has its place in this list; none of the others
//! needs to know.

pub mod breaker;
pub mod budget;
pub mod bulkhead;
pub mod deadline;
#[cfg(feature = "tower")]
pub mod drive;
pub mod fallback;
pub mod fault;
pub mod outcome;
pub mod percent;
pub mod policy;
pub mod retry;
mod wire;
