//! What is watched, and where each change goes: to the queue, to the stream's index, or both.

use std::{sync::Arc, time::Instant};

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, Client, Resource};
use tokio::{sync::mpsc, task::JoinSet};
use trellis_api::{RateLimitPolicy, Saga, names};
use trellis_chassis::readiness::Readiness;

use crate::{
    cache::Change,
    caches::{self, Caches, Child},
    client::Progress,
    key::Key,
    observed::Observed,
    queue::Cause,
    stream::{endpoints, index::Index},
    triggers,
    watch::Watch,
    workers::Trigger,
};

/// Running watches.
pub struct Watches {
    /// One task a kind; none ends by itself.
    pub tasks: JoinSet<()>,
    /// Closed when every kind was listed once.
    pub synced: mpsc::Receiver<()>,
}

/// Starts every watch. Each is a task of `readiness`.
pub fn start(
    client: &Client,
    caches: &Arc<Caches>,
    index: &Arc<Index>,
    engine: &Key,
    triggers: &mpsc::UnboundedSender<Trigger>,
    readiness: &Readiness,
    progress: &Progress,
) -> Watches {
    let (syncing, synced) = mpsc::channel(1);
    let starter = Starter {
        client,
        caches,
        engine,
        triggers,
        readiness,
        progress,
        syncing,
    };
    let mut tasks = JoinSet::new();
    starter.microservices(&mut tasks);
    starter.rate_limit_policies(&mut tasks);
    starter.sagas(&mut tasks);
    starter.child::<Deployment>(&mut tasks, "deployments", triggers::of_child);
    starter.child::<Service>(&mut tasks, "services", triggers::of_child);
    starter.child::<ServiceAccount>(&mut tasks, "serviceaccounts", triggers::of_child);
    starter.child::<PodDisruptionBudget>(&mut tasks, "poddisruptionbudgets", triggers::of_disruption_budget);
    starter.child::<HorizontalPodAutoscaler>(&mut tasks, "horizontalpodautoscalers", triggers::of_autoscaler);

    starter.child::<ConfigMap>(&mut tasks, "configmaps", triggers::of_child);
    let pods = starter.watch::<Pod>(names::LABEL_MICROSERVICE.to_owned(), caches::trim, "pods");
    let send = starter.sender();
    tasks.spawn(pods.run(Arc::clone(&caches.pods), move |change| {
        triggers::of_pod(change).into_iter().for_each(&send);
    }));
    let slices =
        starter.watch::<EndpointSlice>(endpoints::SELECTOR.to_owned(), caches::trim, "endpointslices");
    let index = Arc::clone(index);
    tasks.spawn(slices.run(Arc::clone(&caches.endpoint_slices), move |change| {
        index.endpoint_slice(change);
    }));
    Watches { tasks, synced }
}

/// Kinds that a Microservice can do without.
const OPTIONAL: [&str; 4] = [
    "horizontalpodautoscalers",
    "poddisruptionbudgets",
    "ratelimitpolicies",
    "sagas",
];

struct Starter<'a> {
    client: &'a Client,
    caches: &'a Arc<Caches>,
    /// The Microservice of the saga engine.
    engine: &'a Key,
    triggers: &'a mpsc::UnboundedSender<Trigger>,
    readiness: &'a Readiness,
    progress: &'a Progress,
    syncing: mpsc::Sender<()>,
}

impl Starter<'_> {
    fn microservices(&self, tasks: &mut JoinSet<()>) {
        let watch = self.watch::<Observed>(String::new(), caches::trim, "microservices");
        let (caches, triggers) = (Arc::clone(self.caches), self.triggers.clone());
        let engine = self.engine.clone();
        tasks.spawn(watch.run(Arc::clone(&caches.microservices), move |change| {
            for trigger in triggers::of_microservice(change, &engine, || caches.readable_microservices()) {
                // Nobody listens any more only when the process ends.
                let _ = triggers.send(trigger);
            }
        }));
    }

    fn rate_limit_policies(&self, tasks: &mut JoinSet<()>) {
        let watch = self.watch::<Observed<RateLimitPolicy>>(String::new(), caches::trim, "ratelimitpolicies");
        let (caches, triggers) = (Arc::clone(self.caches), self.triggers.clone());
        tasks.spawn(watch.run(Arc::clone(&caches.rate_limit_policies), move |change| {
            if let Observed::Unreadable(invalid) = &**change.object() {
                let policy = Key::of(&**change.object());
                tracing::warn!(%policy, error = invalid.error, "failed to read a rate limit policy");
            }
            for trigger in triggers::of_rate_limit_policy(change, || caches.readable_microservices()) {
                // Nobody listens any more only when the process ends.
                let _ = triggers.send(trigger);
            }
        }));
    }

    fn sagas(&self, tasks: &mut JoinSet<()>) {
        let watch = self.watch::<Observed<Saga>>(String::new(), caches::trim, "sagas");
        tasks.spawn(watch.run(Arc::clone(&self.caches.sagas), move |change| {
            if let Observed::Unreadable(invalid) = &**change.object() {
                let saga = Key::of(&**change.object());
                tracing::warn!(%saga, error = invalid.error, "failed to read a saga");
            }
        }));
    }

    fn child<K: Child>(
        &self,
        tasks: &mut JoinSet<()>,
        resource: &'static str,
        due: impl Fn(&Change<K>) -> Vec<Key> + Send + 'static,
    ) {
        let selector = format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY);
        let watch = self.watch::<K>(selector, K::trim, resource);
        let send = self.sender();
        tasks.spawn(watch.run(Arc::clone(K::cache(self.caches)), move |change| {
            due(change).into_iter().for_each(&send);
        }));
    }

    fn watch<K: Resource<DynamicType = ()>>(
        &self,
        selector: String,
        trim: fn(&mut K),
        resource: &'static str,
    ) -> Watch<K> {
        self.progress.expect(resource, Instant::now());
        Watch {
            api: Api::all(self.client.clone()),
            selector,
            trim,
            optional: OPTIONAL.contains(&resource),
            synced: self.readiness.task(resource),
            syncing: self.syncing.clone(),
        }
    }

    fn sender(&self) -> impl Fn(Key) + Send + use<> {
        let triggers = self.triggers.clone();
        move |key| {
            // Nobody listens any more only when the process ends.
            let _ = triggers.send((key, Cause::Event));
        }
    }
}
