//! Long runs on a real cluster, and their short forms for the tests.
//!
//! ```text
//! load          requests due at fixed times -> line: one connection, no retry -> sample: what became of each
//! disturbance   one thing after the other happens to the shop; each ends when it has settled
//! ledger        the orders table says what was really done
//! report        table, JSON, verdict
//! orders        orders are placed while everything that has to do with them is killed; money and stock have to balance
//! ```
//!
//! What a run claims it must be able to disprove: the client never sends a request twice and counts all that has no right
//! answer; the database is asked past the proxies; and a run with too few requests has failed.

mod database;
mod disturbance;
mod drops;
mod edits;
mod ledger;
mod line;
mod load;
pub mod orders;
mod process;
mod report;
mod sample;
mod shop;
mod traffic;
mod wait;

pub use disturbance::Disturbance;
pub use drops::{Options, run};
pub use line::Protocol;
pub use report::Report;
