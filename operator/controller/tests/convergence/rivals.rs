//! Others write, too: what is theirs stays theirs.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use trellis_api::Microservice;
use trellis_testkit::control_plane::User;

use crate::{
    end_state::{self, CHILDREN, EndState, Kind},
    operator::{Launch, Operator},
    scenario::{self, NAME, Scenario},
    settled::settled,
    stage::Stage,
};

const PATIENCE: Duration = Duration::from_secs(240);
const LOOK_AGAIN: Duration = Duration::from_millis(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_by_kubectl_survives_and_costs_no_write_of_a_child() {
    let mut stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let rival = stage.client(User::Rival).await;
    let mut operator = Operator::start(&stage.cluster, &Launch::default()).await;
    let namespaces = [stage.namespace(&client).await];
    let namespace = &namespaces[0];
    Scenario::Create.act(&client, &rival, namespace).await;
    settled(&mut stage, &client, &mut operator, &namespaces).await;
    let before = stage.writes(namespace).len();
    let deployments: Api<Deployment> = Api::namespaced(rival.clone(), namespace);
    let restart = ["rollout", "restart", "deployment", NAME, "--namespace", namespace];
    stage.cluster.kubectl(&restart).unwrap();
    settled(&mut stage, &client, &mut operator, &namespaces).await;
    let writes = stage.writes(namespace).split_off(before);
    let end = EndState::read(&client, namespace, &writes).await;
    assert!(end.children.is_empty(), "{:?}", end.children);
    // An edit of the template by its owner keeps it, too.
    Scenario::Update.act(&client, &rival, namespace).await;
    settled(&mut stage, &client, &mut operator, &namespaces).await;
    let template = deployments.get(NAME).await.unwrap().spec.unwrap().template;
    let annotations = template.metadata.unwrap().annotations.unwrap();
    assert!(
        annotations.contains_key("kubectl.kubernetes.io/restartedAt"),
        "{annotations:?}"
    );
    stage.leave(&client, namespace).await;
}

/// The key of an item is what server-side apply tells items apart by, so an edited key is an item of the rival's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_rival_that_edits_the_key_of_a_list_item_loses_it_again() {
    let mut stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let rival = stage.client(User::Rival).await;
    let mut operator = Operator::start(&stage.cluster, &Launch::default()).await;
    let namespaces = [stage.namespace(&client).await];
    let namespace = &namespaces[0];
    Scenario::Create.act(&client, &rival, namespace).await;
    settled(&mut stage, &client, &mut operator, &namespaces).await;
    for (kind, list, key) in [
        (CHILDREN[1], "/spec/ports", "port"),
        (
            CHILDREN[0],
            "/spec/template/spec/containers/0/ports",
            "containerPort",
        ),
        (
            CHILDREN[0],
            "/spec/template/spec/initContainers/0/ports",
            "containerPort",
        ),
        (
            CHILDREN[0],
            "/spec/template/spec/topologySpreadConstraints",
            "topologyKey",
        ),
    ] {
        let theirs = children(&rival, namespace, kind);
        let before = theirs.get(NAME).await.unwrap();
        edit_key(&theirs, list, key).await;
        let ours = children(&client, namespace, kind);
        let wanted = keys_in(&before, list, key);
        until("the list is as it was", async || {
            keys_in(&ours.get(NAME).await.unwrap(), list, key) == wanted
        })
        .await;
    }
    settled(&mut stage, &client, &mut operator, &namespaces).await;

    // The same while a user edits the list, too: the two come to the operator as one change.
    operator.kill();
    edit_key(&children(&rival, namespace, CHILDREN[1]), "/spec/ports", "port").await;
    let ports = json!([
        {"name": "http", "port": 8080}, {"name": "grpc", "port": 9100, "protocol": "GRPC"}]);
    let spec = json!({"image": "registry.example/shop:1", "ports": ports});
    scenario::apply(&client, namespace, spec).await;
    let mut operator = Operator::start(&stage.cluster, &Launch::default()).await;
    let ours = children(&client, namespace, CHILDREN[1]);
    until("the list is as the user wants it", async || {
        keys_in(&ours.get(NAME).await.unwrap(), "/spec/ports", "port") == ["8080", "9100"]
    })
    .await;
    settled(&mut stage, &client, &mut operator, &namespaces).await;
    stage.leave(&client, namespace).await;
}

/// Changes the key of a list's first item; again if a controller was faster.
async fn edit_key(theirs: &Api<DynamicObject>, list: &str, key: &str) {
    until("the rival has edited", async || {
        let mut edited = serde_json::to_value(theirs.get(NAME).await.unwrap()).unwrap();
        let item = edited
            .pointer_mut(list)
            .and_then(|items| items.get_mut(0))
            .unwrap();
        item[key] = if item[key].is_number() {
            json!(12_345)
        } else {
            json!("rack")
        };
        edited["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("managedFields");
        let edited: DynamicObject = serde_json::from_value(edited).unwrap();
        theirs
            .replace(NAME, &PostParams::default(), &edited)
            .await
            .is_ok()
    })
    .await;
}

/// The keys of a list's items, sorted.
fn keys_in(object: &DynamicObject, list: &str, key: &str) -> Vec<String> {
    let value = serde_json::to_value(object).unwrap();
    let items = value.pointer(list).and_then(Value::as_array).unwrap();
    let mut keys: Vec<String> = items.iter().map(|item| item[key].to_string()).collect();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_somebody_else_with_a_childs_name_is_never_taken_over() {
    let mut stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let rival = stage.client(User::Rival).await;
    let _operator = Operator::start(&stage.cluster, &Launch::default()).await;
    let foreign = [
        (
            CHILDREN[0],
            NAME,
            json!({"spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "x", "image": "x"}]}},
            }}),
        ),
        (CHILDREN[1], NAME, json!({"spec": {"ports": [{"port": 1}]}})),
        (CHILDREN[2], "shop-proxy", json!({"data": {"proxy.json": "{}"}})),
        (CHILDREN[3], NAME, json!({})),
        (
            CHILDREN[4],
            NAME,
            json!({"spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"}}}),
        ),
        (
            CHILDREN[5],
            NAME,
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}),
        ),
    ];
    let mut cases = Vec::new();
    for (kind, name, mut object) in foreign {
        let namespace = stage.namespace(&client).await;
        object["metadata"] = json!({"name": name});
        object["apiVersion"] = json!(end_state::resource(kind).api_version);
        object["kind"] = json!(kind.2);
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let api = children(&rival, &namespace, kind);
        let made = api.create(&PostParams::default(), &object).await.unwrap();
        Scenario::AutoscalingOn.act(&client, &rival, &namespace).await;
        cases.push((namespace, kind, made));
    }
    for (namespace, kind, made) in cases {
        let microservices: Api<Microservice> = Api::namespaced(client.clone(), &namespace);
        until("the status tells of it", async || {
            let status = microservices.get(NAME).await.unwrap().status.unwrap_or_default();
            let mut stalled = status
                .conditions
                .iter()
                .filter(|condition| condition.type_ == "Stalled");
            stalled.any(|stalled| stalled.status == "True" && stalled.reason == "ChildNotOwned")
        })
        .await;
        let now = children(&client, &namespace, kind)
            .get(&made.name_any())
            .await
            .unwrap();
        let (before, after) = (without_status(&made), without_status(&now));
        assert_eq!(before, after, "{kind:?}");
        stage.leave(&client, &namespace).await;
    }
}

fn children(client: &Client, namespace: &str, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &end_state::resource(kind))
}

/// Everything but what controllers write at their own pace.
fn without_status(object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap();
    value.as_object_mut().unwrap().remove("status");
    let metadata = value["metadata"].as_object_mut().unwrap();
    for name in ["managedFields", "resourceVersion", "annotations"] {
        metadata.remove(name);
    }
    value
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(LOOK_AGAIN).await;
    }
}
