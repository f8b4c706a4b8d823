//! First step: reads what the decisions need, and decides nothing.
//!
//! Everything but Events comes from the caches. Events are asked for only about pods that are not ready and old enough
//! to have a reason: they are many, and most pods never need explaining.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Event, Pod, PodCondition},
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{Api, Resource, ResourceExt, api::ListParams};
use trellis_api::{Microservice, microservice::Dependency, names};
use trellis_operator_desired::{
    microservice::{self as decisions, Fetched, PodEvent, Proxy},
    saga,
};

use super::Context;
use crate::{caches::owned, key::Key};

/// Most pods whose Events are read in a pass: one of a kind explains the others.
const MOST_PODS: usize = 3;
/// Most Events that are read of a pod.
const MOST_EVENTS: u32 = 50;
/// Age at which a pod that is not ready is looked into.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("failed to read the events of pod {pod}")]
    Events {
        /// Name of the pod.
        pod: String,
        /// The answer.
        source: kube::Error,
    },
}

/// What the pods of a Microservice say.
#[derive(Debug, Default)]
pub struct Pods {
    /// Live pods, newest first; none while every one is as wanted.
    pub pods: Vec<Pod>,
    /// Events about those that are not ready.
    pub events: Vec<PodEvent>,
    /// Age of the newest.
    pub newest: Option<Duration>,
}

/// What a pass over `cr` works from.
pub async fn dereference(context: &Context, cr: &Microservice) -> Result<Fetched, Error> {
    let key = Key::of(cr);
    let caches = &context.caches;
    let proxy_config = Key::new(&*key.namespace, names::proxy_config_map(&key.name));
    let participants = if key == context.engine_key() {
        participants(context)
    } else {
        Vec::new()
    };
    Ok(Fetched {
        microservices: related(context, cr, &participants),
        participants,
        deployment: owned(cr, &caches.deployments, &key),
        autoscaler: owned(cr, &caches.autoscalers, &key),
        proxy_config: owned(cr, &caches.config_maps, &proxy_config),
        rate_limit_policies: caches.policies(&key.namespace),
        // Read after the Applier, which changes what they are about.
        pods: Vec::new(),
        events: Vec::new(),
    })
}

/// Live pods of `cr` and what is said about those that are not ready.
pub async fn pods(context: &Context, cr: &Microservice, deployment: &Deployment) -> Result<Pods, Error> {
    if is_complete(deployment) {
        return Ok(Pods::default());
    }
    let key = Key::of(cr);
    let mut pods: Vec<Arc<Pod>> = context.caches.pods.of_microservice(&key);
    // Newest first: a rollout fails with its newest pods.
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.creation_timestamp()));
    let mut events = Vec::new();
    for pod in pods.iter().filter(|pod| needs_explaining(pod)).take(MOST_PODS) {
        events.extend(events_of(context, &key.namespace, pod).await?);
    }
    Ok(Pods {
        newest: pods.first().and_then(|pod| age(&**pod)),
        pods: pods.iter().map(|pod| (**pod).clone()).collect(),
        events,
    })
}

/// The proxies of the pods of `cr` that are ready and not being stopped, with what they said.
pub fn proxies(context: &Context, cr: &Microservice) -> Vec<Proxy> {
    let key = Key::of(cr);
    let mut answers = context.answers.of(&key);
    let listening = context.authority.led_for();
    let pods = context.caches.pods.of_microservice(&key);
    pods.iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| {
            let name = pod.name_any();
            Some(Proxy {
                waited: since(&ready(pod)?.last_transition_time.clone()?).min(listening),
                answer: answers.remove(&name),
                pod: name,
            })
        })
        .collect()
}

/// What the revisions of all sagas call, each once.
fn participants(context: &Context) -> Vec<Dependency> {
    let config_maps = context.caches.config_maps.all();
    let all: BTreeSet<(String, String, Option<String>)> = config_maps
        .iter()
        .flat_map(|config_map| saga::participants_of(config_map))
        .map(|entry| {
            (
                entry.namespace.unwrap_or_default(),
                entry.microservice,
                entry.port,
            )
        })
        .collect();
    let entry = |(namespace, microservice, port)| Dependency {
        microservice,
        namespace: Some(namespace),
        port,
        resilience: None,
    };
    all.into_iter().map(entry).collect()
}

/// The Microservices that the decisions about `cr` read.
fn related(context: &Context, cr: &Microservice, participants: &[Dependency]) -> Vec<Arc<Microservice>> {
    let interests = decisions::interests(cr);
    let called: BTreeSet<Key> = participants
        .iter()
        .map(|entry| Key::new(entry.namespace.clone().unwrap_or_default(), &*entry.microservice))
        .collect();
    context
        .caches
        .microservices
        .all()
        .iter()
        .filter_map(|observed| observed.readable())
        .filter(|other| interests.covers(other) || called.contains(&Key::of(&***other)))
        .cloned()
        .collect()
}

fn is_complete(deployment: &Deployment) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation == deployment.metadata.generation
            && status.replicas.unwrap_or_default() == wanted
            && status.updated_replicas.unwrap_or_default() == wanted
            && status.available_replicas.unwrap_or_default() == wanted
    })
}

fn needs_explaining(pod: &Pod) -> bool {
    ready(pod).is_none() && age(pod).is_some_and(|age| age >= PATIENCE)
}

/// Whether a pod is ready and not being stopped.
pub fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && ready(pod).is_some()
}

/// The condition `Ready` of a pod that is.
fn ready(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn age<K: Resource>(object: &K) -> Option<Duration> {
    Some(since(object.meta().creation_timestamp.as_ref()?))
}

/// Whether an object was made a shorter time ago, as far as whole seconds tell.
pub fn is_younger<K: Resource>(object: &K, than: Duration) -> bool {
    age(object).is_some_and(|age| age < than + Duration::from_secs(1))
}

/// Time since then; none if it is in the future, which it is only if the clocks differ.
fn since(time: &Time) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(time.0)).unwrap_or_default()
}

async fn events_of(context: &Context, namespace: &str, pod: &Pod) -> Result<Vec<PodEvent>, Error> {
    let events: Api<Event> = Api::namespaced(context.client.clone(), namespace);
    let about = format!(
        "involvedObject.kind=Pod,involvedObject.uid={}",
        pod.uid().unwrap_or_default()
    );
    let parameters = ListParams::default().fields(&about).limit(MOST_EVENTS);
    let list = events.list(&parameters).await.map_err(|source| Error::Events {
        pod: pod.name_any(),
        source,
    })?;
    Ok(list
        .items
        .into_iter()
        .map(|event| pod_event(pod, event))
        .collect())
}

fn pod_event(pod: &Pod, event: Event) -> PodEvent {
    let container = event
        .involved_object
        .field_path
        .as_deref()
        .and_then(|path| path.split_once('{'))
        .map(|(_, rest)| rest.trim_end_matches('}').to_owned());
    PodEvent {
        pod: pod.name_any(),
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
        container,
        count: event
            .series
            .and_then(|series| series.count)
            .or(event.count)
            .unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_names_the_container_it_is_about() {
        let event = serde_json::from_value(json!({
            "metadata": {}, "reason": "Unhealthy", "message": "Readiness probe failed", "count": 4,
            "involvedObject": {"kind": "Pod", "fieldPath": "spec.initContainers{trellis-proxy}"},
        }))
        .unwrap();
        let event = pod_event(&Pod::default(), event);
        assert_eq!(event.container.as_deref(), Some("trellis-proxy"));
        assert_eq!(event.count, 4);
    }

    #[test]
    fn a_deployment_is_complete_when_every_pod_is_new_and_available() {
        let deployment = |generation: i64, updated: i32| -> Deployment {
            serde_json::from_value(json!({
                "metadata": {"generation": generation},
                "spec": {"replicas": 2, "selector": {}, "template": {}},
                "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": updated, "availableReplicas": 2},
            }))
            .unwrap()
        };
        assert!(is_complete(&deployment(1, 2)));
        assert!(!is_complete(&deployment(1, 1)));
        assert!(
            !is_complete(&deployment(2, 2)),
            "the status is about an older spec"
        );
    }
}
