//! The status contract: the kstatus algorithm, run over every status that is written in a namespace, and over what an
//! object has before the first one.

use std::{collections::BTreeMap, sync::Arc};

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

async fn watch(client: Client, namespace: String, violations: Arc<Mutex<Vec<String>>>) {
    let api: Api<Microservice> = Api::namespaced(client.clone(), &namespace);
    let mut last_generation: BTreeMap<String, i64> = BTreeMap::new();
    let mut events = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    while let Some(event) = events.next().await {
        let Ok(microservice) = event else { continue };
        let name = microservice.name_any();
        let faults = check(&client, &namespace, &microservice, &mut last_generation).await;
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
    last_generation: &mut BTreeMap<String, i64>,
) -> Vec<String> {
    let mut faults = Vec::new();
    let seen = match serde_json::to_value(microservice) {
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
    if seen == Status::Current && !has_ready {
        faults.push("current without Ready".to_owned());
    }
    let observed = found.observed_generation.unwrap_or(UNOBSERVED);
    let uid = microservice.uid().unwrap_or_default();
    let last = last_generation.entry(uid).or_insert(UNOBSERVED);
    if observed < *last || Some(observed) > microservice.metadata.generation {
        faults.push(format!("observedGeneration went from {last} to {observed}"));
    }
    *last = observed;
    if seen == Status::Current {
        faults.extend(missing_children(client, namespace, microservice).await);
    }
    faults
}

async fn missing_children(client: &Client, namespace: &str, microservice: &Microservice) -> Vec<String> {
    let name = microservice.name_any();
    let mut faults = Vec::new();
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
    let deployment = Api::<Deployment>::namespaced(client.clone(), namespace)
        .get_opt(&name)
        .await;
    if matches!(deployment, Ok(None)) && still_there().await {
        faults.push("current without a Deployment".to_owned());
    }
    let has_ports = !microservice.spec.ports.is_empty() || microservice.spec.gateway.is_some();
    let service = Api::<Service>::namespaced(client.clone(), namespace)
        .get_opt(&name)
        .await;
    if has_ports && matches!(service, Ok(None)) && still_there().await {
        faults.push("current without a Service".to_owned());
    }
    faults
}
