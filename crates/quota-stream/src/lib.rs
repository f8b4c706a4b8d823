//! The gRPC stream on which proxies lease their parts of limits from the quota authority.
//!
//! `proto/trellis/quota/v1/quota.proto` is the interface; [`v1`] is generated from it. The generated file is checked
//! in, so that nobody needs a protobuf compiler; `tests/generated.rs` fails when the two differ, and writes the file
//! anew with `TRELLIS_WRITE=1 cargo test -p trellis-quota-stream`.
//!
//! Messages are turned into those of [`trellis_rate::lease`] and back in [`wire`], and both sides count by [`clock`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod clock;
pub mod wire;

/// Messages, client and server of version 1.
#[allow(clippy::all, clippy::pedantic, missing_docs, unused_qualifications)]
#[rustfmt::skip]
#[path = "generated/trellis.quota.v1.rs"]
pub mod v1;

/// Audience of the tokens that callers show.
pub const AUDIENCE: &str = "trellis-quota";
/// Metadata key with the caller's proof: `Bearer <token>`.
pub const AUTHORIZATION: &str = "authorization";
/// Metadata key with the address of the replica that grants.
pub const LEADER: &str = "trellis-leader";
