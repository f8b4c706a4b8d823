//! Whether the cluster becomes what it should be, whatever happens on the way, and stays so: the operator as a process,
//! against a real etcd, API server and controller manager that this test starts for itself. There is no kubelet: pods stay
//! pending.
//!
//! ```text
//! stage      the control plane, one for all tests, lent to one test at a time: an operator sees the whole cluster
//! operator   the process under test, which can be told to fail at a given write
//! settled    when there is nothing left to do
//! end_state  every object without what differs from run to run, and who wrote how often
//! scenario   what a user, or a rival, does
//! ```
//!
//! The whole of it takes minutes: `cargo xtask soak`. Without `--ignored` a selection runs.

#![allow(clippy::unwrap_used, reason = "a test panics to report")]

mod crashes;
mod end_state;
mod fields;
mod leader;
mod operator;
mod rest;
mod rivals;
mod scenario;
mod settled;
mod stage;
mod two;
mod watches;
