//! Voluntary evictions, say of a node's drain, take one pod at a time.
//!
//! Only where there are at least two pods: a budget over a single pod would block the drain for ever.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::metadata;
use crate::microservice::validated::Validated;

pub(super) fn build(validated: &Validated) -> Option<PodDisruptionBudget> {
    (validated.least_replicas() >= 2).then(|| PodDisruptionBudget {
        metadata: metadata::child(validated, &validated.key.name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(metadata::label_selector(validated)),
            // Pods that are not ready anyway do not hold a drain back.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..Default::default()
        }),
        status: None,
    })
}
