//! The Applier against an API server in memory, and crashes after each of its writes.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::runtime::watcher::Event;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use trellis_api::Microservice;
use trellis_operator_desired::microservice::{self as decisions, Fetched, Settings};

use self::api_server::{Shared, client};
use super::*;
use crate::{rate_limits, sagas, stream::index::Index};

mod api_server;
mod logs;

/// A process that has just started: caches as the API server is now, nothing remembered.
fn start(server: &Shared) -> Applier {
    let caches = Caches::default();
    for object in server.lock().unwrap().objects.values() {
        if object["metadata"]["labels"][names::LABEL_MANAGED_BY] != names::MANAGED_BY {
            continue;
        }
        match object["kind"].as_str().unwrap() {
            "Deployment" => _ = caches.deployments.written(read(object)),
            "Service" => _ = caches.services.written(read(object)),
            "ConfigMap" => _ = caches.config_maps.written(read(object)),
            "ServiceAccount" => _ = caches.service_accounts.written(read(object)),
            "HorizontalPodAutoscaler" => _ = caches.autoscalers.written(read(object)),
            "PodDisruptionBudget" => _ = caches.disruption_budgets.written(read(object)),
            kind => panic!("a new kind of child: {kind}"),
        }
    }
    let metrics = Metrics::register(&mut Registry::default());
    Applier::new(client(server), Arc::new(caches), Authority::held(), metrics)
}

fn read<K: Child>(object: &Value) -> K {
    let mut object: K = serde_json::from_value(object.clone()).unwrap();
    object.trim();
    object
}

fn microservice(spec: Value) -> Microservice {
    serde_json::from_value(json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice",
        "metadata": {"namespace": "shop", "name": "user", "uid": "owner", "generation": 1, "resourceVersion": "1"},
        "spec": spec,
    }))
    .unwrap()
}

fn fixed() -> Value {
    json!({"image": "user:1", "ports": [{"name": "http", "port": 8080}], "replicas": 2})
}

fn scaled() -> Value {
    json!({
        "image": "user:1", "ports": [{"name": "http", "port": 8080}],
        "autoscaling": {"min": 2, "max": 4, "cpu": 70}, "resources": {"requests": {"cpu": "10m"}},
    })
}

fn owner() -> Owner {
    Owner {
        key: Key::new("shop", "user"),
        uid: "owner".to_owned(),
    }
}

/// One pass as the controller makes it, from what the caches show.
async fn pass(applier: &Applier, spec: &Value) -> Result<Resources<Applied>, Error> {
    let cr = microservice(spec.clone());
    let key = Key::new("shop", "user");
    let caches = &applier.caches;
    let fetched = Fetched {
        deployment: caches.deployments.get(&key).map(|live| (*live).clone()),
        autoscaler: caches.autoscalers.get(&key).map(|live| (*live).clone()),
        proxy_config: caches
            .config_maps
            .get(&Key::new("shop", "user-proxy"))
            .map(|live| (*live).clone()),
        ..Fetched::default()
    };
    let settings = Settings {
        proxy_image: "trellis-proxy:1".to_owned(),
        config_stream_address: "http://operator:15010".to_owned(),
        quota_address: "http://quota:8080".to_owned(),
        saga_engine: "trellis-saga".to_owned(),
        namespace: "trellis-system".to_owned(),
        gateway_host: None,
        telemetry_endpoint: None,
        trusted_gateway_namespaces: BTreeSet::new(),
    };
    let validation = decisions::validate(&cr, &fetched, &settings);
    let validated = validation
        .validated
        .unwrap_or_else(|| panic!("{:?}", validation.problems));
    applier
        .apply(
            &owner(),
            decisions::build(&validated),
            fetched.proxy_config.as_ref(),
        )
        .await
}

/// Every document that was ever stored, as version and digest.
fn documents(server: &Shared) -> Vec<(u64, String)> {
    let stored = &server.lock().unwrap().documents;
    let read = |text: &String| {
        let document: Value = serde_json::from_str(text).unwrap();
        (
            document["version"].as_u64().unwrap(),
            document["digest"].as_str().unwrap().to_owned(),
        )
    };
    stored.iter().map(read).collect()
}

#[tokio::test]
async fn a_document_is_published_by_the_replica_that_wrote_it_before_any_watch_shows_it() {
    let server = Shared::default();
    let index = Arc::new(Index::default());
    let mut leader = start(&server);
    leader.caches = Arc::new(Caches::publishing(
        Arc::clone(&index),
        rate_limits::Concerned::channel().0,
        sagas::Concerned::channel(Key::new("trellis-system", "trellis-saga")).0,
    ));
    let published = index.document(&Key::new("shop", "user"));
    let mut with_another_port = fixed();
    with_another_port["ports"][0]["port"] = 9000.into();
    for (spec, stored) in [(fixed(), 1), (with_another_port, 2)] {
        pass(&leader, &spec).await.unwrap();
        let newest = published
            .borrow()
            .as_ref()
            .map(|document| (document.version, document.digest.clone()));
        assert_eq!(documents(&server).len(), stored);
        assert_eq!(newest, documents(&server).last().cloned());
    }
}

#[tokio::test]
async fn two_documents_never_share_a_version_although_an_answer_was_lost_or_the_watch_lags() {
    let with_port = |port: &str| {
        let mut spec = fixed();
        spec["ports"][0]["port"] = 9000.into();
        spec["ports"][0]["name"] = port.into();
        spec
    };
    let server = Shared::default();
    let (leader, lagging) = (start(&server), start(&server));
    pass(&leader, &fixed()).await.unwrap();

    // Stored, but the answer never came: the leader still believes in the document before.
    let next = server.lock().unwrap().writes.len();
    server.lock().unwrap().crash = Some((next, true));
    pass(&leader, &with_port("second")).await.unwrap_err();
    server.lock().unwrap().crash = None;
    let stale = pass(&leader, &with_port("third")).await;
    assert!(
        matches!(&stale, Err(Error::Stale { child }) if child == "ConfigMap user-proxy"),
        "{stale:?}"
    );
    pass(&leader, &with_port("third")).await.unwrap();

    // A replica that has not seen any of this takes over.
    let stale = pass(&lagging, &with_port("fourth")).await;
    assert!(matches!(stale, Err(Error::Stale { .. })), "{stale:?}");
    pass(&lagging, &with_port("fourth")).await.unwrap();

    let documents = documents(&server);
    assert_eq!(documents.len(), 4, "{documents:?}");
    assert!(
        documents.is_sorted_by(|before, after| before.0 < after.0),
        "{documents:?}"
    );
}

#[tokio::test]
async fn what_pods_need_comes_before_the_pods_and_a_second_pass_asks_for_nothing() {
    let server = Shared::default();
    let applier = start(&server);
    pass(&applier, &fixed()).await.unwrap();
    assert_eq!(
        server.lock().unwrap().writes,
        [
            "PATCH serviceaccounts/user",
            "PATCH configmaps/user-proxy",
            "PATCH services/user",
            "PATCH services/user-headless",
            "PATCH deployments/user",
            "PATCH poddisruptionbudgets/user",
        ]
    );
    let requests = server.lock().unwrap().requests;
    pass(&applier, &fixed()).await.unwrap();
    pass(&start(&server), &fixed()).await.unwrap();
    assert_eq!(
        server.lock().unwrap().requests,
        requests,
        "neither this process nor the next"
    );
}

#[tokio::test]
async fn an_autoscaler_goes_before_the_number_of_replicas_is_applied() {
    let server = Shared::default();
    let applier = start(&server);
    pass(&applier, &scaled()).await.unwrap();
    server.lock().unwrap().writes.clear();
    pass(&applier, &fixed()).await.unwrap();
    assert_eq!(
        server.lock().unwrap().writes,
        ["DELETE horizontalpodautoscalers/user", "PATCH deployments/user"]
    );
}

#[tokio::test]
async fn what_is_no_longer_wanted_is_deleted_last() {
    let server = Shared::default();
    let applier = start(&server);
    pass(&applier, &fixed()).await.unwrap();
    server.lock().unwrap().writes.clear();
    let mut single = fixed();
    single["replicas"] = 1.into();
    pass(&applier, &single).await.unwrap();
    assert_eq!(
        server.lock().unwrap().writes,
        ["PATCH deployments/user", "DELETE poddisruptionbudgets/user"]
    );
}

#[tokio::test]
async fn a_foreign_object_is_neither_taken_over_nor_deleted() {
    let labels = json!({names::LABEL_MANAGED_BY: names::MANAGED_BY, names::LABEL_MICROSERVICE: "user"});
    for labels in [json!({}), labels] {
        let server = Shared::default();
        let foreign = |kind: &str, version: &str| {
            json!({"apiVersion": version, "kind": kind, "metadata": {
                "namespace": "shop", "name": "user", "uid": "foreign", "resourceVersion": "1", "labels": labels}})
        };
        let paths = [
            ("/api/v1/namespaces/shop/services/user", foreign("Service", "v1")),
            (
                "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/user",
                foreign("PodDisruptionBudget", "policy/v1"),
            ),
        ];
        for (path, object) in &paths {
            server
                .lock()
                .unwrap()
                .objects
                .insert((*path).to_owned(), object.clone());
        }
        let mut single = fixed();
        single["replicas"] = 1.into();
        let result = pass(&start(&server), &single).await;
        assert!(
            matches!(&result, Err(Error::NotOwned { child }) if child == "Service user"),
            "{result:?}"
        );
        for (path, object) in &paths {
            assert_eq!(server.lock().unwrap().objects[*path], *object);
        }
    }
}

/// What a pass writes while somebody else's object is at each of `paths`, and what it reports.
async fn writes_beside_foreign(paths: &[&str]) -> (Vec<String>, String) {
    let server = Shared::default();
    for path in paths {
        let foreign = json!({"metadata": {
            "namespace": "shop", "name": path.rsplit('/').next(), "uid": "foreign", "resourceVersion": "1"}});
        server.lock().unwrap().objects.insert((*path).to_owned(), foreign);
    }
    let Err(Error::NotOwned { child }) = pass(&start(&server), &scaled()).await else {
        panic!("nothing in the way")
    };
    (server.lock().unwrap().writes.clone(), child)
}

#[tokio::test]
async fn a_child_whose_name_is_taken_does_not_stop_the_repair_of_the_others() {
    let (writes, reported) = writes_beside_foreign(&["/api/v1/namespaces/shop/services/user"]).await;
    assert_eq!(reported, "Service user");
    assert_eq!(
        writes,
        [
            "PATCH serviceaccounts/user",
            "PATCH configmaps/user-proxy",
            "PATCH services/user-headless",
            "PATCH deployments/user",
            "PATCH horizontalpodautoscalers/user",
            "PATCH poddisruptionbudgets/user",
        ]
    );
}

#[tokio::test]
async fn pods_are_not_made_from_an_account_or_a_document_of_somebody_else() {
    for (taken, child) in [
        ("serviceaccounts/user", "ServiceAccount user"),
        ("configmaps/user-proxy", "ConfigMap user-proxy"),
    ] {
        let (writes, reported) = writes_beside_foreign(&[&format!("/api/v1/namespaces/shop/{taken}")]).await;
        assert_eq!(reported, child);
        assert!(writes.contains(&"PATCH services/user".to_owned()), "{writes:?}");
        let workload = |write: &String| write.contains("deployments/") || write.contains("autoscalers/");
        assert!(!writes.iter().any(workload), "{writes:?}");
    }
}

#[tokio::test]
async fn a_deployment_of_somebody_else_is_not_scaled() {
    let (writes, reported) = writes_beside_foreign(&["/apis/apps/v1/namespaces/shop/deployments/user"]).await;
    assert_eq!(reported, "Deployment user");
    assert!(
        !writes.iter().any(|write| write.contains("autoscalers/")),
        "{writes:?}"
    );
}

#[tokio::test]
async fn a_rivals_edit_is_undone_and_its_additions_are_left() {
    let server = Shared::default();
    pass(&start(&server), &fixed()).await.unwrap();
    let path = "/api/v1/namespaces/shop/services/user";
    {
        let mut server = server.lock().unwrap();
        let service = server.objects.get_mut(path).unwrap();
        service["spec"]["ports"][0]["targetPort"] = "http".into();
        service["metadata"]["annotations"]["rival"] = "1".into();
        service["metadata"]["resourceVersion"] = "99".into();
        server.writes.clear();
    }
    pass(&start(&server), &fixed()).await.unwrap();
    let server = server.lock().unwrap();
    assert_eq!(server.writes, ["PATCH services/user"]);
    assert_eq!(server.objects[path]["spec"]["ports"][0]["targetPort"], "t-http");
    assert_eq!(server.objects[path]["metadata"]["annotations"]["rival"], "1");
}

#[tokio::test]
async fn a_crash_after_any_write_ends_where_no_crash_would_have() {
    for (before, after) in [
        (None, fixed()),
        (None, scaled()),
        (Some(fixed()), scaled()),
        (Some(scaled()), fixed()),
    ] {
        let reference = Shared::default();
        if let Some(before) = &before {
            pass(&start(&reference), before).await.unwrap();
        }
        reference.lock().unwrap().writes.clear();
        pass(&start(&reference), &after).await.unwrap();
        let writes = reference.lock().unwrap().writes.len();

        for crash in 0..writes {
            for committed in [true, false] {
                let server = Shared::default();
                if let Some(before) = &before {
                    pass(&start(&server), before).await.unwrap();
                }
                {
                    let mut server = server.lock().unwrap();
                    server.writes.clear();
                    server.crash = Some((crash, committed));
                }
                assert!(pass(&start(&server), &after).await.is_err());
                server.lock().unwrap().crash = None;
                pass(&start(&server), &after).await.unwrap();
                assert!(
                    !server.lock().unwrap().replicas.contains(&1),
                    "pods were taken away"
                );
                let label = format!("crash at write {crash} of {writes}, carried out: {committed}");
                assert_eq!(
                    server.lock().unwrap().end(),
                    reference.lock().unwrap().end(),
                    "{label}"
                );
            }
        }
    }
}

#[tokio::test]
async fn what_was_applied_and_deleted_is_logged_with_its_microservice() {
    let server = Shared::default();
    let applier = start(&server);
    for spec in [scaled(), fixed()] {
        pass(&applier, &spec).await.unwrap();
    }
    logs::listen();
    for spec in [scaled(), fixed()] {
        pass(&applier, &spec).await.unwrap();
    }
    let lines = logs::lines();
    for message in ["applied", "deleted"] {
        assert!(lines.iter().any(|line| line["message"] == message), "{lines:?}");
    }
    assert!(
        lines.iter().all(|line| line["microservice"] == "shop/user"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_replica_that_does_not_lead_writes_nothing() {
    let server = Shared::default();
    let mut applier = start(&server);
    applier.authority = Authority::lost();
    assert!(matches!(
        pass(&applier, &fixed()).await,
        Err(Error::Deposed { .. })
    ));
    assert!(server.lock().unwrap().writes.is_empty());
}

#[test]
fn every_kind_of_child_has_a_cache_of_its_own() {
    let caches = Caches::default();
    assert_eq!(
        caches.services.observe(Event::Apply(Service::default())).count(),
        1
    );
    assert_eq!(Service::cache(&caches).len(), 1);
    assert_eq!(ConfigMap::cache(&caches).len(), 0);
    assert_eq!(ServiceAccount::cache(&caches).len(), 0);
    assert_eq!(PodDisruptionBudget::cache(&caches).len(), 0);
}
