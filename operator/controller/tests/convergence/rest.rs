//! Nothing moves at rest: no write but Leases while nothing changes, and none when a new process looks at everything again.

use std::env;
use std::time::Duration;

use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use trellis_api::RateLimitPolicy;
use trellis_testkit::control_plane::{User, audit::Write};

use crate::{
    end_state::of_operator,
    operator::{Launch, Operator},
    scenario::apply_named,
    settled::settled,
    stage::Stage,
};

const LOOK_AGAIN: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_at_rest_nor_by_a_new_process() {
    rest(12, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; cargo xtask soak rest"]
async fn nothing_is_written_for_minutes_nor_by_a_new_process() {
    let told = |name: &str, default: u64| {
        let told = env::var(name).ok().map(|text| text.parse().unwrap());
        told.unwrap_or(default)
    };
    let minutes = told("TRELLIS_REST_MINUTES", 5);
    let microservices = told("TRELLIS_REST_MICROSERVICES", 50);
    rest(microservices, Duration::from_secs(minutes * 60)).await;
}

async fn rest(microservices: u64, length: Duration) {
    let mut stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let mut operator = Operator::start(&stage.cluster, &Launch::default()).await;
    let namespace = stage.namespace(&client).await;
    populate(&client, &namespace, microservices).await;
    until_reported(&client, &namespace).await;
    settled(
        &mut stage,
        &client,
        &mut operator,
        std::slice::from_ref(&namespace),
    )
    .await;

    let namespaces = [namespace];
    let before = operator_writes(&mut stage, &namespaces).len();
    let began = Instant::now();
    no_writes(&mut stage, &namespaces, length).await;
    println!(
        "{microservices} Microservices ({before} writes to make them): 0 writes in {:.0?} at rest",
        began.elapsed()
    );

    operator.kill();
    let began = Instant::now();
    let mut operator = Operator::start(&stage.cluster, &Launch::default()).await;
    operator
        .until("it has looked at everything", async |counts| {
            #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
            let all = microservices as f64;
            counts.value("controller_runtime_reconcile_total") >= all && counts.is_idle()
        })
        .await;
    settled(&mut stage, &client, &mut operator, &namespaces).await;
    assert_none(&mut stage, &namespaces, before);
    println!(
        "a new process: every one reconciled, 0 writes in {:.1?}",
        began.elapsed()
    );
    stage.leave(&client, &namespaces[0]).await;
}

/// One gateway, and services of several shapes that want no pods.
async fn populate(client: &Client, namespace: &str, microservices: u64) {
    let gateway = json!({"replicas": 0, "gateway": {"listeners": [{"name": "http", "port": 80}]}});
    apply_named(client, namespace, "gateway", gateway).await;
    for number in 1..microservices {
        apply_named(client, namespace, &format!("service-{number}"), service(number)).await;
    }
    let policies: Api<RateLimitPolicy> = Api::namespaced(client.clone(), namespace);
    let of_namespace = json!({"kind": "Namespace", "name": namespace});
    let of_service = json!({"group": "trellis.dev", "kind": "Microservice", "name": "service-1"});
    // One for all, one over it, and one that has lost to that.
    for (name, target) in [
        ("all", &of_namespace),
        ("own", &of_service),
        ("younger", &of_service),
    ] {
        let policy = json!({
            "apiVersion": "trellis.dev/v1alpha1", "kind": "RateLimitPolicy", "metadata": {"name": name},
            "spec": {"targetRefs": [target], "limits": {"all": {}}},
        });
        let policy = serde_json::from_value(policy).unwrap();
        policies.create(&PostParams::default(), &policy).await.unwrap();
    }
}

/// Waits until every policy has been reported on.
async fn until_reported(client: &Client, namespace: &str) {
    let policies: Api<RateLimitPolicy> = Api::namespaced(client.clone(), namespace);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = policies.list(&ListParams::default()).await.unwrap();
        let is_reported = |policy: &RateLimitPolicy| {
            let status = policy.status.as_ref();
            status.is_some_and(|status| status.observed_generation == policy.metadata.generation)
        };
        if all.iter().all(is_reported) {
            return;
        }
        assert!(Instant::now() < deadline, "no report on a policy: {all:?}");
        sleep(LOOK_AGAIN).await;
    }
}

fn service(number: u64) -> Value {
    let mut spec = json!({
        "image": "registry.example/service:1",
        "replicas": 0,
        "ports": [{"name": "http", "port": 8080}],
    });
    match number % 4 {
        0 => spec["dependsOn"] = json!([{"microservice": "service-1"}]),
        1 => spec["routes"] = json!([{"name": "own", "path": format!("/own-{number}")}]),
        2 => {
            spec["env"] = json!([{"name": "GREETING", "value": "hello"}]);
            spec["bindings"] = json!([{"name": "db", "secret": "db", "keys": ["host"]}]);
        }
        _ => {
            spec["resources"] = json!({"requests": {"cpu": "0.5", "memory": "1024Mi"}});
            spec["ports"] = json!([{"name": "grpc", "port": 9000, "protocol": "GRPC"}]);
        }
    }
    spec
}

/// Waits for `length`, and complains as soon as an operator writes.
pub async fn no_writes(stage: &mut Stage, namespaces: &[String], length: Duration) {
    let before = operator_writes(stage, namespaces).len();
    let end = Instant::now() + length;
    while Instant::now() < end {
        assert_none(stage, namespaces, before);
        sleep(LOOK_AGAIN).await;
    }
}

/// What operators have written so far, Events included and Leases not: to these namespaces, and to none. What other tests
/// have left is still being deleted.
fn operator_writes(stage: &mut Stage, namespaces: &[String]) -> Vec<Write> {
    let writes = stage.all_writes().iter().filter(|write| of_operator(write));
    writes
        .filter(|write| {
            write.namespace().is_empty() || namespaces.iter().any(|name| name == write.namespace())
        })
        .cloned()
        .collect()
}

fn assert_none(stage: &mut Stage, namespaces: &[String], before: usize) {
    let news = operator_writes(stage, namespaces).split_off(before);
    assert!(news.is_empty(), "{} writes: {news:#?}", news.len());
}
