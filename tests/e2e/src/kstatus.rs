//! The status contract: the kstatus algorithm, run over every status that is written in a namespace, and over what an
//! object has before the first one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::sync::Mutex;
use trellis_api::{Microservice, condition::ConditionType, microservice::UNOBSERVED};
use trellis_testkit::kstatus::{self, Status};

/// Watches the Microservices of a namespace and notes every status that breaks the contract.
pub struct Watcher {
    task: tokio::task::JoinHandle<()>,
    violations: Arc<Mutex<Vec<String>>>,
}

impl Watcher {
    /// Starts watching.
    #[must_use]
    pub fn start(client: Client, namespace: &str) -> Self {
        let violations = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(watch(client, namespace.to_owned(), Arc::clone(&violations)));
        Self { task, violations }
    }

    /// Ends watching and returns what broke the contract.
    pub async fn finish(self) -> Vec<String> {
        self.task.abort();
        self.violations.lock().await.clone()
    }
}

/// What a watcher remembers of a Microservice, by uid.
#[derive(Default)]
struct Seen {
    /// Of its last status.
    generation: Option<i64>,
    /// Kinds of its children that were there. One that is not there any more was taken away by somebody, which a status
    /// cannot know at once.
    children: BTreeSet<&'static str>,
}

async fn watch(client: Client, namespace: String, violations: Arc<Mutex<Vec<String>>>) {
    let api: Api<Microservice> = Api::namespaced(client.clone(), &namespace);
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut events = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    while let Some(event) = events.next().await {
        let Ok(microservice) = event else { continue };
        let name = microservice.name_any();
        let seen = seen.entry(microservice.uid().unwrap_or_default()).or_default();
        let faults = check(&client, &namespace, &microservice, seen).await;
        violations
            .lock()
            .await
            .extend(faults.into_iter().map(|fault| format!("{name}: {fault}")));
    }
}

async fn check(
    client: &Client,
    namespace: &str,
    microservice: &Microservice,
    seen: &mut Seen,
) -> Vec<String> {
    let mut faults = Vec::new();
    let status = match serde_json::to_value(microservice) {
        Ok(object) => kstatus::compute(&object),
        Err(error) => return vec![format!("failed to write it as JSON: {error}")],
    };
    let found = microservice.status.clone().unwrap_or_default();
    for condition in &found.conditions {
        if condition.observed_generation.is_none() || condition.reason.is_empty() {
            faults.push(format!(
                "condition {} lacks observedGeneration or reason",
                condition.type_
            ));
        }
    }
    let has_ready = found
        .conditions
        .iter()
        .any(|c| c.type_ == ConditionType::Ready.as_ref());
    if status == Status::Current && !has_ready {
        faults.push("current without Ready".to_owned());
    }
    let observed = found.observed_generation.unwrap_or(UNOBSERVED);
    let last = seen.generation.unwrap_or(UNOBSERVED);
    if observed < last || Some(observed) > microservice.metadata.generation {
        faults.push(format!("observedGeneration went from {last} to {observed}"));
    }
    seen.generation = Some(observed);
    if status == Status::Current {
        faults.extend(missing_children(client, namespace, microservice, &mut seen.children).await);
    }
    faults
}

async fn missing_children(
    client: &Client,
    namespace: &str,
    microservice: &Microservice,
    seen: &mut BTreeSet<&'static str>,
) -> Vec<String> {
    let name = microservice.name_any();
    let deployment = Api::<Deployment>::namespaced(client.clone(), namespace)
        .get_opt(&name)
        .await;
    let service = Api::<Service>::namespaced(client.clone(), namespace)
        .get_opt(&name)
        .await;
    let has_ports = !microservice.spec.ports.is_empty() || microservice.spec.gateway.is_some();
    let mut children = vec![("Deployment", deployment.map(|found| found.is_some()))];
    if has_ports {
        children.push(("Service", service.map(|found| found.is_some())));
    }
    // The object may have been deleted since: then its children are rightly gone.
    let still_there = || async {
        let now = Api::<Microservice>::namespaced(client.clone(), namespace)
            .get_opt(&name)
            .await;
        now.is_ok_and(|now| {
            now.is_some_and(|now| {
                now.uid() == microservice.uid() && now.metadata.deletion_timestamp.is_none()
            })
        })
    };
    let mut faults = Vec::new();
    for (kind, found) in children {
        match found {
            Ok(true) => {
                seen.insert(kind);
            }
            Ok(false) if !seen.contains(kind) && still_there().await => {
                faults.push(format!("current without a {kind}"));
            }
            _ => {}
        }
    }
    faults
}
