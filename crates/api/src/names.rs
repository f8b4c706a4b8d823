//! Names that Trellis gives to things: labels, annotations, children, containers, ports, paths.
//!
//! They are stable. Renaming a field manager leaves fields behind that nobody removes; renaming a label of the pod
//! selector makes a Deployment impossible to update; renaming a child leaves the old one running.

/// Label with the name of the Saga on each of its revisions.
pub const LABEL_SAGA: &str = "trellis.dev/saga";
/// Label with the name of the Microservice on every child; the pod selector is this label alone.
pub const LABEL_MICROSERVICE: &str = "trellis.dev/microservice";
/// Kubernetes' recommended label for the name of the application.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// Kubernetes' recommended label for what manages an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`].
pub const MANAGED_BY: &str = "trellis";

/// Annotation of a child with the digest of what was last applied.
pub const ANNOTATION_APPLIED_DIGEST: &str = "trellis.dev/applied-digest";
/// Annotation of a pod with the digest of the template that it was made from, by which a failing new pod is told
/// from a serving old one.
pub const ANNOTATION_TEMPLATE_DIGEST: &str = "trellis.dev/template-digest";
/// Annotation of the operator's Lease with the address at which its holder serves the stream: `http://host:port`.
pub const ANNOTATION_STREAM_ADDRESS: &str = "trellis.dev/stream-address";
/// Annotations with this prefix, and `kubectl.kubernetes.io/`, never travel from a Microservice to its children.
pub const ANNOTATION_PREFIX: &str = "trellis.dev/";

/// Field manager of the children of a Microservice.
pub const FIELD_MANAGER: &str = "trellis.dev/microservice";
/// Field manager of the status of a Microservice.
pub const FIELD_MANAGER_STATUS: &str = "trellis.dev/microservice/status";
/// Field manager of the revisions of a Saga.
pub const FIELD_MANAGER_SAGA: &str = "trellis.dev/saga";
/// Key of a saga's definition in the ConfigMap of a revision.
pub const KEY_SAGA_DEFINITION: &str = "definition.json";
/// Field manager that holds `spec.replicas` of a Deployment while its owner changes.
pub const FIELD_MANAGER_REPLICAS_HANDOVER: &str = "trellis.dev/replicas-handover";

/// Container that runs the user's image.
pub const CONTAINER_APP: &str = "app";
/// Container that runs the proxy: a native sidecar, or the only container of a gateway.
pub const CONTAINER_PROXY: &str = "trellis-proxy";

/// First port of a sidecar's inbound listeners: the i-th proxied port of the Microservice is `15100 + i`.
pub const PORT_INBOUND: u16 = 15100;
/// Port of the sidecar's outbound listener, on loopback only.
pub const PORT_OUTBOUND: u16 = 15001;
/// Port of the proxy's health and metrics.
pub const PORT_PROXY_HEALTH: u16 = 15020;
/// Port of the proxy's own verbs, on loopback only.
pub const PORT_PROXY_ADMIN: u16 = 15000;
/// A gateway listens on this plus the port of its Service: a restricted pod cannot bind ports below 1024.
pub const PORT_GATEWAY_OFFSET: u16 = 10000;
/// Ports that a Microservice may not use, because they belong to the proxy.
pub const RESERVED_PORTS: std::ops::RangeInclusive<u16> = 15000..=15199;
/// Most ports a Microservice may have.
pub const MAX_PORTS: usize = 32;

/// Prefix of the sidecar's port names; a Service's `targetPort` is such a name.
///
/// It is never equal to a port name of the app: endpoint look-up scans app containers first and would bypass the
/// sidecar.
pub const TARGET_PORT_PREFIX: &str = "t-";

/// Suffix of a name that a sidecar's outbound listener answers to: `user.mesh`, `user.shop.mesh`, `grpc.user.mesh`.
pub const MESH_SUFFIX: &str = "mesh";

/// Suffix of the names of headless Services.
pub const HEADLESS_SUFFIX: &str = "-headless";
/// Suffix that Kubernetes gives to the DNS names of Services.
pub const CLUSTER_DOMAIN: &str = "svc.cluster.local";

/// Folder of the proxy's boot document (a ConfigMap, mounted whole so that updates reach the pod).
pub const PATH_PROXY_CONFIG: &str = "/etc/trellis/proxy";
/// Key of the boot document in its ConfigMap.
pub const KEY_PROXY_CONFIG: &str = "proxy.json";
/// Folder where the proxy keeps the last good document and endpoints.
pub const PATH_PROXY_STATE: &str = "/var/lib/trellis/proxy";
/// Folder of the projected tokens that prove who the proxy is.
pub const PATH_PROXY_TOKEN: &str = "/var/run/secrets/trellis";
/// Key of the token for the configuration stream in [`PATH_PROXY_TOKEN`].
pub const KEY_PROXY_TOKEN: &str = "token";
/// Audience of that token.
pub const TOKEN_AUDIENCE: &str = "trellis-config";
/// Key of the token for the quota service in [`PATH_PROXY_TOKEN`].
pub const KEY_QUOTA_TOKEN: &str = "quota-token";
/// Audience of that token.
pub const QUOTA_TOKEN_AUDIENCE: &str = "trellis-quota";
/// Folder where Kubernetes' own libraries look for a pod's token for its API.
pub const PATH_API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Finalizer of a saga: its deletion waits for its runs.
pub const FINALIZER_SAGA_RUNS: &str = "trellis.dev/saga-runs";
/// Annotation of a saga: with `true` its deletion does not wait for its runs, which can call nobody any more.
pub const ANNOTATION_ABANDON_RUNS: &str = "trellis.dev/abandon-runs";
/// Annotation of a saga's revision: what it calls, `MICROSERVICE` or `MICROSERVICE:PORT` with commas between.
pub const ANNOTATION_PARTICIPANTS: &str = "trellis.dev/participants";

/// Folder with a file for each audience of `spec.tokenAudiences`.
pub const PATH_TOKENS: &str = "/var/run/secrets/trellis.dev/tokens";
/// Audience of the tokens that the saga engine asks for.
pub const SAGA_TOKEN_AUDIENCE: &str = "trellis-saga";

/// Folder below which each binding has a folder with a file per key (Service Binding specification).
pub const PATH_BINDINGS: &str = "/bindings";
/// Environment variable with [`PATH_BINDINGS`].
pub const ENV_BINDINGS: &str = "SERVICE_BINDING_ROOT";

/// Name of the headless Service, whose DNS is the floor of endpoint discovery.
#[must_use]
pub fn headless_service(microservice: &str) -> String {
    format!("{microservice}{HEADLESS_SUFFIX}")
}

/// Name of the ConfigMap with the proxy's boot document.
#[must_use]
pub fn proxy_config_map(microservice: &str) -> String {
    format!("{microservice}-proxy")
}

/// Name of the ConfigMap with a revision of a saga.
#[must_use]
pub fn saga_revision(saga: &str, revision: &str) -> String {
    format!("{saga}-saga-{revision}")
}

/// Name of the sidecar's port for an app port.
#[must_use]
pub fn target_port(port_name: &str) -> String {
    format!("{TARGET_PORT_PREFIX}{port_name}")
}

/// DNS name of a Service.
#[must_use]
pub fn service_dns(service: &str, namespace: &str) -> String {
    format!("{service}.{namespace}.{CLUSTER_DOMAIN}")
}

/// A name as part of an environment variable: `legacy-billing` becomes `LEGACY_BILLING`.
#[must_use]
pub fn environment_name(name: &str) -> String {
    name.chars()
        .map(|c| {
            if matches!(c, '-' | '.') {
                '_'
            } else {
                c.to_ascii_uppercase()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_name_has_no_dashes_or_dots() {
        assert_eq!(environment_name("legacy-billing.v2"), "LEGACY_BILLING_V2");
    }
}
