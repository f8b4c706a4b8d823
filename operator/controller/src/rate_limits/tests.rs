//! Statuses of policies, against an API server that has one policy.

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::*;
use crate::{leader::Authority, metrics::Metrics, sagas};

/// The policy, whether writes are refused, and every write.
#[derive(Default)]
struct Stored {
    policy: Value,
    refuses: bool,
    writes: Vec<Value>,
}

type Server = Arc<Mutex<Stored>>;

fn client(server: &Server) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (parts, body) = request.into_parts();
            assert_eq!(parts.method, Method::PATCH, "{}", parts.uri);
            let path = "/apis/trellis.dev/v1alpha1/namespaces/shop/ratelimitpolicies/limits/status";
            assert_eq!(parts.uri.path(), path);
            let patch: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap();
            let mut stored = server.lock().unwrap_or_else(PoisonError::into_inner);
            stored.writes.push(patch.clone());
            if stored.refuses {
                let status = json!({"kind": "Status", "status": "Failure", "code": 500, "message": "etcd"});
                let mut answer = Response::new(Body::from(status.to_string().into_bytes()));
                *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return Ok::<_, Infallible>(answer);
            }
            stored.policy["status"] = patch["status"].clone();
            let version: u64 = stored.policy["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            stored.policy["metadata"]["resourceVersion"] = (version + 1).to_string().into();
            Ok(Response::new(Body::from(stored.policy.to_string().into_bytes())))
        }
    });
    Client::new(service, "default")
}

/// The task, and what it says of changes.
fn task(authority: Authority) -> (Server, RateLimits, mpsc::UnboundedReceiver<Trigger>) {
    let policy = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "RateLimitPolicy",
        "metadata": {"namespace": "shop", "name": "limits", "uid": "u", "generation": 1, "resourceVersion": "7"},
        "spec": {
            "targetRefs": [{"group": "trellis.dev", "kind": "Microservice", "name": "order"}],
            "limits": {"all": {"scope": "Pod"}},
        },
    });
    let (concerned, changes) = Concerned::channel();
    let caches = Arc::new(Caches::publishing(
        Arc::default(),
        concerned,
        sagas::Concerned::channel(Key::new("trellis-system", "trellis-saga")).0,
    ));
    caches
        .rate_limit_policies
        .written(serde_json::from_value(policy.clone()).unwrap());
    let server = Server::default();
    server.lock().unwrap().policy = policy;
    let task = RateLimits {
        statuses: Statuses {
            client: client(&server),
            authority,
            metrics: Metrics::register(&mut Registry::default()),
        },
        caches,
        own_namespace: "trellis-system".to_owned(),
        triggers: mpsc::unbounded_channel().0,
    };
    (server, task, changes)
}

fn writes(server: &Server) -> Vec<Value> {
    std::mem::take(&mut server.lock().unwrap().writes)
}

#[tokio::test]
async fn a_status_is_written_once_with_the_uid_and_a_look_at_rest_writes_nothing() {
    let (server, task, _) = task(Authority::held());
    assert_eq!(task.visit_namespace("shop").await, Done::Visit(VISIT));
    let written = writes(&server);
    assert_eq!(written.len(), 1);
    assert_eq!(written[0]["metadata"], json!({"name": "limits", "uid": "u"}));
    let enforced = written[0]["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|condition| condition["type"] == "Enforced")
        .unwrap();
    assert_eq!(enforced["reason"], "TargetNotFound");
    assert_eq!(task.visit_namespace("shop").await, Done::Visit(VISIT));
    assert!(writes(&server).is_empty());
    assert_eq!(task.visit_namespace("elsewhere").await, Done::Gone);
}

#[tokio::test]
async fn a_microservice_that_appears_changes_what_its_policy_says() {
    let (server, task, mut changes) = task(Authority::held());
    task.visit_namespace("shop").await;
    while changes.try_recv().is_ok() {}
    let order = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice",
        "metadata": {"namespace": "shop", "name": "order", "uid": "o", "generation": 1, "resourceVersion": "9"},
        "spec": {"image": "order:1"},
    });
    task.caches
        .microservices
        .written(serde_json::from_value(order).unwrap());
    assert_eq!(changes.recv().await, Some((namespace("shop"), Cause::Event)));
    writes(&server);
    task.visit_namespace("shop").await;
    let status = &writes(&server)[0]["status"];
    assert_eq!(
        status["targets"],
        json!([{"microservice": "order", "policy": "limits"}])
    );
}

#[tokio::test]
async fn a_refused_write_is_tried_again_and_one_without_authority_is_not_sent() {
    let (server, refused, _) = task(Authority::held());
    server.lock().unwrap().refuses = true;
    assert_eq!(refused.visit_namespace("shop").await, Done::Failed);
    assert_eq!(writes(&server).len(), 1);
    server.lock().unwrap().refuses = false;
    assert_eq!(refused.visit_namespace("shop").await, Done::Visit(VISIT));
    assert_eq!(writes(&server).len(), 1);

    let (server, deposed, _) = task(Authority::lost());
    assert_eq!(deposed.visit_namespace("shop").await, Done::Failed);
    assert!(writes(&server).is_empty());
}

#[tokio::test]
async fn the_task_writes_on_taking_over_and_its_own_write_does_not_keep_it_going() {
    let (server, task, changes) = task(Authority::held());
    let (stop, stopping) = drain::channel();
    let running = tokio::spawn(task.run(changes, stopping));
    while server.lock().unwrap().writes.is_empty() {
        tokio::task::yield_now().await;
    }
    stop.start();
    running.await.unwrap();
    assert_eq!(writes(&server).len(), 1);
}
