//! The children of a custom resource, and the stage that they are in.
//!
//! [`Resources<Prepared>`] is what `build` wants; [`Resources<Applied>`] is what the API server answered. Only the
//! controller's Applier turns the one into the other, and `status` takes only the second: so a status is never made
//! from wishes. The Applier destructures without `..`, so a new kind of child does not compile until it is applied.

use std::marker::PhantomData;

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use serde_json::{Value, json};

/// Stage of [`Resources`]: as wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared;

/// Stage of [`Resources`]: as the API server answered after they were applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied;

/// Every child of a Microservice.
#[derive(Debug, Clone, PartialEq)]
pub struct Resources<Stage> {
    /// Identity of the pods.
    pub service_account: ServiceAccount,
    /// Boot document of the proxy.
    pub proxy_config: ConfigMap,
    /// The main Service and the headless one; none if nothing listens.
    pub services: Vec<Service>,
    /// To be applied before the Deployment, under
    /// [`FIELD_MANAGER_REPLICAS_HANDOVER`](trellis_api::names::FIELD_MANAGER_REPLICAS_HANDOVER).
    pub handover: Option<ReplicaHandover>,
    /// The pods. `spec.replicas` is unset if the autoscaler owns it.
    pub deployment: Deployment,
    /// Owner of the number of pods, if the spec asks for one. If not, a live one is deleted before the Deployment is
    /// applied: else the two would fight over the number.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// Keeps voluntary evictions to one pod at a time; none for a single pod, which could then never be evicted.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// The stage, in the type only.
    pub stage: PhantomData<Stage>,
}

/// The number of pods that a Deployment keeps while its owner changes from the operator to the autoscaler.
///
/// If the only manager of `spec.replicas` stops sending it, the API server sets it to 1. So a second manager takes the
/// live number first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaHandover {
    /// Namespace of the Deployment.
    pub namespace: String,
    /// Name of the Deployment.
    pub name: String,
    /// The number that runs now.
    pub replicas: i32,
}

impl ReplicaHandover {
    /// The object to apply: a Deployment of which only `spec.replicas` is set.
    #[must_use]
    pub fn patch(&self) -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"namespace": self.namespace, "name": self.name},
            "spec": {"replicas": self.replicas},
        })
    }
}
