//! When there is nothing left to do.
//!
//! The operator has nothing due, under way or waiting for another try; what it owes is there; and nobody has written to the
//! namespaces for a while, which covers what the controllers of Kubernetes have not taken up yet.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler};
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, ListParams},
};
use tokio::time::{Instant, sleep};

use crate::{
    end_state::{self, MICROSERVICE},
    operator::Operator,
    stage::Stage,
};

const PATIENCE: Duration = Duration::from_secs(240);
const LOOK_AGAIN: Duration = Duration::from_millis(30);
/// Longer than the operator lets events wait for each other, and than a controller waits between two steps.
const QUIET: Duration = Duration::from_millis(350);

/// Waits until nothing is left to do in these namespaces.
pub async fn settled(stage: &mut Stage, client: &Client, operator: &mut Operator, namespaces: &[String]) {
    let alive = settled_or_ended(stage, client, operator, namespaces).await;
    assert!(alive, "the operator has ended:\n{}", operator.tail());
}

/// Waits until nothing is left to do, or the operator has ended; false in the latter case.
pub async fn settled_or_ended(
    stage: &mut Stage,
    client: &Client,
    operator: &mut Operator,
    namespaces: &[String],
) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = (0, Instant::now());
    let mut missing = "something happens".to_owned();
    loop {
        if operator.exited().is_some() {
            return false;
        }
        assert!(
            Instant::now() < deadline,
            "{namespaces:?} are not settled: {missing}\n{}",
            operator.tail()
        );
        sleep(LOOK_AGAIN).await;
        let writes = namespaces.iter().map(|name| stage.writes(name).len()).sum();
        let idle = operator.counts().await.is_some_and(|counts| counts.is_idle());
        if writes != seen.0 || !idle {
            seen = (writes, Instant::now());
            continue;
        }
        if seen.1.elapsed() < QUIET {
            continue;
        }
        match owed(client, namespaces).await {
            None => return true,
            Some(owed) => {
                missing = owed;
                seen.1 = Instant::now();
            }
        }
    }
}

/// What is not there yet.
async fn owed(client: &Client, namespaces: &[String]) -> Option<String> {
    for namespace in namespaces {
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), namespace, &end_state::resource(MICROSERVICE));
        let microservices = api.list(&ListParams::default()).await.unwrap().items;
        for object in &microservices {
            let status = &object.data["status"];
            let seen = status["observedGeneration"].as_i64();
            if seen != object.metadata.generation || status["children"].as_array().is_none_or(Vec::is_empty) {
                return Some(format!("{namespace}: {status}"));
            }
        }
        if let Some(owed) = children_owed(client, namespace, &microservices).await {
            return Some(owed);
        }
    }
    None
}

async fn children_owed(client: &Client, namespace: &str, owners: &[DynamicObject]) -> Option<String> {
    let uids: Vec<String> = owners.iter().filter_map(ResourceExt::uid).collect();
    for kind in end_state::CHILDREN {
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), namespace, &end_state::resource(kind));
        for child in api.list(&ListParams::default()).await.unwrap() {
            let orphan = child
                .owner_references()
                .iter()
                .any(|owner| !uids.contains(&owner.uid));
            if orphan || child.metadata.deletion_timestamp.is_some() {
                return Some(format!("{namespace}: {kind:?} {} is to go", child.name_any()));
            }
        }
    }
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    for deployment in deployments.list(&ListParams::default()).await.unwrap() {
        let status = deployment.status.unwrap_or_default();
        let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or_default();
        // A rollout stops at its first new pods: without a kubelet they are never ready.
        if status.observed_generation != deployment.metadata.generation
            || status.replicas.unwrap_or_default() < wanted
            || status.updated_replicas.unwrap_or_default() < wanted.min(1)
        {
            return Some(format!("{namespace}: the Deployment's controller: {status:?}"));
        }
    }
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), namespace);
    for autoscaler in autoscalers.list(&ListParams::default()).await.unwrap() {
        let status = autoscaler.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        if conditions.is_none_or(|all| all.len() < 2) {
            return Some(format!("{namespace}: the autoscaler's controller"));
        }
        // The operator may come to know of it later than a quiet moment takes.
        let owner = owners
            .iter()
            .find(|owner| owner.name_any() == autoscaler.name_any());
        if owner.is_some_and(|owner| {
            condition(owner, "AutoscalerActive").is_none_or(|status| status == "Unknown")
        }) {
            return Some(format!("{namespace}: what the autoscaler says, in the status"));
        }
    }
    None
}

/// The status of a condition.
fn condition<'a>(object: &'a DynamicObject, type_: &str) -> Option<&'a str> {
    let conditions = object.data["status"]["conditions"].as_array()?;
    conditions.iter().find(|it| it["type"] == type_)?["status"].as_str()
}
