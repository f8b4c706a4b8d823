//! What a service needs to take part in sagas: it knows requests that it has seen, and its compensation may
//! come first.
//!
//! ```text
//! request -> Branch (headers) -> transaction { Barrier: seen? -> the handler's work -> stored answer } -> Answer
//! ```
//!
//! **Flow.** The service's migration has [`SCHEMA`]. A handler takes `Option<Branch>`, begins its
//! transaction, lets [`Barrier::run`] do its work, and commits.
//!
//! **Guarantees**, of everything that the work does in that transaction:
//! - An action takes effect once, however often its request comes, also at the same time. Every copy gets
//!   the first one's status and body; a refusal stays refused.
//! - A compensation that comes first, or alone, does nothing and succeeds; the action is refused after it.
//! - A compensation takes effect once, and may be tried again if it fails.
//! - An error that may pass leaves nothing behind.
//!
//! **Assumptions.** PostgreSQL at its default level, READ COMMITTED: who waited for another transaction then
//! sees what it committed. The handler commits only what the barrier has answered with `Ok`.
//!
//! **Caveats.** What the work does elsewhere (a call, a message not in the outbox) is not undone. Rows older
//! than [`RETENTION`] are forgotten, so a run must not be longer under way. Headers of an answer are not
//! stored, so there is no 202 with `Location`: work that takes long needs a record of its own.
//!
//! A service without such a transaction has [`BestEffort`], which protects against less: see there.

mod answer;
mod barrier;
pub mod best_effort;
mod branch;

use std::time::Duration;

pub use answer::Answer;
pub use barrier::Barrier;
pub use best_effort::{BestEffort, BestEffortLayer};
pub use branch::{Branch, HeaderError, Op};

/// The table, for a migration of the service.
pub const SCHEMA: &str = include_str!("../sql/barrier.sql");

/// How long a service should remember: as long as the engine keeps compensated runs, unless told otherwise.
pub const RETENTION: Duration = Duration::from_hours(30 * 24);
