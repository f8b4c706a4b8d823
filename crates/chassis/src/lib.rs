//! What every process of Trellis shares, so that each behaves the same from outside: where its health is
//! asked, what its log lines look like, how it leaves.
//!
//! ```text
//! always             telemetry  trace  readiness  drain  admin  metrics
//! feature `service`  args  config  server  problem  extract  page  db  client  fault_injection
//! ```
//!
//! The proxy and the operator take the first row only; a domain service of the shop takes both, and keeps
//! for itself nothing but its domain.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admin;
pub mod drain;
pub mod metrics;
pub mod readiness;
pub mod telemetry;
pub mod trace;

#[cfg(feature = "service")]
pub mod args;
#[cfg(feature = "service")]
pub mod client;
#[cfg(feature = "service")]
pub mod config;
#[cfg(feature = "service")]
pub mod db;
#[cfg(feature = "service")]
pub mod extract;
#[cfg(feature = "service")]
pub mod fault_injection;
#[cfg(feature = "service")]
pub mod page;
#[cfg(feature = "service")]
pub mod problem;
#[cfg(feature = "service")]
pub mod server;
