//! The one writer of children: [`Resources<Prepared>`] in, [`Resources<Applied>`] out.
//!
//! ```text
//! for each child, in order:  live object --guard--> ours? --difference--> apply (server-side, forced) --> cache
//!                                          |             \--> nothing to do: no request
//!                                          \--> somebody else's: never touched
//! then: delete what is ours and no longer wanted
//! ```
//!
//! Guarantees
//! - Nothing is written unless this replica leads at that moment, and every write names the uid that was read, so a
//!   stale view can neither take over nor delete an object that came after the one that was looked at.
//! - The order is fixed: what a pod refers to comes before the pods, and an autoscaler goes before the number of
//!   replicas is applied. So a crash between any two writes leaves a state from which the next pass goes on.
//! - A pass that finds everything as wanted makes no request.
//! - A proxy's document is written over the one that it was decided from and over no other ([`Basis::Live`]): a write
//!   whose answer was lost, or a watch that lags behind the leader before, cannot give one version to two documents.
//!
//! Caveat: between the look for a child that is not in the cache and its first apply, somebody else may make an object
//! of that name. That first apply is not forced, so it fails on the first field that differs.

use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::ConfigMap};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use trellis_api::names;
use trellis_operator_desired::{Applied, Prepared, ReplicaHandover, Resources};

use crate::{
    caches::{Caches, Child},
    key::Key,
    leader::Authority,
    metrics::{Metrics, Outcome, Verb},
};

mod child;
mod guard;
mod prune;
mod subset;
mod whole_lists;

/// Writes children.
pub struct Applier {
    client: Client,
    caches: Arc<Caches>,
    authority: Authority,
    metrics: Metrics,
    /// By uid: version and digest of objects that look different although the API server says they are as wanted.
    settled: Mutex<HashMap<String, (String, String)>>,
}

/// The Microservice whose children are written.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Namespace and name.
    pub key: Key,
    /// What tells it from a predecessor of the same name.
    pub uid: String,
}

/// What a child was decided from.
#[derive(Debug, Clone, Copy)]
enum Basis<'a> {
    /// The spec: whatever is live is put right.
    Spec,
    /// The live object of this resourceVersion; None: there was none.
    Live(Option<&'a str>),
}

/// Why children were not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object of the child's name belongs to somebody else.
    #[error("failed to apply {child}: an object of that name exists and is not this Microservice's")]
    NotOwned {
        /// Kind and name.
        child: String,
    },
    /// The child of a deleted Microservice of the same name is still there, or ours is being deleted.
    #[error("failed to apply {child}: the one before it is still being deleted")]
    Leftover {
        /// Kind and name.
        child: String,
    },
    /// The child is not the one any more that the new one was decided from. The cache has it now; decide again.
    #[error("failed to apply {child}: it changed meanwhile")]
    Stale {
        /// Kind and name.
        child: String,
    },
    /// The API server refused, or did not answer.
    #[error("failed to {action} {child}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// Kind and name.
        child: String,
        /// The answer.
        source: kube::Error,
    },
    /// The object cannot be written as JSON.
    #[error("failed to write {child} as JSON")]
    Unwritable {
        /// Kind and name.
        child: String,
        /// Why.
        source: serde_json::Error,
    },
    /// This replica does not lead any more.
    #[error("failed to write {child}: this replica does not lead")]
    Deposed {
        /// Kind and name.
        child: String,
    },
}

impl Applier {
    /// An Applier that keeps `caches` in step with its writes.
    pub fn new(client: Client, caches: Arc<Caches>, authority: Authority, metrics: Metrics) -> Self {
        Self {
            client,
            caches,
            authority,
            metrics,
            settled: Mutex::default(),
        }
    }

    /// Makes the children of `owner` what they should be. `document` is the live document from which the order of the
    /// new one was decided.
    ///
    /// # Errors
    /// The first child that could not be written; those before it are, those after it are not. A child whose name
    /// somebody else's object has stops only what leans on it, and the deleting: the others are kept in repair.
    pub async fn apply(
        &self,
        owner: &Owner,
        resources: Resources<Prepared>,
        document: Option<&ConfigMap>,
    ) -> Result<Resources<Applied>, Error> {
        // No `..`: a new kind of child does not compile until it is applied here.
        let Resources {
            service_account,
            proxy_config,
            services,
            handover,
            deployment,
            autoscaler,
            disruption_budget,
            stage: PhantomData,
        } = resources;

        let decided_from = document.and_then(|live| live.metadata.resource_version.as_deref());
        let service_account = unless_taken(self.apply_child(owner, service_account, Basis::Spec).await)?;
        let proxy_config = self
            .apply_child(owner, proxy_config, Basis::Live(decided_from))
            .await;
        let proxy_config = unless_taken(proxy_config)?;
        let mut applied_services = Vec::with_capacity(services.len());
        for service in services {
            applied_services.push(unless_taken(self.apply_child(owner, service, Basis::Spec).await)?);
        }
        // Pods must neither run as somebody else's account nor from somebody else's document.
        let workload = match service_account.and_then(|account| Ok((account, proxy_config?))) {
            Ok((account, config)) => self
                .apply_workload(owner, handover, deployment, autoscaler)
                .await
                .map(|(deployment, autoscaler)| (account, config, deployment, autoscaler)),
            Err(taken) => Err(taken),
        };
        let workload = unless_taken(workload)?;
        let disruption_budget = self.apply_optional(owner, disruption_budget).await?;

        // Only now is it told whose name is taken.
        let (service_account, proxy_config, deployment, autoscaler) = workload?;
        let applied = Resources {
            service_account,
            proxy_config,
            services: applied_services.into_iter().collect::<Result<_, _>>()?,
            handover: None,
            deployment,
            autoscaler,
            disruption_budget,
            stage: PhantomData,
        };
        self.prune_all(owner, &applied).await?;
        Ok(applied)
    }

    /// Applies what runs the pods, and what decides how many.
    async fn apply_workload(
        &self,
        owner: &Owner,
        handover: Option<ReplicaHandover>,
        deployment: Deployment,
        autoscaler: Option<HorizontalPodAutoscaler>,
    ) -> Result<(Deployment, Option<HorizontalPodAutoscaler>), Error> {
        if autoscaler.is_none() {
            // Before the Deployment gets a number of its own, or the two would fight over it.
            self.prune::<HorizontalPodAutoscaler>(owner, &[]).await?;
        }
        if let Some(handover) = handover {
            self.hand_over(owner, &handover).await?;
        }
        let deployment = self.apply_child(owner, deployment, Basis::Spec).await?;
        // After it, and only if the Deployment is ours: it would scale somebody else's.
        let autoscaler = self.apply_optional(owner, autoscaler).await?;
        Ok((deployment, autoscaler))
    }

    async fn apply_optional<K: Child>(&self, owner: &Owner, child: Option<K>) -> Result<Option<K>, Error> {
        match child {
            Some(child) => self.apply_child(owner, child, Basis::Spec).await.map(Some),
            None => Ok(None),
        }
    }

    /// Lets a second field manager hold the number of replicas while the first lets go of it. If the first were the
    /// only one, the API server would set the number to its default, 1.
    async fn hand_over(&self, owner: &Owner, handover: &ReplicaHandover) -> Result<(), Error> {
        let name = child::describe::<Deployment>(&handover.name);
        let key = Key::new(&*handover.namespace, &*handover.name);
        let Some(live) = self.caches.deployments.get(&key) else {
            return Ok(());
        };
        guard::check(owner, &*live)?;
        let mut patch = handover.patch();
        patch["metadata"]["uid"] = live.metadata.uid.clone().into();
        self.authorise(&name)?;
        // Forced: the number is what runs now, whoever set it.
        let parameters = PatchParams::apply(names::FIELD_MANAGER_REPLICAS_HANDOVER).force();
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let answer = api.patch(&key.name, &parameters, &Patch::Apply(&patch)).await;
        self.take_in(
            owner,
            "hand over the replicas of",
            name,
            live.metadata.resource_version.as_deref(),
            answer,
        )?;
        Ok(())
    }

    /// Takes an answer of the API server to an apply into cache and metrics.
    fn take_in<K: Child>(
        &self,
        owner: &Owner,
        action: &'static str,
        child: String,
        before: Option<&str>,
        answer: Result<K, kube::Error>,
    ) -> Result<Arc<K>, Error> {
        let kind = K::kind(&());
        let mut object = match answer {
            Ok(object) => object,
            Err(source) => {
                self.metrics.wrote(&kind, Verb::Apply, Outcome::Failed);
                return Err(Error::Refused {
                    action,
                    child,
                    source,
                });
            }
        };
        let unchanged = before.is_some() && object.meta().resource_version.as_deref() == before;
        let outcome = if unchanged {
            Outcome::Unchanged
        } else {
            Outcome::Changed
        };
        self.metrics.wrote(&kind, Verb::Apply, outcome);
        tracing::info!(microservice = %owner.key, child, unchanged, "applied");
        object.trim();
        Ok(K::cache(&self.caches).written(object).0)
    }

    fn authorise(&self, child: &str) -> Result<(), Error> {
        if self.authority.holds() {
            return Ok(());
        }
        Err(Error::Deposed {
            child: child.to_owned(),
        })
    }

    fn settled(&self) -> std::sync::MutexGuard<'_, HashMap<String, (String, String)>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets aside that a name is taken, which may last; every other error ends the pass.
fn unless_taken<T>(result: Result<T, Error>) -> Result<Result<T, Error>, Error> {
    match result {
        Err(error) if !matches!(error, Error::NotOwned { .. }) => Err(error),
        set_aside => Ok(set_aside),
    }
}

#[cfg(test)]
mod tests;
