//! Without the operator everything keeps serving.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{eventually, http, image, namespace::with_namespace_alone, restoring, wait::until_ready};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use trellis_api::Microservice;

const OPERATOR: &str = "trellis-operator";

async fn scale_operator(deployments: &Api<Deployment>, replicas: i32) -> Result<()> {
    let patch = json!({"spec": {"replicas": replicas}});
    deployments
        .patch(OPERATOR, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    eventually(Duration::from_secs(60), "the operator to be scaled", || async {
        let found = deployments.get(OPERATOR).await?.status.unwrap_or_default();
        ensure!(found.replicas.unwrap_or(0) == replicas && found.ready_replicas.unwrap_or(0) == replicas);
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn without_the_operator_restarted_pods_serve_and_are_reached() {
    with_namespace_alone(|cluster, ns| async move {
        let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &ns);
        let operator: Api<Deployment> = Api::namespaced(cluster.client.clone(), "trellis-system");
        let echo = image::echo().await?;
        for (name, spec) in [
            ("gateway", json!({"gateway": {"listeners": [{"name": "http", "port": 80}]}})),
            ("hello", json!({"image": echo, "ports": [{"name": "http", "port": 8080}]})),
        ] {
            let object = json!({
                "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice", "metadata": {"name": name}, "spec": spec,
            });
            services.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        }
        until_ready(&services, "hello").await;
        until_ready(&services, "gateway").await;

        let replicas = operator.get(OPERATOR).await?.spec.unwrap().replicas.unwrap_or(1);
        let body = async {
            scale_operator(&operator, 0).await?;
            replace_every_pod(&cluster, &ns, &pods).await
        };
        restoring(body, scale_operator(&operator, replicas)).await
    })
    .await;
}

async fn replace_every_pod(cluster: &e2e::Cluster, ns: &str, pods: &Api<Pod>) -> Result<()> {
    let everything = ListParams::default().labels("app.kubernetes.io/managed-by=trellis");
    let before: Vec<String> = pods
        .list(&everything)
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    for name in &before {
        pods.delete(name, &DeleteParams::default()).await?;
    }
    eventually(
        Duration::from_secs(90),
        "new pods to be ready without the operator",
        || async {
            let now = pods.list(&everything).await?.items;
            let ready = now.iter().filter(|pod| {
                let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
                conditions
                    .into_iter()
                    .any(|c| c.type_ == "Ready" && c.status == "True")
            });
            let fresh = now.iter().all(|pod| !before.contains(&pod.name_any()));
            ensure!(fresh && ready.count() == before.len(), "not yet");
            Ok(())
        },
    )
    .await;
    let answer = eventually(Duration::from_secs(20), "an answer without the operator", || {
        http::get_through_api_server(&cluster.client, ns, "gateway:http", "/hello/still-here")
    })
    .await;
    ensure!(answer["path"] == "/still-here", "{answer}");
    Ok(())
}
