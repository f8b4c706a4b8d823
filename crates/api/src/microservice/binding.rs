//! `spec.bindings`: credentials by the Service Binding specification.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Secret, mounted as a folder of files in `$SERVICE_BINDING_ROOT/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// Name of the folder, for example `db`.
    #[schemars(
        length(min = 1, max = 50),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Name of the Secret, in the same namespace. The operator never reads it.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub secret: String,
    /// Keys that the app needs. If one is missing, the pod does not start and the status names it. Unset: whatever
    /// keys the Secret has are mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub keys: Vec<String>,
}
