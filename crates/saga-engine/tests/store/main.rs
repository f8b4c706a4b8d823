//! The engine over PostgreSQL.

#![allow(clippy::unwrap_used)]

mod common;
mod conformance;
mod lanes;
mod process;
mod replicas;
mod simulation;
mod turns;
