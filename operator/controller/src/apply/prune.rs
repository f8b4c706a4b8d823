//! Deleting children that are no longer wanted.
//!
//! What is ours is known from the caches (label and owner's uid), so nothing needs to be remembered between passes and a
//! crash before the deletion is made good by the next pass. It comes after every apply: a pass that fails half-way
//! deletes nothing.

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use trellis_operator_desired::{Applied, Resources};

use super::{Applier, Error, Owner, child::describe, guard};
use crate::{
    caches::Child,
    metrics::{Outcome, Verb},
};

impl Applier {
    /// Deletes every child of `owner` that is not among `applied`.
    pub(super) async fn prune_all(&self, owner: &Owner, applied: &Resources<Applied>) -> Result<(), Error> {
        let services: Vec<&Service> = applied.services.iter().collect();
        let autoscalers: Vec<&HorizontalPodAutoscaler> = applied.autoscaler.iter().collect();
        let budgets: Vec<&PodDisruptionBudget> = applied.disruption_budget.iter().collect();
        self.prune::<PodDisruptionBudget>(owner, &budgets).await?;
        self.prune::<HorizontalPodAutoscaler>(owner, &autoscalers).await?;
        self.prune::<Deployment>(owner, &[&applied.deployment]).await?;
        self.prune::<Service>(owner, &services).await?;
        self.prune::<ConfigMap>(owner, &[&applied.proxy_config]).await?;
        self.prune::<ServiceAccount>(owner, &[&applied.service_account])
            .await
    }

    /// Deletes every child of this kind that is not among `kept`.
    pub(super) async fn prune<K: Child>(&self, owner: &Owner, kept: &[&K]) -> Result<(), Error> {
        let unwanted = K::cache(&self.caches)
            .of_microservice(&owner.key)
            .into_iter()
            .filter(|live| guard::is_owned(owner, &**live))
            .filter(|live| live.meta().deletion_timestamp.is_none())
            .filter(|live| kept.iter().all(|kept| kept.meta().name != live.meta().name));
        for live in unwanted {
            self.delete(owner, &*live).await?;
        }
        Ok(())
    }

    async fn delete<K: Child>(&self, owner: &Owner, live: &K) -> Result<(), Error> {
        let kind = K::kind(&());
        let name = live.name_any();
        let child = describe::<K>(&name);
        self.authorise(&child)?;
        let api: Api<K> = Api::namespaced(self.client.clone(), &live.namespace().unwrap_or_default());
        // The object that was looked at, and no change since: a stale view must not delete its successor.
        let parameters = DeleteParams::background().preconditions(Preconditions {
            uid: live.uid(),
            resource_version: live.resource_version(),
        });
        match api.delete(&name, &parameters).await {
            Ok(_) => {
                tracing::info!(microservice = %owner.key, child, "deleted");
                self.metrics.wrote(&kind, Verb::Delete, Outcome::Changed);
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                self.metrics.wrote(&kind, Verb::Delete, Outcome::Unchanged);
            }
            Err(source) => {
                self.metrics.wrote(&kind, Verb::Delete, Outcome::Failed);
                return Err(Error::Refused {
                    action: "delete",
                    child,
                    source,
                });
            }
        }
        K::cache(&self.caches).deleted(live);
        Ok(())
    }
}
