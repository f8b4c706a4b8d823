//! What the decisions about a Microservice are made from, besides itself.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Pod},
};
use trellis_api::{Microservice, microservice::Dependency};

use crate::rate_limit::Policies;

/// Settings of the operator that show in the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image of the proxy, sidecar and gateway.
    pub proxy_image: String,
    /// Where proxies get newer documents and endpoints: `http://host:port`.
    pub config_stream_address: String,
    /// Where proxies lease shares of limits over all pods: `http://host:port`.
    pub quota_address: String,
    /// Namespace of the operator. The Microservices there are parts of Trellis, and no policy limits them.
    pub namespace: String,
    /// The Microservice of the saga engine, in that namespace.
    pub saga_engine: String,
    /// Host at which the node ports of gateways are reached, for the URL column. None: unknown, and not guessed.
    pub gateway_host: Option<String>,
    /// Where pods export traces to (`OTEL_EXPORTER_OTLP_ENDPOINT`). None: they export none.
    pub telemetry_endpoint: Option<String>,
    /// Namespaces whose gateways are believed about callers by the services of every namespace.
    pub trusted_gateway_namespaces: BTreeSet<String>,
}

/// What was read for one pass.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// Microservices of all namespaces that [`interests`](super::interests) names; more do no harm, and the one in
    /// question may be among them.
    pub microservices: Vec<Arc<Microservice>>,
    /// The live Deployment, with `managedFields`, which say who owns the number of replicas.
    pub deployment: Option<Deployment>,
    /// The live autoscaler.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// The live boot document of the proxy.
    pub proxy_config: Option<ConfigMap>,
    /// The rate limit policies of the namespace.
    pub rate_limit_policies: Policies,
    /// What sagas call. Only for the saga engine.
    pub participants: Vec<Dependency>,
    /// Pods with the label `trellis.dev/microservice`. Only needed while something is not ready.
    pub pods: Vec<Pod>,
    /// Events about these pods. Only needed while something is not ready.
    pub events: Vec<PodEvent>,
}

/// What matters of an Event about a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodEvent {
    /// Name of the pod.
    pub pod: String,
    /// Reason, for example `FailedMount`.
    pub reason: String,
    /// Text.
    pub message: String,
    /// Container, from `involvedObject.fieldPath` (`spec.containers{app}`), if it is about one.
    pub container: Option<String>,
    /// How often it happened.
    pub count: i32,
}

/// The proxy of a pod that is ready and not being stopped, and what it said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    /// Name of the pod.
    pub pod: String,
    /// For how long it could have said something: since its pod is ready and since somebody listens.
    pub waited: Duration,
    /// What it said; None: it holds no stream.
    pub answer: Option<Answer>,
}

/// What a proxy said to its documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Digest of the document in use; empty if there is none.
    pub in_use: String,
    /// The document that it refused last.
    pub refused: Option<Refused>,
}

/// A document that a proxy refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// Version of the document.
    pub version: u64,
    /// Its digest.
    pub digest: String,
    /// The first fault, with its path.
    pub fault: String,
}
