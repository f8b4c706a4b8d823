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

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::Resource;
use tokio::sync::mpsc;
use trellis_api::{Microservice, RateLimitPolicy, RateLimitPolicyStatus, names};
use trellis_chassis::drain;
use trellis_operator_desired::rate_limit::{self, Target};
use trellis_proxy_config::Document;

use crate::{
    cache::Change,
    caches::{self, Caches},
    error::chain,
    key::Key,
    observed::Observed,
    queue::{Cause, Done},
    statuses::{self, Statuses},
    stream::document,
    triggers,
    visits::{self, Visit},
    workers::Trigger,
};

/// Time between visits of a namespace at rest.
const VISIT: Duration = Duration::from_secs(600);

/// Says which namespaces changes concern. Clones tell the same task.
#[derive(Debug, Clone)]
pub struct Concerned(mpsc::UnboundedSender<Trigger>);

/// Writes the statuses.
pub struct RateLimits {
    /// Writes statuses.
    pub statuses: Statuses,
    /// What statuses are made from.
    pub caches: Arc<Caches>,
    /// Namespace of the operator.
    pub own_namespace: String,
    /// Makes Microservices due, if the answer to a write shows an edit.
    pub triggers: mpsc::UnboundedSender<Trigger>,
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
        let key = namespace(object.meta().namespace.as_deref().unwrap_or_default());
        // Nobody listens any more only when the process ends.
        let _ = self.0.send((key, cause));
    }
}

impl RateLimits {
    /// Writes until the process is told to stop.
    pub async fn run(self, changes: mpsc::UnboundedReceiver<Trigger>, drain: drain::Watch) {
        let authority = self.statuses.authority.clone();
        visits::run(self, &authority, changes, drain).await;
    }

    /// Writes the status of every policy of a namespace whose status is not as it should be.
    async fn visit_namespace(&self, namespace: &str) -> Done {
        let policies = self.caches.readable_policies(namespace);
        if policies.is_empty() {
            return Done::Gone;
        }
        let targets = self.targets(namespace);
        let mut done = Done::Visit(VISIT);
        let statuses = rate_limit::statuses(&policies, &targets, &self.own_namespace, Timestamp::now());
        for (policy, status) in policies.iter().zip(statuses) {
            if policy.status.as_ref() == Some(&status) {
                self.statuses.skipped::<RateLimitPolicy>();
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

    async fn write(
        &self,
        policy: &RateLimitPolicy,
        status: &RateLimitPolicyStatus,
    ) -> Result<(), statuses::Error> {
        let written = self.statuses.write(policy, status).await?;
        let (_, change) = self.caches.rate_limit_policies.written(written);
        for trigger in change.iter().flat_map(|change| {
            triggers::of_rate_limit_policy(change, || self.caches.readable_microservices())
        }) {
            // Nobody listens any more only when the process ends.
            let _ = self.triggers.send(trigger);
        }
        Ok(())
    }
}

impl Visit for RateLimits {
    fn all(&self) -> Vec<Key> {
        let all = self.caches.rate_limit_policies.all();
        all.iter()
            .map(|policy| namespace(&Key::of(&**policy).namespace))
            .collect()
    }

    async fn visit(&self, key: &Key) -> Done {
        self.visit_namespace(&key.namespace).await
    }
}

/// What a namespace is queued by.
fn namespace(name: &str) -> Key {
    Key::new(name, "")
}

#[cfg(test)]
mod tests;
