//! `spec.gateway`: the proxy in gateway role.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Protocol;

/// A gateway serves the routes of Microservices to callers outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Ports that the gateway listens on.
    #[schemars(length(min = 1, max = 8))]
    pub listeners: Vec<GatewayListener>,
    /// Which Microservices' routes it serves. Unset: those of its own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<GatewayRoutes>,
    /// Whether every Microservice with an HTTP port (unless `exposure: Internal`) is served at `/{service}/...`, its
    /// name being cut off before the request is forwarded. Unset: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_by_service: Option<bool>,
}

impl Gateway {
    /// Whose routes it serves, by default those of its own namespace.
    #[must_use]
    pub fn from_namespaces(&self) -> FromNamespaces {
        self.routes
            .as_ref()
            .and_then(|routes| routes.from_namespaces)
            .unwrap_or_default()
    }

    /// Whether it serves `/{service}/...`, by default yes.
    #[must_use]
    pub fn path_by_service(&self) -> bool {
        self.path_by_service.unwrap_or(true)
    }
}

/// A port of a gateway.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.protocol) || self.protocol != 'TCP'").message("a gateway listener speaks HTTP, H2C or GRPC: set protocol to one of these"))]
#[x_kube(validation = Rule::new("self.port < 5000 || self.port > 5199").message("ports 5000-5199 of a gateway would meet the proxy's own (10000 above): choose another"))]
pub struct GatewayListener {
    /// Name of the port.
    #[schemars(length(min = 1, max = 13), regex(pattern = r"^[a-z]([a-z0-9]|-[a-z0-9])*$"))]
    pub name: String,
    /// Port of the Service, for example 80. The pods listen on 10000 above it, which must stay below the ports that
    /// the kernel gives to connections and outside those of the proxy itself.
    #[schemars(range(min = 1, max = 22767))]
    pub port: u16,
    /// `HTTP` (the default) takes HTTP/1.1 and HTTP/2 without TLS on one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Port on every node, 30000 to 32767. Setting it makes the Service a NodePort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30000, max = 32767))]
    pub node_port: Option<u16>,
}

/// Which Microservices' routes a gateway serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRoutes {
    /// `Same`: those of the gateway's namespace. `All`: those of every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_namespaces: Option<FromNamespaces>,
}

/// Namespaces whose routes a gateway serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FromNamespaces {
    /// The gateway's own.
    #[default]
    Same,
    /// Every namespace.
    All,
}
