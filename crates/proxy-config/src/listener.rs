//! Listeners: where requests come in.

use serde::{Deserialize, Serialize};
use trellis_resilience::bulkhead;

use crate::{ClusterName, Protocol, Route};

/// A port that the proxy listens on. HTTP/1.1 and HTTP/2 without TLS are told apart by their first bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Name of the Microservice's port, or of the gateway's listener. While pods of an older spec still run, a name may
    /// have two listeners, on different ports: the document serves both kinds of pods.
    pub name: String,
    /// Port to listen on, on every address of the pod.
    pub port: u16,
    /// Where requests go.
    #[serde(flatten)]
    pub kind: ListenerKind,
}

/// Where the requests of a listener go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ListenerKind {
    /// To the app in the same pod.
    Inbound(Inbound),
    /// To clusters, by route.
    Gateway {
        /// In any order: the longest match wins, declared before by-service. No two have the same origin, path and a
        /// common method; two of the same path share it out by method.
        routes: Vec<Route>,
    },
}

/// The app's end of an inbound listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    /// Port of the app on 127.0.0.1.
    pub app_port: u16,
    /// What the app speaks.
    pub protocol: Protocol,
    /// How many requests it works on at once; None: as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulkhead: Option<bulkhead::Settings>,
}

/// A name that the outbound listener answers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboundRoute {
    /// Hosts (without port, lower-case) that lead to the cluster: `user.mesh`, `user.shop.mesh`.
    pub hosts: Vec<String>,
    /// Where requests go.
    pub cluster: ClusterName,
}
