use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the proxies of the pods said to the newest document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proxies {
    /// Digest of the document that the counts are about; the ConfigMap `<name>-proxy` has it beside the document.
    pub document: String,

    /// Pods that are ready and not being stopped; each has a proxy.
    pub total: i32,

    /// Proxies of them that hold a stream to the operator.
    pub connected: i32,

    /// Proxies of them that run by the document.
    pub acknowledged: i32,

    /// Proxies that do not, by pod: those that refused it first, at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub laggards: Vec<Laggard>,
}

/// A proxy that does not run by the newest document. It goes on by the last good one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Laggard {
    /// Name of the pod.
    pub pod: String,
    /// Why, in a word.
    pub reason: LaggardReason,
    /// Why, for people.
    pub message: String,
}

/// Why a proxy does not run by the newest document.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::AsRefStr,
)]
pub enum LaggardReason {
    /// It refused the document.
    Refused,
    /// It holds a stream and has not answered.
    Behind,
    /// It holds no stream.
    NotConnected,
}
