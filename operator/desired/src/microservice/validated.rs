//! A Microservice without faults: all that builders see.
//!
//! Every default is filled in and every reference resolved; nothing below looks at the custom resource again, except
//! for its generation and its previous status.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use trellis_api::{
    Duration, Problem,
    microservice::{Autoscaling, Binding, ImagePullPolicy, PodMetadata, Probes, Resources, SecurityContext},
};
use trellis_proxy_config::{Cluster, ClusterName, Document, OutboundRoute, RateLimit, Route};

use super::{Key, ports::MeshPort, routes::Lost};

/// Time from the order to stop until the pod is killed: Kubernetes' own default.
pub(super) const GRACE_PERIOD: Duration = Duration::from_secs(30);
/// Time in which a stopping pod leaves the load balancers: longer than kube-proxy and endpoint streams take.
pub(super) const PRE_STOP_DELAY: Duration = Duration::from_secs(5);

/// A Microservice without faults, with every default and reference resolved. Made by [`validate`](super::validate).
#[derive(Debug, Clone)]
pub struct Validated {
    pub(super) key: Key,
    /// None only where there is no API server that gave the object a UID.
    pub(super) owner: Option<OwnerReference>,
    pub(super) role: Role,
    pub(super) scaling: Scaling,
    pub(super) pod: PodSettings,
    pub(super) proxy: ProxySettings,
    pub(super) document: DocumentOrder,
    /// What the proxies let in.
    pub(super) limits: Vec<RateLimit>,
    pub(super) live: LiveDeployment,
    pub(super) warnings: Vec<Problem>,
}

/// What the pods are.
#[derive(Debug, Clone)]
pub(super) enum Role {
    /// An app with a sidecar.
    Service(Box<ServiceRole>),
    /// The proxy itself.
    Gateway(GatewayRole),
}

/// An app with a sidecar.
#[derive(Debug, Clone)]
pub(super) struct ServiceRole {
    pub image: String,
    pub image_pull_policy: Option<ImagePullPolicy>,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub ports: Vec<MeshPort>,
    pub env: Vec<EnvVar>,
    pub env_from: Vec<EnvFromSource>,
    pub bindings: Vec<Binding>,
    pub dependencies: Vec<ResolvedDependency>,
    /// Of the saga engine: what sagas call. Its pods know nothing of them, so none is made anew for them.
    pub participants: Vec<MeshTarget>,
    /// The gateways that serve it and are believed about callers.
    pub gateways: BTreeMap<ClusterName, Cluster>,
    pub probes: Probes,
    pub resources: Resources,
    pub security: SecurityContext,
    /// Whether the app gets a token for the Kubernetes API.
    pub api_token: bool,
    /// For whom it gets further tokens.
    pub token_audiences: Vec<String>,
    /// None: the app is told to stop at once.
    pub pre_stop_delay: Option<Duration>,
    pub routes: DeclaredRoutes,
}

/// The proxy as a gateway.
#[derive(Debug, Clone)]
pub(super) struct GatewayRole {
    pub listeners: Vec<Listener>,
    /// What it serves, the same on every listener.
    pub routes: Vec<Route>,
    pub clusters: BTreeMap<ClusterName, Cluster>,
    pub resources: Resources,
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Host at which node ports are reached.
    pub host: Option<String>,
}

/// A port of a gateway.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    pub port: MeshPort,
    pub node_port: Option<u16>,
}

/// An entry of `dependsOn`.
#[derive(Debug, Clone)]
pub(super) struct ResolvedDependency {
    /// Its place in the list.
    pub index: usize,
    /// Names for the pod's hosts file; none if the app goes there directly.
    pub hosts: Vec<String>,
    /// Variables for the app.
    pub variables: Vec<(String, String)>,
    /// Where the sidecar sends requests; None if the app goes there directly.
    pub mesh: Option<MeshTarget>,
    /// What is not there, and the fix.
    pub missing: Option<String>,
}

/// Where the sidecar sends requests to a dependency.
#[derive(Debug, Clone)]
pub(super) struct MeshTarget {
    pub route: OutboundRoute,
    pub cluster: Cluster,
}

/// What became of the routes that the Microservice declares.
#[derive(Debug, Clone, Default)]
pub(super) struct DeclaredRoutes {
    /// How many it declares.
    pub count: usize,
    /// Whether a gateway serves the namespace.
    pub has_gateway: bool,
    /// Those that an older Microservice has already.
    pub lost: Vec<Lost>,
}

/// Who says how many pods there are.
#[derive(Debug, Clone)]
pub(super) enum Scaling {
    /// The operator.
    Fixed(i32),
    /// The autoscaler.
    Auto {
        autoscaling: Autoscaling,
        /// The live number, as long as the operator still owns it.
        handover: Option<i32>,
    },
}

/// What holds for the pods of either role.
#[derive(Debug, Clone)]
pub(super) struct PodSettings {
    pub metadata: PodMetadata,
    pub pull_secrets: Vec<LocalObjectReference>,
    pub grace_period: Duration,
}

/// What the operator decides about the proxy.
#[derive(Debug, Clone)]
pub(super) struct ProxySettings {
    pub image: String,
    pub stream_address: String,
    pub quota_address: String,
    pub telemetry_endpoint: Option<String>,
}

/// What gives the proxy's next document its place in the order of documents.
#[derive(Debug, Clone)]
pub(super) struct DocumentOrder {
    /// Highest resourceVersion of what the document is made from.
    pub newest_input: u64,
    /// The live document.
    pub live: Option<Document>,
}

/// What the live Deployment says about pods of older templates.
#[derive(Debug, Clone, Default)]
pub(super) struct LiveDeployment {
    /// Digest of its pod template.
    pub template_digest: Option<String>,
    /// Whether only pods of that template run.
    pub settled: bool,
}

impl Scaling {
    /// The most pods that there will be, at least 1; while they roll there may be more.
    pub(super) fn most_replicas(&self) -> u32 {
        let most = match self {
            Self::Fixed(replicas) => *replicas,
            Self::Auto { autoscaling, .. } => autoscaling.max,
        };
        u32::try_from(most).unwrap_or_default().max(1)
    }
}

impl Validated {
    /// Fewest pods that there will be.
    pub(super) const fn least_replicas(&self) -> i32 {
        match &self.scaling {
            Scaling::Fixed(replicas) => *replicas,
            Scaling::Auto { autoscaling, .. } => autoscaling.min,
        }
    }
}
