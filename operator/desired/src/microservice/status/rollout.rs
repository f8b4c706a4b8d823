//! How far the Deployment is.

use k8s_openapi::api::apps::v1::Deployment;

/// Reason of the Deployment's condition `Progressing` once its deadline is over.
const OVERDUE: &str = "ProgressDeadlineExceeded";

/// Numbers of a Deployment, as `kubectl rollout status` reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rollout {
    /// Whether the numbers are about the latest spec.
    observed: bool,
    /// Pods that there should be.
    pub wanted: i32,
    /// Pods that there are, of any template.
    pub replicas: i32,
    /// Pods of the latest template.
    updated: i32,
    /// Pods that are ready, of any template.
    pub ready: i32,
    /// Pods that serve, of any template.
    pub available: i32,
}

impl Rollout {
    /// `least`: pods that the spec asks for at least. What is scaled below it, by somebody else, is not complete.
    pub(super) fn of(deployment: &Deployment, least: i32) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        Self {
            observed: is_observed(deployment),
            wanted: deployment
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(1)
                .max(least),
            replicas: status.replicas.unwrap_or_default(),
            updated: status.updated_replicas.unwrap_or_default(),
            ready: status.ready_replicas.unwrap_or_default(),
            available: status.available_replicas.unwrap_or_default(),
        }
    }

    /// Every wanted pod is of the latest template and serves, and no other is there.
    pub(super) const fn is_complete(&self) -> bool {
        self.observed
            && self.updated == self.wanted
            && self.replicas == self.updated
            && self.available >= self.wanted
    }

    /// All pods are of the latest template and at least `enough` serve: only their number changes.
    pub(super) const fn is_only_scaling(&self, enough: i32) -> bool {
        self.observed && self.replicas == self.updated && self.available >= enough
    }

    /// For people: how many serve.
    pub(super) fn availability(&self) -> String {
        match self.wanted {
            0 => "spec.replicas is 0: no pods run".to_owned(),
            1 => format!("{} of 1 replica is available", self.available.min(1)),
            wanted => format!(
                "{} of {wanted} replicas are available",
                self.available.min(wanted)
            ),
        }
    }

    /// For people: what is still to happen.
    pub(super) fn progress(&self) -> String {
        if !self.observed {
            "the rollout has not started yet".to_owned()
        } else if self.updated < self.wanted {
            format!("{} of {} pods are made", self.updated, self.wanted)
        } else if self.replicas > self.wanted {
            match self.replicas - self.wanted {
                1 => "1 pod is still to be stopped".to_owned(),
                more => format!("{more} pods are still to be stopped"),
            }
        } else {
            self.availability()
        }
    }
}

/// Whether the rollout's deadline is over.
pub(super) fn is_overdue(deployment: &Deployment) -> bool {
    is_observed(deployment)
        && deployment
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == "Progressing" && condition.reason.as_deref() == Some(OVERDUE))
}

fn is_observed(deployment: &Deployment) -> bool {
    deployment
        .status
        .as_ref()
        .is_some_and(|status| status.observed_generation >= deployment.metadata.generation)
}
