//! What the tests of domain services share. A dev-dependency only.
//!
//! Everything here panics on a fault: a test that cannot do its setup has failed, and it says what to
//! install.

// Panicking is this crate's way of reporting, as it is a test's.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "control-plane")]
pub mod control_plane;
pub mod kstatus;
pub mod openapi;
pub mod otlp;
pub mod postgres;
pub mod process;
pub mod requests;
pub mod restore;
pub mod wait;
