//! The `RateLimitPolicy` kind: how much its targets take, and from whom.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Problem};

/// How much Microservices take, and from whom.
///
/// The smallest policy is a target and a limit without settings: 100 requests in any 60 s.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "trellis.dev",
    version = "v1alpha1",
    kind = "RateLimitPolicy",
    plural = "ratelimitpolicies",
    shortname = "rlp",
    category = "trellis",
    namespaced,
    status = "RateLimitPolicyStatus",
    doc = "A RateLimitPolicy says how much Microservices of its namespace take, and from whom. It is enforced by the proxies of the targets, without a call to anybody for each request, and takes effect without a restart.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status","description":"Whether the policy makes sense"}"#,
    printcolumn = r#"{"name":"Enforced","type":"string","jsonPath":".status.conditions[?(@.type==\"Enforced\")].status","description":"Whether it decides anywhere"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Enforced\")].reason","description":"Why"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitPolicySpec {
    /// What is limited, in the policy's own namespace. Of two policies for the same target the older one wins.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,

    /// Limits by name. A request is let in if all that apply to it have room, and is then charged to all of them; one that is
    /// refused is charged to none.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub limits: BTreeMap<String, RateLimit>,

    /// Whether limits decide, or only count what they would have refused. Unset: `Enforce`. Each limit may say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,

    /// Which headers tell callers what is left. Unset: `Ietf`. Each limit may say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<HeaderStyle>,

    /// What is answered to refused requests. Unset: 429 with problem details. Each limit may say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Response>,

    /// What holds of limits of `scope: Service` in a pod that can lease nothing from the quota service. `Share`: the lesser of its
    /// last lease and limit / replicas, and nobody is let in by a pod that never had a lease. `Open`: no limit. `Closed`: nobody is
    /// let in. Unset: `Share`. Each limit may say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_quota_loss: Option<OnQuotaLoss>,
}

/// What a policy is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Group of the kind: `trellis.dev`, or empty for a Namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// `Microservice`, or `Namespace`: every Microservice of the namespace that has no policy of its own.
    pub kind: TargetKind,
    /// Name of the target; of a Namespace, the policy's own.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of one of the Microservice's `routes`: only what its path and methods take. Unset: all requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub section_name: Option<String>,
}

/// Kinds of targets.
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
pub enum TargetKind {
    /// One service, or a gateway.
    Microservice,
    /// Every Microservice of the namespace that has no policy of its own; each has counters of its own.
    Namespace,
}

/// One limit.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.concurrency) || !has(self.rates) && (!has(self.algorithm) || self.algorithm == 'Concurrency')")
    .message("concurrency is a limit of its own: leave rates out, and set no algorithm but Concurrency"))]
#[x_kube(validation = Rule::new("!has(self.algorithm) || self.algorithm != 'Concurrency' || has(self.concurrency)")
    .message("set concurrency: how many requests may be under way at once"))]
pub struct RateLimit {
    /// How it is counted. Unset: `SlidingWindow`, or `Concurrency` if `concurrency` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// So many per so long; several hold together. Unset: 100 per 60s; for a `TokenBucket` 100 at once, refilled by 1 a
    /// second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub rates: Vec<Rate>,
    /// Requests that may be under way at once in each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub concurrency: Option<u32>,
    /// Whose requests are counted together, as CEL expressions: `request.headers["x-user-id"]`, `source.address`. A request for
    /// which one of them has no value is not limited by this limit. Unset: all requests together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub counters: Vec<String>,
    /// Which requests it applies to, as CEL expressions that must all hold: `request.method == "POST"`. Unset: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub when: Vec<String>,
    /// What a request costs: a number, or a CEL expression with a whole number, at least 0. Unset: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub cost: Option<String>,
    /// `Service`: all pods of the target share the limit, by leases from the quota service. `Pod`: each pod counts by itself.
    /// Unset: `Service` for rates, `Pod` for `concurrency`, which has no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// As the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// As the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<HeaderStyle>,
    /// As the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Response>,
    /// As the policy's own. Only with `scope: Service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_quota_loss: Option<OnQuotaLoss>,
}

/// How a limit is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr)]
pub enum Algorithm {
    /// A bucket of `burst` tokens that is refilled steadily (GCRA).
    TokenBucket,
    /// Never more than the limit in any window; at least 95 % of it can be used.
    SlidingWindow,
    /// A counter that begins anew with each window: up to twice the limit around its end.
    FixedWindow,
    /// Requests under way at once, in each pod.
    Concurrency,
}

/// So many per so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// How much per window.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub limit: u32,
    /// The window.
    pub window: Duration,
    /// Capacity of a `TokenBucket`. Unset: `limit`. A window has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
}

/// Who counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr)]
pub enum Scope {
    /// Each pod by itself.
    Pod,
    /// All pods of the target.
    Service,
}

/// What holds in a pod that can lease nothing from the quota service.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr,
)]
pub enum OnQuotaLoss {
    /// The lesser of its last lease and an equal part of the limit (limit / replicas). A pod that never had a lease lets nobody in.
    #[default]
    Share,
    /// No limit: everybody is let in.
    Open,
    /// Nobody is let in.
    Closed,
}

/// Whether a limit decides.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr,
)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It counts what it would have refused.
    Shadow,
}

/// Which headers tell callers what is left.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr,
)]
pub enum HeaderStyle {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
    #[default]
    Ietf,
    /// `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset`, as its third draft had them.
    Draft03,
    /// None; `Retry-After` of refused requests is always there.
    None,
}

/// What is answered to refused requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// Status. Unset: 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 400, max = 599))]
    pub status: Option<u16>,
    /// Body, as it is. Unset: problem details (RFC 9457) that name the policy and the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub body: Option<String>,
}

/// What the operator found and did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitPolicyStatus {
    /// Generation of the spec that this status is about. -1: the operator has not looked at the object yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: it makes sense. `Conflicted`: an older policy has a target of it. `Overridden`: targets of a Namespace policy
    /// have one of their own. `Enforced`: it decides somewhere. `Programmed`: all proxies concerned run by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Faults of the spec, each with its field path and the fix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// What became of it at each target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetStatus>,
}

/// What became of a policy at a target.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Name of the Microservice.
    pub microservice: String,
    /// Name of its route, if the target is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Name of the policy that holds there; this one's own if it does.
    pub policy: String,
}
