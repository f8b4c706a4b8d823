//! What the end-to-end tests share. Every test runs against the cluster that `cargo xtask up` made, through the same
//! API server, images and manifests that a user has.
//!
//! ```text
//! cluster    the connection, and the lock that keeps tests which disturb the operator away from the others
//! namespace  a namespace of a test's own, removed afterwards; what was in it is printed when the test fails
//! wait       conditions with a deadline
//! http       requests through a gateway
//! image      images that a test builds
//! kstatus    the status contract, checked on everything that happens in a namespace
//! ```

pub mod cluster;
pub mod http;
pub mod image;
pub mod kstatus;
pub mod namespace;
pub mod wait;

pub use cluster::Cluster;
pub use namespace::with_namespace;
pub use trellis_testkit::restore::restoring;
pub use wait::eventually;
