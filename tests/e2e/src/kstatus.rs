//! The status contract: the kstatus algorithm of `kubernetes-sigs/cli-utils` (`pkg/kstatus/status/generic.go`), run
//! over every status that is written in a namespace.

use std::{collections::BTreeMap, sync::Arc};

use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::sync::Mutex;
use trellis_api::{
    Microservice,
    condition::{ConditionType, status},
};

/// What kstatus makes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kstatus {
    /// Being deleted.
    Terminating,
    /// Not there yet.
    InProgress,
    /// Will not get there by itself.
    Failed,
    /// There.
    Current,
}

/// The generic algorithm, for a Microservice.
#[must_use]
pub fn kstatus(microservice: &Microservice) -> Kstatus {
    if microservice.metadata.deletion_timestamp.is_some() {
        return Kstatus::Terminating;
    }
    let Some(found) = &microservice.status else {
        // No status at all: kstatus has nothing to go by and takes the object for current. The first status is
        // therefore written before the first child; until then nobody has been told anything.
        return Kstatus::InProgress;
    };
    if found.observed_generation != microservice.metadata.generation {
        return Kstatus::InProgress;
    }
    let holds = |type_: ConditionType, wanted: &str| {
        found
            .conditions
            .iter()
            .any(|c| c.type_ == type_.as_ref() && c.status == wanted)
    };
    if holds(ConditionType::Reconciling, status::TRUE) {
        return Kstatus::InProgress;
    }
    if holds(ConditionType::Stalled, status::TRUE) {
        return Kstatus::Failed;
    }
    if found
        .conditions
        .iter()
        .any(|c| c.type_ == ConditionType::Ready.as_ref() && c.status != status::TRUE)
    {
        return Kstatus::InProgress;
    }
    Kstatus::Current
}

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
    let Some(found) = &microservice.status else {
        return faults;
    };
    for condition in &found.conditions {
        if condition.observed_generation.is_none() || condition.reason.is_empty() {
            faults.push(format!(
                "condition {} lacks observedGeneration or reason",
                condition.type_
            ));
        }
    }
    if !found
        .conditions
        .iter()
        .any(|c| c.type_ == ConditionType::Ready.as_ref())
    {
        faults.push("a status without Ready counts as current".to_owned());
    }
    let observed = found.observed_generation.unwrap_or_default();
    let uid = microservice.uid().unwrap_or_default();
    let last = last_generation.entry(uid).or_default();
    if observed < *last || Some(observed) > microservice.metadata.generation {
        faults.push(format!("observedGeneration went from {last} to {observed}"));
    }
    *last = observed;
    if kstatus(microservice) == Kstatus::Current {
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
