//! The binary among stand-ins for its API server, its operator and its participants, over a real database.
#![allow(clippy::unwrap_used, missing_docs)]

mod events;
mod grpc;
mod stage;
mod stand_ins;
mod traces;
