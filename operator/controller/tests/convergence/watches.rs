//! What the operator sees: a kind that it may not watch stops no other, and what vanished while it could not look is missed.

use std::time::Duration;

use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler, coordination::v1::Lease, core::v1::Service,
    rbac::v1::ClusterRole,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use trellis_api::Microservice;
use trellis_testkit::{
    control_plane::{OPERATOR_NAMESPACE, User},
    kstatus,
};

use crate::{
    operator::{Launch, Operator},
    scenario::{NAME, Scenario, apply_named},
    settled::settled,
    stage::Stage,
};

const PATIENCE: Duration = Duration::from_secs(240);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The API server must be back before the leader's claim runs out, which takes a machine that is not too busy.
const TRIES: u32 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_must_not_be_watched_stops_no_other_and_says_so() {
    let mut stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let rival = stage.client(User::Rival).await;
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let role = roles.get("trellis-operator").await.unwrap();
    let mut rules = role.rules.clone().unwrap();
    rules.retain(|rule| rule.api_groups.as_deref() != Some(&["autoscaling".to_owned()]));
    let set = async |rules: Value| {
        let patch = Patch::Merge(json!({"rules": rules}));
        roles
            .patch("trellis-operator", &PatchParams::default(), &patch)
            .await
            .unwrap();
    };
    set(json!(rules)).await;

    let mut operator = Operator::start(&stage.cluster, &Launch::default()).await;
    let plain = stage.namespace(&client).await;
    Scenario::Create.act(&client, &rival, &plain).await;
    settled(&mut stage, &client, &mut operator, std::slice::from_ref(&plain)).await;
    let scaled = stage.namespace(&client).await;
    Scenario::AutoscalingOn.act(&client, &rival, &scaled).await;
    let microservices: Api<Microservice> = Api::namespaced(client.clone(), &scaled);
    until("the status names what may not be written", async || {
        let status = microservices.get(NAME).await.unwrap().status.unwrap_or_default();
        let mut ready = status
            .conditions
            .iter()
            .filter(|condition| condition.type_ == "Ready");
        ready.any(|ready| ready.status == "False" && ready.message.contains("HorizontalPodAutoscaler"))
    })
    .await;

    set(json!(role.rules)).await;
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), &scaled);
    until("the autoscaler is made once it may be", async || {
        autoscalers.get_opt(NAME).await.unwrap().is_some()
    })
    .await;
    settled(&mut stage, &client, &mut operator, std::slice::from_ref(&scaled)).await;
    for namespace in [plain, scaled] {
        stage.leave(&client, &namespace).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tool_takes_a_new_object_for_done_before_the_operator_has_seen_it() {
    let mut stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let namespace = stage.namespace(&client).await;
    let microservices: Api<Microservice> = Api::namespaced(client.clone(), &namespace);
    let object = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice", "metadata": {"name": NAME},
        "spec": {"image": "registry.example/shop:1"},
    });
    let created = microservices
        .create(&PostParams::default(), &serde_json::from_value(object).unwrap())
        .await
        .unwrap();
    let read = microservices.get(NAME).await.unwrap();
    for object in [created, read] {
        let object = serde_json::to_value(object).unwrap();
        assert_eq!(kstatus::compute(&object), kstatus::Status::InProgress, "{object}");
    }
    stage.leave(&client, &namespace).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_port_that_is_taken_stalls_and_names_the_listener() {
    let mut stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let namespace = stage.namespace(&client).await;
    let _operator = Operator::start(&stage.cluster, &Launch::default()).await;
    let microservices: Api<Microservice> = Api::namespaced(client.clone(), &namespace);
    for (name, plain) in [("first", 80), ("second", 81)] {
        let listeners =
            json!([{"name": "plain", "port": plain}, {"name": "http", "port": 90, "nodePort": 30_010}]);
        apply_named(
            &client,
            &namespace,
            name,
            json!({"gateway": {"listeners": listeners}}),
        )
        .await;
        until(
            "the first has the port and the second says that it has not",
            async || {
                let status = microservices.get(name).await.unwrap().status.unwrap_or_default();
                let says = |type_: &str, part: &str| {
                    let mut all = status.conditions.iter();
                    all.any(|c| c.type_ == type_ && c.status == "True" && c.message.contains(part))
                };
                match name {
                    "first" => !status.children.is_empty(),
                    _ => says(
                        "Stalled",
                        "spec.gateway.listeners[1].nodePort: 30010 cannot be had",
                    ),
                }
            },
        )
        .await;
    }
    stage.leave(&client, &namespace).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_deleted_while_nobody_could_look_is_made_again() {
    let mut stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let rival = stage.client(User::Rival).await;
    let namespace = stage.namespace(&client).await;
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    for _ in 0..TRIES {
        let mut operator = Operator::start(&stage.cluster, &Launch::default()).await;
        Scenario::Create.act(&client, &rival, &namespace).await;
        settled(
            &mut stage,
            &client,
            &mut operator,
            std::slice::from_ref(&namespace),
        )
        .await;
        renewed(&client).await;
        operator.signal(Signal::SIGSTOP);
        let before = services.get(NAME).await.unwrap().metadata.uid;
        services.delete(NAME, &DeleteParams::default()).await.unwrap();
        // It remembers no watch, so one that is resumed is told to list again.
        stage.cluster.restart_api_server().await.unwrap();
        operator.signal(Signal::SIGCONT);
        let deadline = Instant::now() + PATIENCE;
        while operator.exited().is_none() {
            let service = services.get_opt(NAME).await.ok().flatten();
            if service.is_some_and(|service| service.metadata.uid != before) {
                settled(
                    &mut stage,
                    &client,
                    &mut operator,
                    std::slice::from_ref(&namespace),
                )
                .await;
                stage.leave(&client, &namespace).await;
                return;
            }
            assert!(
                Instant::now() < deadline,
                "it is missed by nobody:\n{}",
                operator.tail()
            );
            sleep(LOOK_AGAIN).await;
        }
    }
    panic!("the API server took too long to restart, {TRIES} times");
}

/// Waits for the moment at which the leader has renewed its claim.
async fn renewed(client: &Client) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
    let version = async || {
        leases
            .get("trellis-operator")
            .await
            .unwrap()
            .metadata
            .resource_version
    };
    let before = version().await;
    until("the Lease is renewed", async || version().await != before).await;
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(LOOK_AGAIN).await;
    }
}
