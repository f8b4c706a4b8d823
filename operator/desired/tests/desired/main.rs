//! Tests of the operator's decisions, in one binary.

#![allow(clippy::unwrap_used, missing_docs)]

mod case;
mod golden;
mod properties;
mod reference;
mod sagas;
mod schema;
