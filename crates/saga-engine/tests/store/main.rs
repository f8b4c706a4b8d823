//! The engine over PostgreSQL.

#![allow(clippy::unwrap_used)]

mod common;
mod conformance;
mod lanes;
mod process;
mod replicas;
mod secrets;
mod simulation;
mod turns;
