//! What people see who use the cluster that `cargo xtask up` started.
//!
//! Most of a test is waiting for Kubernetes. So there is one program of them all, and more of them run at once than there
//! are processors: `cargo xtask test`. What a test must have for itself, it locks ([`e2e::cluster`]).

#![allow(clippy::unwrap_used, reason = "a test panics to report")]

mod autoscaling;
mod mesh;
mod microservice_faults;
mod microservice_lifecycle;
mod operator_absent;
mod programmed;
mod quota;
mod rate_limits;
mod resilience;
mod saga_runs;
mod sagas;
mod shop;
mod traces;
