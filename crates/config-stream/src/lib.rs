//! The gRPC stream that carries documents and endpoints from the operator to its proxies.
//!
//! `proto/trellis/config/v1/config.proto` is the interface; [`v1`] is generated from it. The generated file is checked
//! in, so that nobody needs a protobuf compiler; `tests/generated.rs` fails when the two differ, and writes the file
//! anew with `TRELLIS_WRITE=1 cargo test -p trellis-config-stream`.

/// Messages, client and server of version 1.
#[allow(clippy::all, clippy::pedantic, missing_docs, unused_qualifications)]
#[rustfmt::skip]
#[path = "generated/trellis.config.v1.rs"]
pub mod v1;

/// Metadata key with the caller's proof: `Bearer <token>`.
pub const AUTHORIZATION: &str = "authorization";
