//! What proxies answer to their documents reaches the status, whichever replica of the operator they are connected to.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Cluster, eventually, image,
    namespace::with_namespace_alone,
    wait::{until, until_ready},
    with_namespace,
};
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use trellis_api::{
    Microservice,
    condition::{ConditionType, Reason, status},
    microservice::{LaggardReason, Proxies},
};

const OPERATOR: &str = "trellis-operator";
const SYSTEM: &str = "trellis-system";
const PATIENCE: Duration = Duration::from_secs(90);

async fn create(services: &Api<Microservice>, name: &str, spec: Value) -> Result<()> {
    let object = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice", "metadata": {"name": name}, "spec": spec,
    });
    services
        .create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    Ok(())
}

/// Waits until `Programmed` has this status and reason; answers the counts.
async fn until_programmed(
    services: &Api<Microservice>,
    name: &str,
    wanted: &str,
    reason: Reason,
) -> (Microservice, Proxies) {
    let found = until(services, name, PATIENCE, reason.as_ref(), |found, _| {
        let conditions = found.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|condition| {
            condition.type_ == ConditionType::Programmed.as_ref()
                && condition.status == wanted
                && condition.reason == reason.as_ref()
        })
    })
    .await;
    let proxies = found.status.clone().unwrap().proxies.unwrap();
    (found, proxies)
}

fn system<K>(cluster: &Cluster) -> Api<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(cluster.client.clone(), SYSTEM)
}

fn replicas() -> ListParams {
    ListParams::default().labels("app.kubernetes.io/name=trellis-operator")
}

/// Pods of `hello` that have connected to each replica of the operator.
async fn connections(cluster: &Cluster, namespace: &str) -> Result<BTreeMap<String, usize>> {
    let pods: Api<Pod> = system(cluster);
    let mut connections = BTreeMap::new();
    for pod in pods.list(&replicas()).await? {
        let log = pods.logs(&pod.name_any(), &LogParams::default()).await?;
        let of_ours = |line: &&str| line.contains("proxy connected") && line.contains(namespace);
        connections.insert(pod.name_any(), log.lines().filter(of_ours).count());
    }
    Ok(connections)
}

/// Deletes a pod of `hello`, whose successor connects to a replica of its own choice.
async fn replace_a_pod(cluster: &Cluster, namespace: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let running = pods.list(&ListParams::default()).await?.items;
    let pod = running
        .iter()
        .find(|pod| pod.metadata.deletion_timestamp.is_none())
        .context("no pod")?;
    pods.delete(&pod.name_any(), &DeleteParams::default()).await?;
    Ok(())
}

async fn holder(cluster: &Cluster) -> Result<String> {
    let lease = system::<Lease>(cluster).get(OPERATOR).await?;
    lease
        .spec
        .and_then(|spec| spec.holder_identity)
        .context("nobody leads")
}

/// Versions of the Microservices of the namespace and of the shop; others come and go.
async fn versions(cluster: &Cluster, namespace: &str) -> Result<BTreeMap<String, Option<String>>> {
    let services: Api<Microservice> = Api::all(cluster.client.clone());
    let all = services.list(&ListParams::default()).await?;
    let lasting = |found: &&Microservice| {
        found
            .namespace()
            .is_some_and(|at| [namespace, "shop"].contains(&&*at))
    };
    Ok(all
        .iter()
        .filter(lasting)
        .map(|found| {
            (
                format!("{}/{}", found.namespace().unwrap_or_default(), found.name_any()),
                found.resource_version(),
            )
        })
        .collect())
}

#[tokio::test]
async fn proxies_of_both_replicas_are_counted_and_a_restart_of_the_operator_writes_no_status() {
    with_namespace_alone(|cluster, ns| async move {
        let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        let spec = json!({
            "image": image::echo().await?, "ports": [{"name": "http", "port": 8080}], "replicas": 4,
            "preStopDelay": "0s",
        });
        create(&services, "hello", spec).await?;
        until_ready(&services, "hello").await;
        let operator: Deployment = system::<Deployment>(&cluster).get(OPERATOR).await?;
        let wanted = operator.spec.unwrap().replicas.unwrap_or(1);
        ensure!(wanted >= 2, "the operator has {wanted} replicas");
        eventually(PATIENCE, "proxies at every replica", || async {
            let connections = connections(&cluster, &ns).await?;
            let all = connections.values().all(|count| *count > 0);
            if !all {
                replace_a_pod(&cluster, &ns).await?;
                until_ready(&services, "hello").await;
            }
            ensure!(all, "{connections:?}");
            Ok(())
        })
        .await;
        until_ready(&services, "hello").await;
        let (_, proxies) = until_programmed(&services, "hello", status::TRUE, Reason::Programmed).await;
        assert_eq!(
            (proxies.total, proxies.connected, proxies.acknowledged),
            (4, 4, 4),
            "{proxies:?}"
        );

        let before = versions(&cluster, &ns).await?;
        let led = holder(&cluster).await?;
        system::<Pod>(&cluster)
            .delete_collection(&DeleteParams::default(), &replicas())
            .await?;
        eventually(PATIENCE, "another leader, and all proxies back", || async {
            let holder = holder(&cluster).await?;
            ensure!(holder != led, "{holder} still leads");
            let connections = connections(&cluster, &ns).await?;
            ensure!(connections.contains_key(&holder), "{holder} is no more");
            let count: usize = connections.values().sum();
            ensure!(count >= 4, "{connections:?}");
            Ok(())
        })
        .await;
        let (_, again) = until_programmed(&services, "hello", status::TRUE, Reason::Programmed).await;
        assert_eq!(again, proxies);
        assert_eq!(versions(&cluster, &ns).await?, before, "a status was written");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_document_that_a_proxy_refuses_shows_the_pod_and_the_reason_until_it_is_mended() {
    with_namespace(|cluster, ns| async move {
        let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        // The app takes the port that the sidecar would listen on for a second port of the spec.
        let spec = json!({
            "image": image::echo().await?, "ports": [{"name": "http", "port": 8080}],
            "env": [{"name": "ALSO_LISTEN", "value": ":15101"}],
        });
        create(&services, "hello", spec.clone()).await?;
        until_ready(&services, "hello").await;
        let (_, before) = until_programmed(&services, "hello", status::TRUE, Reason::Programmed).await;
        assert_eq!((before.total, before.acknowledged), (1, 1), "{before:?}");
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &ns);
        let pod = pods.list(&ListParams::default()).await?.items[0].name_any();

        // The new pods never come, so the old one goes on serving, by the last good document.
        let patch = json!({"spec": {
            "image": "registry.invalid/no-such-image:1",
            "ports": [{"name": "http", "port": 8080}, {"name": "extra", "port": 9000}],
        }});
        services
            .patch("hello", &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        let (found, proxies) =
            until_programmed(&services, "hello", status::FALSE, Reason::ProxyRefused).await;
        assert_ne!(proxies.document, before.document);
        assert_eq!(
            (proxies.total, proxies.connected, proxies.acknowledged),
            (1, 1, 0)
        );
        let laggard = &proxies.laggards[0];
        assert_eq!((&laggard.pod, laggard.reason), (&pod, LaggardReason::Refused));
        assert!(laggard.message.contains("15101"), "{laggard:?}");
        let conditions = found.status.unwrap().conditions;
        let programmed = conditions.iter().find(|c| c.type_ == "Programmed").unwrap();
        for part in [&*pod, "15101", "last good"] {
            assert!(programmed.message.contains(part), "{}", programmed.message);
        }

        services
            .patch(
                "hello",
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": spec})),
            )
            .await?;
        until_ready(&services, "hello").await;
        let (_, mended) = until_programmed(&services, "hello", status::TRUE, Reason::Programmed).await;
        assert_eq!((mended.total, mended.acknowledged), (1, 1), "{mended:?}");
        assert!(mended.laggards.is_empty());
        Ok(())
    })
    .await;
}
