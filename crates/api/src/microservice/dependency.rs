//! `spec.dependsOn`: the Microservices that this one calls.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Resilience;

/// A Microservice that this one calls through its sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// Name of the Microservice.
    #[schemars(length(min = 1, max = 50), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub microservice: String,
    /// Its namespace. Unset: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: Option<String>,
    /// Name of its port. Unset: its first port, at `user.mesh`, as `USER_URL` and `USER_ADDR`. Set (say `grpc`): that
    /// port, at `grpc.user.mesh`, as `USER_GRPC_URL` and `USER_GRPC_ADDR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 13), regex(pattern = r"^[a-z]([a-z0-9]|-[a-z0-9])*$"))]
    pub port: Option<String>,
    /// What stands around calls to it, part by part in place of what `spec.resilience` says. Entries that mean the same
    /// port have one policy: the first one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resilience: Option<Resilience>,
}
