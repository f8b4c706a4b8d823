//! The proxy as others see it: the real binary, real sockets, real servers and callers.
//!
//! One test binary, because linking it is the slow part.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

mod callers;
mod configuration;
mod draining;
mod failover;
mod framing;
mod gateway;
mod grpc;
mod limits;
mod messages;
mod outbound;
mod policies;
mod rate_limits;
mod shared_limits;
mod streaming;
mod telemetry;
