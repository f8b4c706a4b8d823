//! `spec.routes` and `spec.exposure`: what gateways serve.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A path that gateways forward to this Microservice, unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Name, unique in the Microservice: policies refer to it, metrics carry it.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Start of the path, matched by whole elements: `/orders` matches `/orders` and `/orders/7`, not `/orders2`. The
    /// longest match wins.
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = r"^/(([^/?#%\s\\]|%[0-9A-Fa-f]{2})+(/([^/?#%\s\\]|%[0-9A-Fa-f]{2})+)*/?)?$")
    )]
    pub path: String,
    /// Methods that it serves; others get 405. Unset: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub methods: Vec<Method>,
    /// Name of the port that it goes to. Unset: the first HTTP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 13), regex(pattern = r"^[a-z]([a-z0-9]|-[a-z0-9])*$"))]
    pub port: Option<String>,
}

/// Whether gateways serve a Microservice at `/{service}/...`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Exposure {
    /// Served at `/{service}/...` by every gateway of its namespace.
    #[default]
    Gateway,
    /// Not served by path; only callers inside the mesh reach it, and declared routes.
    Internal,
}

/// An HTTP method (RFC 9110 section 9, and PATCH of RFC 5789). Not CONNECT, which the proxy refuses.
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
#[serde(rename_all = "UPPERCASE")]
#[strum(serialize_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    Trace,
}
