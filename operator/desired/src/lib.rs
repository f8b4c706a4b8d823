//! What the operator decides, apart from how it reads and writes.
//!
//! ```text
//! custom resource + what was read --validate--> Validated --build--> Resources<Prepared>
//!                                      |                                   | (the controller applies them)
//!                                      v                                   v
//!                                  problems ---------status--------- Resources<Applied>
//! ```
//!
//! This crate reaches no network, no disk and no clock: `Cargo.toml` has nothing that could. So every decision is a
//! function from values to values, the golden files in `tests/golden/` are its documentation, and `trellis render`
//! and `trellis check` run the very code that the operator runs.

pub mod microservice;
pub mod rate_limit;
pub mod resources;
pub mod saga;
mod syntax;

pub use resources::{Applied, Prepared, ReplicaHandover, Resources};
