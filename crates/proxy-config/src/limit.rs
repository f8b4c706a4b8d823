//! Limits on the requests that a proxy lets in.

use serde::{Deserialize, Serialize};

/// A limit of a policy. All limits of a document that apply to a request are decided on together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Name of the policy, in the namespace of the Microservice. With `policy_uid`, `name` and `route` it says which counters
    /// these are: they outlive documents.
    pub policy: String,
    /// Which policy of that name: one that was deleted and made anew is another. Empty: not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy_uid: String,
    /// Generation of the policy that this was made from.
    pub generation: i64,
    /// Name of the limit in the policy.
    pub name: String,
    /// Which requests it is about. None: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<LimitedRoute>,
    /// How much.
    pub rule: Rule,
    /// All pods of the Microservice share the limit. None: each counts by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Whose requests are counted together: CEL. None: all requests together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<String>,
    /// Conditions that must all hold: CEL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<String>,
    /// What a request costs: CEL. None: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// Whether it only counts what it would have refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// Which headers tell callers what is left.
    #[serde(default)]
    pub headers: LimitHeaders,
    /// Status of refusals. None: 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Body of refusals. None: problem details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// The requests of a route, as the proxy beside the app sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitedRoute {
    /// Name of the route in its Microservice.
    pub name: String,
    /// Start of the path, by whole elements.
    pub path: String,
    /// Methods. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
}

/// How much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rule {
    /// So many per so long.
    Rates {
        /// How they are counted.
        algorithm: Algorithm,
        /// All of which hold.
        rates: Vec<Rate>,
    },
    /// So many under way at once.
    Concurrency(u32),
}

/// A limit that the pods of a Microservice share: each leases a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// The most pods that there can be, at least 1.
    pub replicas: u32,
    /// What holds in a pod that can lease nothing.
    #[serde(default)]
    pub on_loss: OnLoss,
}

/// What holds in a pod that can lease nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OnLoss {
    /// The lesser of its last lease and an equal part of the limit; nobody is let in before the first lease.
    #[default]
    Share,
    /// No limit.
    Open,
    /// Nobody is let in.
    Closed,
}

/// How rates are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// A bucket that is refilled steadily.
    TokenBucket,
    /// Never more than the limit in any window.
    SlidingWindow,
    /// A counter that begins anew with each window.
    FixedWindow,
}

/// So many per so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// How many.
    pub limit: u32,
    /// The window, in milliseconds.
    pub window: u64,
    /// Capacity of a token bucket. None: `limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// Which headers tell callers what is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LimitHeaders {
    /// `RateLimit` and `RateLimit-Policy`.
    #[default]
    Ietf,
    /// `RateLimit-Limit`, `-Remaining` and `-Reset`.
    Draft03,
    /// None.
    None,
}
