//! The interfaces of the saga engine.
//!
//! - [`v1`]: gRPC. `proto/trellis/saga/v1/revisions.proto` is the stream on which it gets its revisions from the operator, and says what
//!   runs; `runs.proto` is what callers ask of it. The generated file is checked in, so that nobody needs a protobuf compiler;
//!   `tests/generated.rs` fails when the two differ, and writes the file anew with `TRELLIS_WRITE=1 cargo test -p trellis-saga-api`.
//! - [`runs`]: what callers send and get as JSON, and the same as messages.

pub mod runs;

/// Messages, client and server of version 1.
#[allow(clippy::all, clippy::pedantic, missing_docs, unused_qualifications)]
#[rustfmt::skip]
#[path = "generated/trellis.saga.v1.rs"]
pub mod v1;

/// Audience of the tokens that the engine shows to the operator.
pub const AUDIENCE: &str = "trellis-config";
/// Metadata key with the caller's proof: `Bearer <token>`.
pub const AUTHORIZATION: &str = "authorization";
/// Metadata key with the address of the replica that leads.
pub const LEADER: &str = "trellis-leader";
