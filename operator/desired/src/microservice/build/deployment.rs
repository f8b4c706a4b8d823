//! The pods' Deployment.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use trellis_api::microservice::Probe;

use super::{metadata, probe};
use crate::microservice::validated::{Role, Scaling, Validated};

/// Old ReplicaSets kept for `kubectl rollout undo`, which the next pass of the operator takes back anyway; they are of
/// use for looking up what ran.
const REVISION_HISTORY: i32 = 3;
/// Seconds without progress after which a rollout counts as failed. Long enough to pull a large image; the cause of a
/// failure shows within seconds all the same.
const PROGRESS_DEADLINE: i32 = 300;

pub(super) fn build(validated: &Validated, template: PodTemplateSpec) -> Deployment {
    Deployment {
        metadata: metadata::child(validated, &validated.key.name),
        spec: Some(DeploymentSpec {
            replicas: match validated.scaling {
                Scaling::Fixed(replicas) => Some(replicas),
                // Not even for a new Deployment: whoever sends it, owns it.
                Scaling::Auto { .. } => None,
            },
            selector: metadata::label_selector(validated),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::String("25%".to_owned())),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            revision_history_limit: Some(REVISION_HISTORY),
            progress_deadline_seconds: Some(progress_deadline(validated)),
            template,
            ..Default::default()
        }),
        status: None,
    }
}

/// An app may take as long to start as its startup probe allows.
fn progress_deadline(validated: &Validated) -> i32 {
    let startup: Option<&Probe> = match &validated.role {
        Role::Service(service) => service.probes.startup.as_ref(),
        Role::Gateway(_) => None,
    };
    PROGRESS_DEADLINE.saturating_add(startup.map_or(0, probe::startup_allowance))
}
