//! `spec.securityContext`: user and file permissions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// User and file permissions of the app.
///
/// What is not here is fixed, because Pod Security `restricted` asks for it: not root, no privilege escalation, no
/// capabilities, the runtime's default seccomp profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContext {
    /// Numeric user. Unset: the image's own, which must be numeric and not 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub run_as_user: Option<i64>,
    /// Numeric group. Unset: the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub run_as_group: Option<i64>,
    /// Group that owns mounted volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub fs_group: Option<i64>,
    /// Whether the container's file system is read-only. Unset: true; `/tmp` is always writable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_root_filesystem: Option<bool>,
}
