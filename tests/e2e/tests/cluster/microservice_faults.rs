//! What a user is told when something is wrong.

use std::time::Duration;

use anyhow::Result;
use e2e::{
    eventually, image,
    wait::{Ready, until_failing, until_ready},
    with_namespace,
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use trellis_api::{Microservice, condition::Reason};

const SOON: Duration = Duration::from_secs(40);

async fn create(client: &Client, ns: &str, name: &str, spec: Value) -> Result<(), kube::Error> {
    let resource = kube::api::ApiResource::erase::<Microservice>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), ns, &resource);
    let object = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice", "metadata": {"name": name}, "spec": spec,
    });
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.map(|_| ())
}

#[tokio::test]
async fn each_way_to_fail_is_named_with_its_field_and_fix() {
    with_namespace(|cluster, ns| async move {
        let client = &cluster.client;
        let services: Api<Microservice> = Api::namespaced(client.clone(), &ns);
        let echo = image::echo().await?;
        let root = image::echo_as_root().await?;
        let ports = json!([{"name": "http", "port": 8080}]);

        create(client, &ns, "root-only", json!({"image": root, "ports": ports})).await?;
        let binding = json!([{"name": "db", "secret": "no-such-secret"}]);
        create(
            client,
            &ns,
            "no-secret",
            json!({"image": echo, "ports": ports, "bindings": binding}),
        )
        .await?;
        let env = json!([{"name": "FAIL_WITH", "value": "3"}]);
        create(
            client,
            &ns,
            "crashes",
            json!({"image": echo, "ports": ports, "env": env}),
        )
        .await?;
        let resources = json!({"requests": {"cpu": 1000}});
        create(
            client,
            &ns,
            "too-big",
            json!({"image": echo, "ports": ports, "resources": resources}),
        )
        .await?;
        let from = json!([{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k"}}}]);
        create(
            client,
            &ns,
            "no-env",
            json!({"image": echo, "ports": ports, "env": from}),
        )
        .await?;

        for (name, reason, words) in [
            (
                "root-only",
                Reason::RunsAsRoot,
                &["spec.securityContext.runAsUser"][..],
            ),
            (
                "no-secret",
                Reason::BindingNotReady,
                &["no-such-secret", "spec.bindings[0]"],
            ),
            (
                "crashes",
                Reason::ContainerCrashed,
                &["exit code 3", "kubectl logs"],
            ),
            ("too-big", Reason::Unschedulable, &["cpu", "spec.resources"]),
            ("no-env", Reason::ReferenceNotFound, &["absent", "spec.env[0]"]),
        ] {
            let message = Ready::of(&until_failing(&services, name, SOON, reason).await).message;
            for word in words {
                assert!(message.contains(word), "{name}: {word:?} is not in {message:?}");
            }
        }
        let table = cluster.kubectl(["get", "msvc", "-n", &ns])?;
        println!("{table}");
        for reason in [
            "RunsAsRoot",
            "BindingNotReady",
            "ContainerCrashed",
            "Unschedulable",
            "ReferenceNotFound",
        ] {
            assert!(table.contains(reason), "{reason} is not in\n{table}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_mended_secret_starts_the_service() {
    with_namespace(|cluster, ns| async move {
        let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        let spec = json!({
            "image": image::echo().await?,
            "ports": [{"name": "http", "port": 8080}],
            "bindings": [{"name": "db", "secret": "late", "keys": ["host", "password"]}],
        });
        create(&cluster.client, &ns, "patient", spec).await?;
        until_failing(&services, "patient", SOON, Reason::BindingNotReady).await;
        cluster.kubectl([
            "create",
            "secret",
            "generic",
            "late",
            "-n",
            &ns,
            "--from-literal=host=h",
        ])?;
        eventually(SOON, "the missing key to be named", || async {
            let message = Ready::of(&services.get("patient").await?).message;
            anyhow::ensure!(message.contains("password"), "{message}");
            Ok(())
        })
        .await;
        cluster.kubectl(["delete", "secret", "late", "-n", &ns])?;
        cluster.kubectl([
            "create",
            "secret",
            "generic",
            "late",
            "-n",
            &ns,
            "--from-literal=host=h",
            "--from-literal=password=p",
        ])?;
        // The kubelet tries a failed mount again after up to two minutes.
        e2e::wait::until(&services, "patient", Duration::from_secs(180), "ready", |_, r| {
            r.status == "True"
        })
        .await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_the_schema_can_tell_is_refused_at_apply() {
    with_namespace(|cluster, ns| async move {
        let client = &cluster.client;
        let both = json!({"image": "a:1", "replicas": 1, "autoscaling": {"min": 1, "max": 2, "cpu": 50}});
        let reserved = json!({"image": "a:1", "ports": [{"name": "http", "port": 15001}]});
        let twice =
            json!({"image": "a:1", "ports": [{"name": "http", "port": 1}, {"name": "http", "port": 2}]});
        let nothing = json!({"ports": [{"name": "http", "port": 80}]});
        for (name, spec, words) in [
            ("both", both, ["spec.replicas", "spec.autoscaling"]),
            ("reserved", reserved, ["15000-15199", "spec.ports[0]"]),
            ("twice", twice, ["Duplicate value", "spec.ports[1]"]),
            ("nothing", nothing, ["spec.image", "spec.gateway"]),
        ] {
            let error = create(client, &ns, name, spec)
                .await
                .expect_err("it was accepted")
                .to_string();
            for word in words {
                assert!(error.contains(word), "{name}: {word:?} is not in {error}");
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_edit_that_is_invalid_is_named_and_touches_nothing_that_runs() {
    with_namespace(|cluster, ns| async move {
        let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        let spec = json!({"image": image::echo().await?, "ports": [{"name": "http", "port": 8080}]});
        create(&cluster.client, &ns, "steady", spec).await?;
        until_ready(&services, "steady").await;
        let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), &ns);
        let before = deployments.get("steady").await?;

        // The schema lets it pass: an autoscaler on cpu needs a cpu request, which is another field.
        let patch = json!({"spec": {"autoscaling": {"min": 1, "max": 3, "cpu": 50}}});
        services
            .patch("steady", &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        let invalid = until_failing(&services, "steady", SOON, Reason::Invalid).await;
        let status = invalid.status.unwrap();
        assert_eq!(status.problems[0].field, "spec.resources.requests.cpu");
        let after = deployments.get("steady").await?;
        assert_eq!(after.metadata.resource_version, before.metadata.resource_version);

        let patch = json!({"spec": {"autoscaling": null}});
        services
            .patch("steady", &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        until_ready(&services, "steady").await;
        Ok(())
    })
    .await;
}
