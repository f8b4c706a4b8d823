//! Clusters: named groups of endpoints.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use trellis_resilience::policy::Policy;

/// Name of a cluster: a port of a Microservice. Written `namespace/microservice/port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName {
    /// Namespace of the Microservice.
    pub namespace: String,
    /// Name of the Microservice.
    pub microservice: String,
    /// Name of the port.
    pub port: String,
}

/// Why a text is no cluster name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read {0:?} as a cluster name; the form is namespace/microservice/port")]
pub struct ParseError(String);

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.microservice, self.port)
    }
}

impl FromStr for ClusterName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [namespace, microservice, port] if parts.iter().all(|part| !part.is_empty()) => Ok(Self {
                namespace: (*namespace).to_owned(),
                microservice: (*microservice).to_owned(),
                port: (*port).to_owned(),
            }),
            _ => Err(ParseError(text.to_owned())),
        }
    }
}

impl Serialize for ClusterName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClusterName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// How to reach the endpoints of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// What is spoken to the endpoints.
    pub protocol: Protocol,
    /// Floor of discovery, used as long as no endpoint came by stream: a DNS name with an address per pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// What stands around requests to it.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub policy: Policy,
    /// What callers get instead of an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

impl Cluster {
    /// A cluster with the usual policy.
    #[must_use]
    pub fn new(protocol: Protocol, dns: Option<Dns>) -> Self {
        Self {
            protocol,
            dns,
            policy: Policy::default(),
            fallback: None,
        }
    }
}

fn is_usual(policy: &Policy) -> bool {
    *policy == Policy::default()
}

/// What callers get instead of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fallback {
    /// Always the same.
    Static(StaticAnswer),
    /// What this cluster answers, by its own policy but without its own fallback.
    Cluster(ClusterName),
}

/// A response that is always the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StaticAnswer {
    /// Its status.
    pub status: u16,
    /// What its body is.
    pub content_type: String,
    /// Its body.
    #[serde(default)]
    pub body: String,
}

/// A DNS name with an address per endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// Name of the headless Service, fully qualified.
    pub name: String,
    /// Port of every endpoint.
    pub port: u16,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
    /// gRPC over HTTP/2 without TLS.
    Grpc,
}

impl Protocol {
    /// Whether requests go out over HTTP/2.
    #[must_use]
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::Grpc)
    }
}
