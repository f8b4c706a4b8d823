//! The Trellis custom resources: what a user writes (`spec`) and what the operator answers (`status`).
//!
//! This crate is data only. It depends on `kube` for the derive macros and on nothing that can reach a network, a
//! clock or a disk, so that `operator/desired`, the command line and the tests share one definition with the operator.
//!
//! ```text
//! microservice        MicroserviceSpec, MicroserviceStatus, the CRD
//! microservice/*      one file a group of fields
//! rate_limit_policy   RateLimitPolicySpec, RateLimitPolicyStatus, the CRD
//! saga                SagaSpec, SagaStatus, the CRD
//! condition           condition types and reasons (stable enums; docs/reference/conditions.md lists them)
//! problem             a fault with its field path
//! names               labels, annotations, child names, ports that Trellis reserves
//! quantity, duration  values with a Kubernetes spelling
//! crd                 the CustomResourceDefinitions, made fit for `kubectl explain` and server-side apply
//! ```

pub mod condition;
pub mod crd;
pub mod duration;
pub mod microservice;
pub mod names;
pub mod problem;
pub mod quantity;
pub mod rate_limit_policy;
pub mod saga;

pub use crd::crds;
pub use duration::Duration;
pub use microservice::{Microservice, MicroserviceSpec, MicroserviceStatus};
pub use problem::{Problem, Severity};
pub use quantity::Quantity;
pub use rate_limit_policy::{RateLimitPolicy, RateLimitPolicySpec, RateLimitPolicyStatus};
pub use saga::{Saga, SagaSpec, SagaStatus};

/// API group of every Trellis kind.
pub const GROUP: &str = "trellis.dev";
/// The one served and stored version.
pub const VERSION: &str = "v1alpha1";
