//! The autoscaler's coming, working and going.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Result, ensure};
use e2e::{
    Cluster, eventually, http, image,
    wait::{until, until_ready},
    with_namespace,
};
use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use trellis_api::{
    Microservice,
    condition::{ConditionType, status},
};

/// Every replica count that a Deployment ever asked for, without repetitions.
struct Counts {
    seen: Arc<Mutex<Vec<i32>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Counts {
    fn watch(deployments: Api<Deployment>, name: &str) -> Self {
        let seen = Arc::<Mutex<Vec<i32>>>::default();
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut states = watcher(deployments, only)
                .default_backoff()
                .applied_objects()
                .boxed();
            while let Some(state) = states.next().await {
                let count = state.ok().and_then(|found| found.spec?.replicas);
                let mut seen = noted.lock().unwrap();
                if let Some(count) = count.filter(|count| seen.last() != Some(count)) {
                    seen.push(count);
                }
            }
        });
        Self { seen, task }
    }

    fn seen(&self) -> Vec<i32> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn create(services: &Api<Microservice>, name: &str, spec: Value) -> Result<()> {
    let object = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice", "metadata": {"name": name}, "spec": spec,
    });
    services
        .create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    Ok(())
}

/// Edits the spec and waits until the autoscaler is there, or not, and all is settled.
async fn switch(cluster: &Cluster, ns: &str, spec: Value, on: bool) -> Result<()> {
    let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), ns);
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(cluster.client.clone(), ns);
    services
        .patch(
            "hello",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": spec})),
        )
        .await?;
    eventually(
        Duration::from_secs(20),
        "the autoscaler to be switched",
        || async {
            ensure!(autoscalers.get_opt("hello").await?.is_some() == on);
            Ok(())
        },
    )
    .await;
    until_ready(&services, "hello").await;
    Ok(())
}

#[tokio::test]
async fn a_replica_count_never_moves_by_the_autoscalers_coming_and_going() {
    with_namespace(|cluster, ns| async move {
        let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        let spec = json!({
            "image": image::echo().await?, "ports": [{"name": "http", "port": 8080}], "replicas": 3,
            "resources": {"requests": {"cpu": "10m"}},
        });
        create(&services, "hello", spec).await?;
        until_ready(&services, "hello").await;
        let counts = Counts::watch(Api::namespaced(cluster.client.clone(), &ns), "hello");

        let autoscaling = json!({"min": 3, "max": 5, "cpu": 80});
        let on = json!({"replicas": null, "autoscaling": autoscaling});
        switch(&cluster, &ns, on, true).await?;
        switch(&cluster, &ns, json!({"autoscaling": null}), false).await?;
        switch(&cluster, &ns, json!({"autoscaling": autoscaling}), true).await?;
        switch(&cluster, &ns, json!({"replicas": 3, "autoscaling": null}), false).await?;
        assert_eq!(counts.seen(), [3]);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn load_on_the_cpu_makes_more_pods_and_they_stay_when_the_autoscaler_goes() {
    with_namespace(|cluster, ns| async move {
        let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), &ns);
        let gateway = json!({"gateway": {"listeners": [{"name": "http", "port": 80}]}});
        create(&services, "gateway", gateway).await?;
        let spec = json!({
            "image": image::echo().await?, "ports": [{"name": "http", "port": 8080}],
            "autoscaling": {"min": 1, "max": 2, "cpu": 50},
            // A limit, so that the test takes no CPU from others; far above the target all the same.
            "resources": {"requests": {"cpu": "20m"}, "limits": {"cpu": "60m"}},
        });
        create(&services, "hello", spec).await?;
        until_ready(&services, "hello").await;
        until_ready(&services, "gateway").await;
        let counts = Counts::watch(deployments.clone(), "hello");

        eventually(Duration::from_secs(30), "the load to begin", || {
            http::get_through_api_server(&cluster.client, &ns, "gateway:http", "/hello/burn?seconds=90")
        })
        .await;
        eventually(Duration::from_secs(150), "a second pod", || async {
            let found = deployments.get("hello").await?;
            ensure!(
                found.spec.as_ref().and_then(|spec| spec.replicas) == Some(2),
                "{found:?}"
            );
            Ok(())
        })
        .await;
        until(
            &services,
            "hello",
            Duration::from_secs(60),
            "scaled by a working autoscaler",
            |found, ready| {
                let conditions = found.status.iter().flat_map(|status| &status.conditions);
                let active = conditions
                    .into_iter()
                    .find(|c| c.type_ == ConditionType::AutoscalerActive.as_ref());
                ready.status == status::TRUE && active.is_some_and(|c| c.status == status::TRUE)
            },
        )
        .await;

        switch(&cluster, &ns, json!({"autoscaling": null}), false).await?;
        assert_eq!(counts.seen(), [1, 2]);
        Ok(())
    })
    .await;
}
