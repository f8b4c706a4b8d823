//! A Microservice from its first apply to its deletion, with an image in another language.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use e2e::{
    Cluster, eventually, http, image,
    wait::{Ready, until_failing, until_gone, until_ready},
    with_namespace,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Pod, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use trellis_api::{Microservice, condition::Reason, names};

/// Applies YAML as a user does, and returns what kubectl printed.
fn apply(cluster: &Cluster, namespace: &str, yaml: &str) -> Result<String> {
    let path = std::env::temp_dir().join(format!("{namespace}.yaml"));
    std::fs::File::create(&path)?.write_all(yaml.as_bytes())?;
    let printed = cluster.kubectl(["apply", "-n", namespace, "-f", &path.to_string_lossy()]);
    std::fs::remove_file(&path)?;
    printed
}

fn hello(image: &str) -> String {
    format!(
        "apiVersion: trellis.dev/v1alpha1
kind: Microservice
metadata: {{name: hello}}
spec:
  image: {image}
  ports:
  - {{name: http, port: 8080}}
"
    )
}

const GATEWAY: &str = "apiVersion: trellis.dev/v1alpha1
kind: Microservice
metadata: {name: gateway}
spec:
  gateway:
    listeners:
    - {name: http, port: 80}
";

async fn answer_through_gateway(cluster: &Cluster, namespace: &str, path: &str) -> Value {
    eventually(Duration::from_secs(30), &format!("an answer at {path}"), || {
        http::get_through_api_server(&cluster.client, namespace, "gateway:http", path)
    })
    .await
}

/// Waits until every answer comes from pods of one version. A rolled Microservice is ready while its old pods still end,
/// and those serve until the last balancer has heard of it.
async fn only_version_answers(cluster: &Cluster, namespace: &str, version: &str) {
    eventually(
        Duration::from_secs(30),
        &format!("version {version:?} only"),
        || async {
            for _ in 0..20 {
                let answer =
                    http::get_through_api_server(&cluster.client, namespace, "gateway:http", "/hello/")
                        .await?;
                ensure!(answer["version"] == version, "{answer}");
            }
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
async fn ten_lines_become_a_service_that_scales_rolls_breaks_mends_and_goes() {
    with_namespace(|cluster, ns| async move {
        let echo = image::echo().await?;
        let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        apply(&cluster, &ns, GATEWAY)?;
        apply(&cluster, &ns, &hello(&echo))?;
        until_ready(&services, "hello").await;
        until_ready(&services, "gateway").await;

        let answer = answer_through_gateway(&cluster, &ns, "/hello/greet?who=you").await;
        assert_eq!(
            answer["path"], "/greet?who=you",
            "the service's name is cut off: {answer}"
        );
        assert!(
            answer["headers"]["Traceparent"][0].is_string(),
            "a trace goes with the request: {answer}"
        );

        // Scale, with the verb that users know.
        cluster.kubectl(["scale", "-n", &ns, "msvc/hello", "--replicas=3"])?;
        let scaled = until_ready(&services, "hello").await;
        assert_eq!(scaled.status.unwrap().replica_summary.as_deref(), Some("3/3"));

        // Roll.
        let patch = json!({"spec": {"env": [{"name": "VERSION", "value": "two"}]}});
        services
            .patch("hello", &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        until_ready(&services, "hello").await;
        only_version_answers(&cluster, &ns, "two").await;

        break_and_mend(&cluster, &ns, &services, &echo).await?;

        services.delete("hello", &DeleteParams::default()).await?;
        no_child_remains(&cluster, &ns, "hello").await;
        Ok(())
    })
    .await;
}

async fn break_and_mend(cluster: &Cluster, ns: &str, services: &Api<Microservice>, echo: &str) -> Result<()> {
    let start = Instant::now();
    let patch = json!({"spec": {"image": "registry.invalid/no-such-image:1"}});
    services
        .patch("hello", &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    let broken = until_failing(
        services,
        "hello",
        Duration::from_secs(10),
        Reason::ImagePullFailed,
    )
    .await;
    println!(
        "a broken image was named after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    let message = Ready::of(&broken).message;
    assert!(
        message.contains("spec.image") && message.contains("no-such-image"),
        "{message}"
    );

    // What ran goes on running.
    only_version_answers(cluster, ns, "two").await;

    let patch = json!({"spec": {"image": echo}});
    services
        .patch("hello", &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    until_ready(services, "hello").await;
    Ok(())
}

async fn no_child_remains(cluster: &Cluster, ns: &str, name: &str) {
    let client = || cluster.client.clone();
    until_gone(&Api::<Microservice>::namespaced(client(), ns), name).await;
    until_gone(&Api::<Deployment>::namespaced(client(), ns), name).await;
    until_gone(&Api::<Service>::namespaced(client(), ns), name).await;
    until_gone(
        &Api::<Service>::namespaced(client(), ns),
        &names::headless_service(name),
    )
    .await;
    until_gone(&Api::<HorizontalPodAutoscaler>::namespaced(client(), ns), name).await;
    until_gone(&Api::<PodDisruptionBudget>::namespaced(client(), ns), name).await;
    until_gone(&Api::<ServiceAccount>::namespaced(client(), ns), name).await;
    until_gone(
        &Api::<ConfigMap>::namespaced(client(), ns),
        &names::proxy_config_map(name),
    )
    .await;
    let pods: Api<Pod> = Api::namespaced(client(), ns);
    let selector = ListParams::default().labels(&format!("{}={name}", names::LABEL_MICROSERVICE));
    eventually(Duration::from_secs(60), "the pods to be gone", || async {
        let left = pods.list(&selector).await?.items;
        ensure!(
            left.is_empty(),
            "left: {:?}",
            left.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn children_that_a_rival_edits_or_deletes_are_repaired() {
    with_namespace(|cluster, ns| async move {
        let echo = image::echo().await?;
        let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        apply(&cluster, &ns, &hello(&echo))?;
        until_ready(&services, "hello").await;

        let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), &ns);
        let rival =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "rival:1"}]}}}});
        deployments
            .patch("hello", &PatchParams::default(), &Patch::Strategic(rival))
            .await?;
        eventually(Duration::from_secs(20), "the image to be put right", || async {
            let found = deployments
                .get("hello")
                .await?
                .spec
                .unwrap()
                .template
                .spec
                .unwrap();
            let images: Vec<_> = found
                .containers
                .iter()
                .filter_map(|c| c.image.as_deref())
                .collect();
            ensure!(images == [echo.as_str()], "{images:?}");
            Ok(())
        })
        .await;

        let api: Api<Service> = Api::namespaced(cluster.client.clone(), &ns);
        let first = api.get("hello").await?.uid();
        api.delete("hello", &DeleteParams::default()).await?;
        eventually(
            Duration::from_secs(20),
            "the Service to be made again",
            || async {
                ensure!(api.get("hello").await?.uid() != first);
                Ok(())
            },
        )
        .await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_object_of_somebody_else_with_the_name_of_a_child_is_left_alone() {
    with_namespace(|cluster, ns| async move {
        let echo = image::echo().await?;
        let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        apply(
            &cluster,
            &ns,
            "{apiVersion: v1, kind: Service, metadata: {name: hello}, spec: {ports: [{port: 1234}], selector: {a: b}}}",
        )?;
        apply(&cluster, &ns, &hello(&echo))?;
        let stalled = until_failing(&services, "hello", Duration::from_secs(20), Reason::ChildNotOwned).await;
        let message = Ready::of(&stalled).message;
        assert!(message.contains("Service") && message.contains("hello"), "{message}");
        let foreign = Api::<Service>::namespaced(cluster.client.clone(), &ns).get("hello").await?;
        assert_eq!(foreign.spec.unwrap().ports.unwrap()[0].port, 1234);

        Api::<Service>::namespaced(cluster.client.clone(), &ns).delete("hello", &DeleteParams::default()).await?;
        until_ready(&services, "hello").await;
        Ok(())
    })
    .await;
}

/// The edits of a round come within a status write of each other; an operator that takes its own write's echo for the
/// newest state loses one in a few hundred.
#[tokio::test]
async fn of_two_edits_that_come_together_the_later_one_is_made_real() {
    with_namespace(|cluster, ns| async move {
        let echo = image::echo().await?;
        let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), &ns);
        let objects = (0..6).map(|index| {
            let (cluster, ns, echo) = (&cluster, &ns, &echo);
            let (services, deployments) = (&services, &deployments);
            async move {
                let name = format!("hello-{index}");
                let yaml = hello(echo).replace("name: hello", &format!("name: {name}")) + "  replicas: 0\n";
                apply(cluster, ns, &yaml)?;
                for round in 0..20_u64 {
                    for half in ["first", "second"] {
                        let value = format!("{round}-{half}");
                        let patch = json!({"spec": {"env": [{"name": "ROUND", "value": value}]}});
                        services
                            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                            .await?;
                        tokio::time::sleep(Duration::from_millis((round * 7 + index * 3) % 20)).await;
                    }
                    let wanted = format!("{round}-second");
                    eventually(
                        Duration::from_secs(20),
                        &format!("{name} to have {wanted}"),
                        || variable_is(services, deployments, &name, &wanted),
                    )
                    .await;
                }
                Ok::<(), anyhow::Error>(())
            }
        });
        futures::future::try_join_all(objects).await?;
        Ok(())
    })
    .await;
}

async fn variable_is(
    services: &Api<Microservice>,
    deployments: &Api<Deployment>,
    name: &str,
    wanted: &str,
) -> Result<()> {
    let pod = deployments.get(name).await?.spec.unwrap().template.spec.unwrap();
    let env = pod
        .containers
        .iter()
        .flat_map(|container| container.env.iter().flatten());
    let value = env.into_iter().find(|variable| variable.name == "ROUND");
    let value = value
        .and_then(|variable| variable.value.clone())
        .unwrap_or_default();
    ensure!(value == wanted, "the Deployment has {value:?}");
    let found = services.get(name).await?;
    let observed = found
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    ensure!(
        observed == found.metadata.generation,
        "the status is about {observed:?}"
    );
    Ok(())
}
