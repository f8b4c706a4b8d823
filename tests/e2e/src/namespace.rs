//! A namespace of a test's own.

use std::panic::AssertUnwindSafe;

use anyhow::Result;
use futures::FutureExt as _;
use k8s_openapi::{
    api::core::v1::{Event, Namespace, Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;
use trellis_api::Microservice;

use crate::{Cluster, cluster, kstatus::Watcher};

/// Runs a test in a new namespace at Pod Security level `restricted`, with the operator to share. Checks the status
/// contract on everything that happens in it. Prints what was in it if the test fails, and removes it in any case.
///
/// # Panics
/// If the test does, or the status contract was broken.
pub async fn with_namespace<F: Future<Output = Result<()>>>(test: impl FnOnce(Cluster, String) -> F) {
    let lock = cluster::share_operator().await.expect("failed to lock");
    run_in_namespace(test).await;
    drop(lock);
}

/// As [`with_namespace`], with the operator for the test alone.
///
/// # Panics
/// As [`with_namespace`].
pub async fn with_namespace_alone<F: Future<Output = Result<()>>>(test: impl FnOnce(Cluster, String) -> F) {
    let lock = cluster::own_operator().await.expect("failed to lock");
    run_in_namespace(test).await;
    drop(lock);
}

async fn run_in_namespace<F: Future<Output = Result<()>>>(test: impl FnOnce(Cluster, String) -> F) {
    let cluster = Cluster::connect().await.expect("failed to connect");
    let name = format!("e2e-{:08x}", rand::random::<u32>());
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace = json!({
        "metadata": {
            "name": name,
            "labels": {"trellis.dev/e2e": "true", "pod-security.kubernetes.io/enforce": "restricted"},
        },
    });
    let namespace = serde_json::from_value(namespace).expect("a namespace");
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .expect("failed to create a namespace");

    let watcher = Watcher::start(cluster.client.clone(), &name);
    let outcome = AssertUnwindSafe(test(cluster.clone(), name.clone()))
        .catch_unwind()
        .await;
    let violations = watcher.finish().await;
    if !matches!(outcome, Ok(Ok(()))) || !violations.is_empty() {
        dump(&cluster, &name).await;
    }
    let deleted = namespaces.delete(&name, &DeleteParams::background()).await;
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
    deleted.expect("failed to delete the namespace");
    assert!(
        violations.is_empty(),
        "the status contract was broken:\n{}",
        violations.join("\n")
    );
}

async fn dump(cluster: &Cluster, namespace: &str) {
    let everything = ListParams::default();
    let client = || cluster.client.clone();
    if let Ok(list) = Api::<Microservice>::namespaced(client(), namespace)
        .list(&everything)
        .await
    {
        for item in list {
            eprintln!("--- microservice {}", item.name_any());
            for condition in item.status.iter().flat_map(|status| &status.conditions) {
                let Condition {
                    type_,
                    status,
                    reason,
                    message,
                    last_transition_time,
                    ..
                } = condition;
                eprintln!(
                    "{type_}={status} {reason} since {}: {message}",
                    last_transition_time.0
                );
            }
        }
    }
    if let Ok(list) = Api::<Pod>::namespaced(client(), namespace)
        .list(&everything)
        .await
    {
        for pod in list {
            let states: Vec<_> = pod
                .status
                .iter()
                .flat_map(|s| {
                    s.init_container_statuses
                        .iter()
                        .chain(s.container_statuses.iter())
                        .flatten()
                })
                .map(|c| {
                    format!(
                        "{} ready={} restarts={} {:?}",
                        c.name, c.ready, c.restart_count, c.state
                    )
                })
                .collect();
            eprintln!("--- pod {}\n{}", pod.name_any(), states.join("\n"));
        }
    }
    if let Ok(list) = Api::<Event>::namespaced(client(), namespace)
        .list(&everything)
        .await
    {
        for event in list {
            eprintln!(
                "--- event {} {}: {}",
                event.involved_object.name.unwrap_or_default(),
                event.reason.unwrap_or_default(),
                event.message.unwrap_or_default()
            );
        }
    }
}
