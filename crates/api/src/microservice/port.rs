//! `spec.ports`: where the service listens.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// A port that the app listens on.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.port < 15000 || self.port > 15199").message("ports 15000-15199 belong to the sidecar: let the app listen on another port"))]
#[x_kube(validation = Rule::new("!self.name.startsWith('t-')").message("names starting with t- belong to the sidecar's ports: choose another name"))]
#[x_kube(validation = Rule::new("!has(self.bulkhead) || !has(self.protocol) || self.protocol != 'TCP'").message("a TCP port is not proxied: remove bulkhead, or say what is spoken"))]
pub struct Port {
    /// Name, unique in the Microservice, for example `http`: a letter, then letters, digits and single dashes. Not
    /// starting with `t-`, which names the sidecar's ports.
    #[schemars(length(min = 1, max = 13), regex(pattern = r"^[a-z]([a-z0-9]|-[a-z0-9])*$"))]
    pub name: String,
    /// Number of the port, on the app's container and on the Service.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What is spoken on it. Unset: `HTTP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// How many requests the app of one pod works on at once; the rest wait in the sidecar, in order. Not on a TCP port, which
    /// is not proxied. Takes effect without a restart. Unset: as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulkhead: Option<PortBulkhead>,
}

/// Bounds the requests that the app of a pod works on, so that more of them than it can take do not make it slow for all. It
/// stands behind rate limits: what they refuse takes no place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortBulkhead {
    /// Requests at once on this port of a pod, from the head of the request to the end of the response's body.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_concurrent: u32,
    /// Requests that wait for a place, in order; beyond them callers get 503 at once. 0: none waits. Unset: 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_queue: Option<u32>,
    /// Longest wait for a place; who waits longer gets 503. Unset: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<Duration>,
}

impl Port {
    /// The protocol, by default HTTP.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol.unwrap_or_default()
    }
}

/// What is spoken on a port.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
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
pub enum Protocol {
    /// HTTP/1.1 to the app; callers may use HTTP/1.1 or HTTP/2.
    #[default]
    #[serde(rename = "HTTP")]
    #[strum(serialize = "HTTP")]
    Http,
    /// HTTP/2 without TLS ("prior knowledge").
    #[serde(rename = "H2C")]
    #[strum(serialize = "H2C")]
    H2c,
    /// gRPC, over HTTP/2 without TLS.
    #[serde(rename = "GRPC")]
    #[strum(serialize = "GRPC")]
    Grpc,
    /// Any other protocol. Not proxied: callers reach the pods directly by the Service's DNS name.
    #[serde(rename = "TCP")]
    #[strum(serialize = "TCP")]
    Tcp,
}

impl Protocol {
    /// Whether the sidecar carries it.
    #[must_use]
    pub const fn is_proxied(self) -> bool {
        !matches!(self, Self::Tcp)
    }

    /// The Service's `appProtocol`, which gateways and other meshes read (KEP-3726).
    #[must_use]
    pub const fn app_protocol(self) -> Option<&'static str> {
        match self {
            Self::Http => Some("http"),
            Self::H2c => Some("kubernetes.io/h2c"),
            Self::Grpc => Some("grpc"),
            Self::Tcp => None,
        }
    }
}
