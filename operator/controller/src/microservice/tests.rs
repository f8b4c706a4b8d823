//! A pass over an object that this release cannot read, against an API server that has nothing else.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use http::{Method, Request, Response};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::client::Body;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::*;

/// The one object, and every request.
type Server = Arc<Mutex<(Value, Vec<String>)>>;

fn client(server: &Server) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
            let (object, requests) = &mut *server;
            requests.push(format!("{} {}", parts.method, parts.uri.path()));
            if parts.method == Method::PATCH {
                let patch: Value = serde_json::from_slice(&body).unwrap();
                object["status"] = patch["status"].clone();
                object["metadata"]["resourceVersion"] = "8".into();
            }
            let answer = Body::from(object.to_string().into_bytes());
            Ok::<_, Infallible>(Response::new(answer))
        }
    });
    Client::new(service, "default")
}

#[tokio::test]
async fn an_object_that_cannot_be_read_gets_a_status_and_nothing_of_it_is_touched() {
    let stored = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice",
        "metadata": {"namespace": "shop", "name": "user", "uid": "u", "generation": 7, "resourceVersion": "7"},
        "spec": {"image": "user:1", "replicas": {"of": "a later release"}},
        "status": {"observedGeneration": 6},
    });
    let caches = Arc::new(Caches::default());
    caches
        .microservices
        .written(serde_json::from_value(stored.clone()).unwrap());
    let server: Server = Arc::new(Mutex::new((stored, Vec::new())));
    let client = client(&server);
    let metrics = Metrics::register(&mut Registry::default());
    let authority = Authority::held();
    let context = Context {
        client: client.clone(),
        applier: Applier::new(
            client.clone(),
            Arc::clone(&caches),
            authority.clone(),
            metrics.clone(),
        ),
        caches,
        answers: Arc::default(),
        triggers: mpsc::unbounded_channel().0,
        authority,
        events: Events::new(client, "test".to_owned(), metrics.clone()).0,
        metrics,
        settings: Settings {
            proxy_image: "trellis-proxy:1".to_owned(),
            config_stream_address: "http://operator:15010".to_owned(),
            quota_address: "http://quota:8080".to_owned(),
            saga_engine: "trellis-saga".to_owned(),
            namespace: "trellis-system".to_owned(),
            gateway_host: None,
            telemetry_endpoint: None,
            trusted_gateway_namespaces: BTreeSet::new(),
        },
    };
    let key = Key::new("shop", "user");
    let path = "/apis/trellis.dev/v1alpha1/namespaces/shop/microservices/user";
    for requests in [
        vec![format!("GET {path}"), format!("PATCH {path}/status")],
        // At rest: looked at, not written.
        vec![format!("GET {path}")],
    ] {
        server.lock().unwrap().1.clear();
        let done = reconcile(&context, &key).await.unwrap();
        assert_eq!(
            done,
            Done::Visit(VISIT),
            "it is no failure that is tried again and again"
        );
        assert_eq!(server.lock().unwrap().1, requests);
    }
    let status = &server.lock().unwrap().0["status"];
    assert_eq!(status["observedGeneration"], 7);
    assert_eq!(status["problems"][0]["field"], "spec.replicas");
    let ready = status["conditions"].as_array().unwrap().iter();
    let ready: Vec<&Value> = ready.filter(|condition| condition["type"] == "Ready").collect();
    assert_eq!(
        (&ready[0]["status"], &ready[0]["reason"]),
        (&json!("False"), &json!("Invalid"))
    );
}

#[test]
fn a_failure_is_looked_at_often_while_it_is_new_and_seldom_later() {
    let seconds = Duration::from_secs;
    let soon = seconds(2);
    assert_eq!(recheck(soon, None), RECHECK_SELDOM);
    assert_eq!(recheck(soon, Some(seconds(15))), soon);
    assert_eq!(recheck(soon, Some(seconds(100))), seconds(10));
    assert_eq!(recheck(soon, Some(seconds(86_400))), RECHECK_SELDOM);
}

#[test]
fn a_deployment_that_was_just_changed_is_reported_on_after_its_first_look_and_one_at_rest_at_once() {
    let deployment = |generation: i64, looked_at: Option<i64>| -> Deployment {
        let status = looked_at.map_or(json!({}), |at| json!({"observedGeneration": at}));
        serde_json::from_value(json!({"metadata": {"generation": generation}, "status": status})).unwrap()
    };
    let created = deployment(1, None);
    assert!(is_new_to_kubernetes(None, &created));
    assert!(is_new_to_kubernetes(Some(&created), &deployment(2, Some(1))));
    assert!(!is_new_to_kubernetes(Some(&created), &deployment(2, Some(2))));
    assert!(
        !is_new_to_kubernetes(Some(&created), &created),
        "nobody looks at it: that is to be told"
    );
    let mut fresh = created;
    fresh.metadata.creation_timestamp = Some(Time(Timestamp::now()));
    assert!(
        is_new_to_kubernetes(Some(&fresh), &fresh),
        "one that the pass before has just made"
    );
}
