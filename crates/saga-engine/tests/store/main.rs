//! The engine over PostgreSQL.

#![allow(clippy::unwrap_used)]

mod common;
mod conformance;
mod replicas;
mod simulation;
