//! The document as a whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Cluster, ClusterName, Listener, RateLimit, digest, listener::OutboundRoute};

/// Version of the format. A proxy rejects any other and keeps what it has.
pub const API_VERSION: &str = "proxy.trellis.dev/v1";

/// A configuration with its place in the order of configurations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Format of `config`: [`API_VERSION`].
    pub api_version: String,
    /// Grows with every change; older never replaces newer.
    pub version: u64,
    /// [`digest::of`] of `config`.
    pub digest: String,
    /// What the proxy does.
    pub config: Config,
}

impl Document {
    /// A document of this format, with its digest.
    #[must_use]
    pub fn new(version: u64, config: Config) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            version,
            digest: digest::of(&config),
            config,
        }
    }
}

/// What a proxy does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Sidecar or gateway.
    pub role: Role,
    /// Whom the proxy serves.
    pub identity: Identity,
    /// Where newer documents and endpoints come from. None: only from the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// Ports that the proxy listens on for requests to its service, or, in a gateway, from outside.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// What the outbound listener answers to. Empty in a gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outbound: Vec<OutboundRoute>,
    /// Clusters whose endpoints are the gateways in front of the service. What they say about callers, as in
    /// `X-Forwarded-For`, is believed on the listeners that lead to the app; what anybody else says is not. Empty in a
    /// gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<ClusterName>,
    /// Limits on the requests that come in by the listeners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<RateLimit>,
    /// Where limits over all pods are leased from. None: no limit of the document is leased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// Groups of endpoints that routes lead to or that `gateways` names, by name.
    #[serde(default)]
    pub clusters: BTreeMap<ClusterName, Cluster>,
}

/// What part a proxy plays. The binary is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Beside an app, for what comes in and what goes out.
    Sidecar,
    /// On its own, for callers outside the mesh.
    Gateway,
}

/// Whom a proxy serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Namespace of the Microservice.
    pub namespace: String,
    /// Name of the Microservice.
    pub microservice: String,
}

/// Where documents and endpoints are streamed from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    /// Address of the operator's stream, `http://host:port`.
    pub address: String,
}

/// Where limits over all pods are leased from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Address of the quota service, `http://host:port`.
    pub address: String,
}
