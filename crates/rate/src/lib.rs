//! Rate limiters, and decisions over several of them.
//!
//! Nothing here reads a clock, a network or a disk: callers pass the time.
//!
//! ```text
//! Limit        what is limited: rates by an algorithm, or concurrency; valid by construction
//! Limiter      a limit and all that was counted for it, by Key; can be updated while it is in use
//! LimitSet     limiters that are decided on together, each enforced or in shadow
//! Decision     passes or not, what every rate has left, and how long to wait
//! lease        one limit, shared out to several processes
//! ```
//!
//! **Guarantees**, each with its proof where it is implemented and its test in `tests/`:
//! - No algorithm admits more than its bound (table in [`limit`]), whatever threads do at once.
//! - A decision charges every limit or none. A refused request costs nothing anywhere (`decision`).
//! - Memory is bounded, and no key gets more than its limit for want of it (`store`).
//! - Changing a limit loses no count that still applies ([`Limiter::update`]).
//!
//! **Not guaranteed.** Limits count decisions, at the moment that the caller passes. What delays requests afterwards, a
//! queue say, may bring more of them to the backend within a window.

mod atomic;
mod cell;
pub mod concurrency;
pub mod decision;
mod fixed_window;
mod gcra;
pub mod key;
pub mod lease;
pub mod limit;
pub mod limiter;
pub mod mutation;
pub mod quota;
mod sliding_window;
pub mod store;
pub mod time;
mod word;
mod word_rule;

pub use concurrency::Permit;
pub use decision::{Decision, LimitSet, Mode, Reading};
pub use key::{Key, KeyMaker};
pub use limit::{Algorithm, Fault, Limit, Rate};
pub use limiter::{Charge, Limiter, Usage};
pub use quota::{Quota, Share};
pub use store::Occupancy;
pub use time::Moment;
