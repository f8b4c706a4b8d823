//! The `Microservice` kind: one service, or a gateway.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Problem};

mod autoscaling;
mod binding;
mod dependency;
mod gateway;
mod metadata;
mod port;
mod probe;
mod proxies;
mod resilience;
mod resources;
mod route;
mod security;

pub use self::{
    autoscaling::Autoscaling,
    binding::Binding,
    dependency::Dependency,
    gateway::{FromNamespaces, Gateway, GatewayListener, GatewayRoutes},
    metadata::PodMetadata,
    port::{Port, PortBulkhead, Protocol},
    probe::{Probe, Probes},
    proxies::{Laggard, LaggardReason, Proxies},
    resilience::{
        Backoff, Bulkhead, CircuitBreaker, FailureRate, Fallback, Resilience, Retry, RetryBudget,
        RetryCondition,
    },
    resources::Resources,
    route::{Exposure, Method, Route},
    security::SecurityContext,
};

/// One service of the mesh, or a gateway into it.
///
/// The smallest Microservice is an image and one port; everything else is derived: a Deployment with a sidecar proxy,
/// Services, a disruption budget, an identity and the proxy's configuration.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "trellis.dev",
    version = "v1alpha1",
    kind = "Microservice",
    plural = "microservices",
    shortname = "msvc",
    category = "trellis",
    namespaced,
    status = "MicroserviceStatus",
    doc = "A Microservice is one service of the mesh, or a gateway into it. The operator turns it into a Deployment with a sidecar proxy, Services, an autoscaler, a disruption budget, an identity and the proxy's configuration.",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status","description":"Whether the service serves as its spec says"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason","description":"Why"}"#,
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".status.image","description":"Image that runs, without its registry"}"#,
    printcolumn = r#"{"name":"Replicas","type":"string","jsonPath":".status.replicaSummary","description":"Available replicas / wanted replicas"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".status.url","description":"Address of the first HTTP port"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.metadata.name.size() <= 50 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 50 characters of a-z, 0-9 and '-', start with a letter and end with a letter or digit: Services are named after it"),
    validation = Rule::new("!self.metadata.name.endsWith('-headless')")
        .message("metadata.name must not end with -headless: the headless Service of another Microservice has such a name"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.image) != has(self.gateway)")
    .message("set exactly one of spec.image (a service) and spec.gateway (a gateway)"))]
#[x_kube(validation = Rule::new("!(has(self.replicas) && has(self.autoscaling))")
    .message("set either spec.replicas or spec.autoscaling, not both: the autoscaler owns the number of replicas"))]
pub struct MicroserviceSpec {
    /// Image of the service, for example `registry.example/shop/order:1.4.2`. Any language; it listens on the ports
    /// below. Exactly one of `image` and `gateway` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,

    /// When the node pulls the image: `Always`, `IfNotPresent` or `Never`. Unset: Kubernetes' rule (`Always` for the
    /// tag `latest`, else `IfNotPresent`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Secrets with credentials for the image's registry, by name, in the same namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Entrypoint, instead of the image's own. Not run in a shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,

    /// Arguments to the entrypoint, instead of the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,

    /// Ports that the service listens on. The first is the one meant when a caller names no port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub ports: Vec<Port>,

    /// Number of pods. Unset: what runs, at least 1. Set by `kubectl scale msvc` too. Not with `autoscaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub replicas: Option<i32>,

    /// Lets the number of pods follow their load. Either this or `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// Environment variables of the app. They win over those that Trellis makes from `dependsOn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvVar>,

    /// ConfigMaps and Secrets whose keys become environment variables of the app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,

    /// Secrets mounted by the Service Binding specification: each as a folder of files, one a key, in
    /// `$SERVICE_BINDING_ROOT/<name>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub bindings: Vec<Binding>,

    /// Microservices that this one calls. Each gives the app an address (`USER_URL`, `USER_ADDR`) behind its sidecar,
    /// which balances over the pods of the dependency.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub depends_on: Vec<Dependency>,

    /// What stands around calls to other services: timeouts, retries, circuit breaker, bulkhead, fallback. For every entry
    /// of `dependsOn` that does not say otherwise; of a gateway, for every service that it serves. Takes effect without a
    /// restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resilience: Option<Resilience>,

    /// Health checks of the app. Unset: readiness is a TCP connect to the first port, and there is no liveness check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,

    /// CPU and memory of the app container: `requests` are set aside for it, `limits` are its ceiling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// User and file permissions of the app. Every pod keeps to the Pod Security level `restricted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,

    /// Whether the app gets the token of its ServiceAccount, which has the Microservice's name, for the Kubernetes API. The
    /// account has no rights that nobody gave it. The sidecar never gets this token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automount_service_account_token: bool,

    /// Audiences for which the app gets tokens of its ServiceAccount, for services that ask who calls: each in a file
    /// `/var/run/secrets/trellis.dev/tokens/AUDIENCE`, which is renewed in time. `trellis-saga` is the saga engine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(
            length(min = 1, max = 63),
            regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
        )
    )]
    pub token_audiences: Vec<String>,

    /// Time from the order to stop until the pod is killed. Unset: 30s. It includes the 5 s (see `preStopDelay`) in
    /// which the pod leaves the load balancers before the app is told to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period: Option<Duration>,

    /// How long the app goes on serving, after the pod was told to stop and left the load balancers, before it gets
    /// SIGTERM. Unset: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop_delay: Option<Duration>,

    /// Labels and annotations for the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_metadata: Option<PodMetadata>,

    /// Whether gateways serve this Microservice at `/{service}/...`. Unset: `Gateway`. Declared routes are served
    /// either way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Exposure>,

    /// Paths that gateways serve for this Microservice, besides `/{service}/...`. The longest match wins, and of equal
    /// ones the oldest Microservice's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub routes: Vec<Route>,

    /// Makes this Microservice a gateway: the proxy itself, serving the routes of other Microservices. Exactly one of
    /// `image` and `gateway` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
}

/// When the node pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr)]
pub enum ImagePullPolicy {
    /// At every start of a container.
    Always,
    /// Unless the node has it.
    IfNotPresent,
    /// Never: the node has it or the container does not start.
    Never,
}

/// Generation that the status of an object is about until the operator has written one. No object has it.
pub const UNOBSERVED: i64 = -1;

/// What the operator found and did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MicroserviceStatus {
    /// Generation of the spec that this status is about. -1: the operator has not looked at the object yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready` sums up; `Reconciling` and `Stalled` follow kstatus; the others are details.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,

    /// Faults of the spec, each with its field path and the fix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,

    /// Image that runs, without its registry; `(gateway)` for a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// Address of the first HTTP port: inside the cluster, or the gateway's declared address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,

    /// Pods that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Pods that are updated, ready and have been so for long enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_replicas: Option<i32>,

    /// Available pods / wanted pods, for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_summary: Option<String>,

    /// Ports of the sidecar, by port name. A name keeps its number for as long as pods with it run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inbound_ports: BTreeMap<String, u16>,

    /// What the proxies of the pods said to the newest document. Counted when the pods are at rest: it does not follow
    /// every step of a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<Proxies>,

    /// Selector of the pods, for `kubectl scale` and autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Objects made for this Microservice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Child>,
}

impl MicroserviceStatus {
    /// Whether the operator has written it. A new object has one that is about no generation.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.observed_generation
            .is_some_and(|generation| generation != UNOBSERVED)
    }
}

/// An object made for a Microservice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Child {
    /// Kind of the object.
    pub kind: String,
    /// Name of the object, in the Microservice's namespace.
    pub name: String,
}

/// Labels of a child or a pod.
pub type Labels = BTreeMap<String, String>;
