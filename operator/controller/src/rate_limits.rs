//! Statuses of rate limit policies: one task, which the leader runs.
//!
//! ```text
//! policies, Microservices, boot documents --change--> namespace is due --> status of each of its policies
//!                                                                          |
//!                                                     as it is: nothing    differs: one write
//! ```
//!
//! What a policy is for proxies does not hang on this: each Microservice's pass puts it into the document. So namespaces
//! are visited one after the other, each a moment after the first change, for changes come in bursts. A namespace in which
//! a write failed waits out its backoff, unless somebody edits a policy there. An own write makes its namespace due once
//! more, and that look finds nothing to write.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::mpsc, time};
use trellis_api::{Microservice, RateLimitPolicy, RateLimitPolicyStatus, names};
use trellis_chassis::drain;
use trellis_operator_desired::rate_limit::{self, Target};
use trellis_proxy_config::Document;

use crate::{
    cache::Change,
    caches::{self, Caches},
    error::chain,
    key::Key,
    leader::Authority,
    metrics::{self, Metrics, Verb},
    observed::Observed,
    queue::{Cause, Done, Next, Queue},
    stream::document,
    triggers, workers,
};

/// Time between visits of a namespace at rest.
const VISIT: Duration = Duration::from_secs(600);
/// Longest wait for the answer to a write.
const REQUEST: Duration = Duration::from_secs(10);

/// A namespace, and why its policies are to be looked at.
type Trigger = (String, Cause);

/// Says which namespaces changes concern. Clones tell the same task.
#[derive(Debug, Clone)]
pub struct Concerned(mpsc::UnboundedSender<Trigger>);

/// Writes the statuses.
pub struct RateLimits {
    /// Writes.
    pub client: Client,
    /// What statuses are made from.
    pub caches: Arc<Caches>,
    /// Namespace of the operator.
    pub own_namespace: String,
    /// Whether this replica may write.
    pub authority: Authority,
    /// Counts writes.
    pub metrics: Metrics,
    /// Makes Microservices due, if the answer to a write shows an edit.
    pub triggers: mpsc::UnboundedSender<workers::Trigger>,
    /// What [`Concerned`] says.
    pub changes: mpsc::UnboundedReceiver<Trigger>,
}

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to write the status: this replica does not lead")]
    Deposed,
    #[error("failed to write the status in time")]
    Late,
    #[error("failed to write the status")]
    Refused(#[from] kube::Error),
}

impl Concerned {
    /// What tells the task, and what the task is told by.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Trigger>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Takes in a change of a policy, also one of its status.
    pub fn policy(&self, change: &Change<Observed<RateLimitPolicy>>) {
        let generation = |observed: &Observed<RateLimitPolicy>| observed.meta().generation;
        let cause = match change {
            Change::Set {
                before: Some(before),
                after,
            } if generation(before) == generation(after) => Cause::Event,
            Change::Set { .. } | Change::Removed(_) => Cause::User,
        };
        self.tell(&**change.object(), cause);
    }

    /// Takes in a change of a Microservice, also one of its status.
    pub fn microservice(&self, change: &Change<Observed>) {
        self.tell(&**change.object(), Cause::Event);
    }

    /// Takes in a change of a boot document; other ConfigMaps say nothing of limits.
    pub fn config_map(&self, change: &Change<ConfigMap>) {
        if document::microservice(change.object()).is_some() {
            self.tell(&**change.object(), Cause::Event);
        }
    }

    fn tell<K: Resource>(&self, object: &K, cause: Cause) {
        let namespace = object.meta().namespace.clone().unwrap_or_default();
        // Nobody listens any more only when the process ends.
        let _ = self.0.send((namespace, cause));
    }
}

impl RateLimits {
    /// Writes until the process is told to stop. Until this replica leads, changes are thrown away: on taking over, every
    /// namespace with a policy is due.
    pub async fn run(mut self, drain: drain::Watch) {
        if !self.stand_by(&drain).await {
            return;
        }
        let mut queue = Queue::default();
        for policy in self.caches.rate_limit_policies.all() {
            queue.add(
                namespace(&Key::of(&*policy).namespace),
                Cause::Resync,
                Instant::now(),
            );
        }
        loop {
            let wake = match queue.next(Instant::now()) {
                Next::Run { key, .. } => {
                    let done = self.visit(&key.namespace).await;
                    queue.done(&key, done, Instant::now(), rand::random());
                    continue;
                }
                Next::At(wake) => Some(wake),
                Next::Idle => None,
            };
            tokio::select! {
                change = self.changes.recv() => match change {
                    Some((name, cause)) => {
                        queue.add(namespace(&name), cause, Instant::now());
                    }
                    None => return,
                },
                () = sleep_until(wake) => {}
                () = drain.signaled() => return,
            }
        }
    }

    /// Waits for leadership; false if the process ends before.
    async fn stand_by(&mut self, drain: &drain::Watch) -> bool {
        let authority = self.authority.clone();
        let mut acquired = std::pin::pin!(authority.acquired());
        loop {
            tokio::select! {
                acquired = &mut acquired => return acquired,
                change = self.changes.recv() => if change.is_none() { return false },
                () = drain.signaled() => return false,
            }
        }
    }

    /// Writes the status of every policy of a namespace whose status is not as it should be.
    async fn visit(&self, namespace: &str) -> Done {
        let policies = self.caches.readable_policies(namespace);
        if policies.is_empty() {
            return Done::Gone;
        }
        let targets = self.targets(namespace);
        let mut done = Done::Visit(VISIT);
        let statuses = rate_limit::statuses(&policies, &targets, &self.own_namespace, Timestamp::now());
        for (policy, status) in policies.iter().zip(statuses) {
            if policy.status.as_ref() == Some(&status) {
                self.wrote(metrics::Outcome::Skipped);
                continue;
            }
            if let Err(error) = self.write(policy, &status).await {
                let policy = Key::of(&**policy);
                tracing::warn!(%policy, error = chain(&error), "failed to report on a rate limit policy; trying again");
                done = Done::Failed;
            }
        }
        done
    }

    /// The Microservices of a namespace, with what their proxies are told.
    fn targets(&self, namespace: &str) -> Vec<Target> {
        let all = self.caches.readable_microservices();
        all.into_iter()
            .filter(|microservice| microservice.metadata.namespace.as_deref() == Some(namespace))
            .map(|microservice| Target {
                document: self.document(&microservice),
                microservice,
            })
            .collect()
    }

    fn document(&self, microservice: &Microservice) -> Option<Document> {
        let key = Key::of(microservice);
        let key = Key::new(key.namespace, names::proxy_config_map(&key.name));
        let live = caches::owned(microservice, &self.caches.config_maps, &key)?;
        serde_json::from_str(live.data.as_ref()?.get(names::KEY_PROXY_CONFIG)?).ok()
    }

    async fn write(&self, policy: &RateLimitPolicy, status: &RateLimitPolicyStatus) -> Result<(), Error> {
        if !self.authority.holds() {
            return Err(Error::Deposed);
        }
        let api: Api<Observed<RateLimitPolicy>> =
            Api::namespaced(self.client.clone(), &policy.namespace().unwrap_or_default());
        let patch = Patch::Apply(json!({
            "apiVersion": RateLimitPolicy::api_version(&()),
            "kind": RateLimitPolicy::kind(&()),
            // The uid keeps a late status from a successor of the same name.
            "metadata": {"name": policy.name_any(), "uid": policy.uid()},
            "status": status,
        }));
        // Forced: the status is ours alone.
        let parameters = PatchParams::apply(names::FIELD_MANAGER_STATUS).force();
        let name = policy.name_any();
        let written = time::timeout(REQUEST, api.patch_status(&name, &parameters, &patch)).await;
        let mut written = match written.map_err(|_| Error::Late).and_then(|answer| Ok(answer?)) {
            Ok(written) => written,
            Err(error) => {
                self.wrote(metrics::Outcome::Failed);
                return Err(error);
            }
        };
        let unchanged = written.resource_version() == policy.resource_version();
        self.wrote(if unchanged {
            metrics::Outcome::Unchanged
        } else {
            metrics::Outcome::Changed
        });
        caches::trim(&mut written);
        let (_, change) = self.caches.rate_limit_policies.written(written);
        for trigger in change.iter().flat_map(|change| {
            triggers::of_rate_limit_policy(change, || self.caches.readable_microservices())
        }) {
            // Nobody listens any more only when the process ends.
            let _ = self.triggers.send(trigger);
        }
        Ok(())
    }

    fn wrote(&self, outcome: metrics::Outcome) {
        self.metrics
            .wrote(&RateLimitPolicy::kind(&()), Verb::Status, outcome);
    }
}

/// What a namespace is queued by.
fn namespace(name: &str) -> Key {
    Key::new(name, "")
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
