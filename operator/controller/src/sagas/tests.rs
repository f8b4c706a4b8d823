//! Revisions and statuses, against an API server that keeps what it is told.

mod server;
mod stuck;

use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use trellis_saga_api::v1;

use self::server::{Server, client};
use super::*;
use crate::{engine::Connected, leader::Authority, metrics::Metrics, rate_limits};

/// A saga of which `path` is what its only step calls.
fn saga(generation: i64, path: &str) -> Value {
    json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Saga",
        "metadata": {"namespace": "shop", "name": "place-order", "uid": "s", "generation": generation, "resourceVersion": "7"},
        "spec": {"steps": [
            {"name": "confirm", "kind": "Pivot", "action": {"call": {"microservice": "order", "method": "POST", "path": path}}},
        ]},
    })
}

fn microservice(version: &str, port: &str) -> Observed {
    serde_json::from_value(json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice",
        "metadata": {"namespace": "shop", "name": "order", "uid": "o", "generation": version.len(), "resourceVersion": version},
        "spec": {"image": "order:1", "ports": [{"name": port, "port": 8080, "protocol": if port == "http" { "HTTP" } else { "TCP" }}]},
    }))
    .unwrap()
}

struct Stage {
    server: Server,
    task: Sagas,
    changes: mpsc::UnboundedReceiver<Trigger>,
}

impl Stage {
    fn new(authority: Authority) -> Self {
        let (concerned, changes) = Concerned::channel(Key::new("trellis-system", "trellis-saga"));
        let caches = Caches::publishing(
            Arc::default(),
            rate_limits::Concerned::channel().0,
            concerned.clone(),
        );
        let server = Server::default();
        let statuses = Statuses {
            client: client(&server),
            authority,
            metrics: Metrics::register(&mut Registry::default()),
        };
        let engine = Arc::new(Engine::new(concerned.clone()));
        let metrics = Metrics::register(&mut Registry::default());
        let (events, writer) = Events::new(client(&server), "test".to_owned(), metrics);
        tokio::spawn(writer.run());
        let task = Sagas::new(
            Arc::new(caches),
            &concerned,
            statuses,
            engine,
            mpsc::unbounded_channel().0,
            events,
        );
        let stage = Self {
            server,
            task,
            changes,
        };
        stage.edit(1, "/x");
        stage
    }

    fn edit(&self, generation: i64, path: &str) {
        let mut stored = self.server.lock().unwrap();
        stored.version += 10;
        let mut edited = saga(generation, path);
        edited["status"] = stored.saga["status"].take();
        edited["metadata"]["finalizers"] = stored.saga["metadata"]["finalizers"].take();
        edited["metadata"]["resourceVersion"] = stored.version.to_string().into();
        stored.saga = edited.clone();
        drop(stored);
        let edited = serde_json::from_value(edited).unwrap();
        self.task.caches.sagas.written(edited);
    }

    /// A replica of the engine that is ready.
    fn engine(&self) -> Connected {
        let pod = json!({
            "metadata": {"namespace": "trellis-system", "name": "engine-1", "uid": "e", "resourceVersion": "5",
                "labels": {"trellis.dev/microservice": "trellis-saga"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        self.task
            .caches
            .pods
            .written(serde_json::from_value(pod).unwrap());
        let installed = json!({
            "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice",
            "metadata": {"namespace": "trellis-system", "name": "trellis-saga", "uid": "m", "generation": 1, "resourceVersion": "6"},
            "spec": {"image": "trellis-saga"},
        });
        let installed = serde_json::from_value(installed).unwrap();
        self.task.caches.microservices.written(installed);
        self.task.engine.connected("engine-1")
    }

    /// Somebody deletes the saga: it stays for its finalizers.
    fn delete(&self, annotations: &Value) {
        let mut stored = self.server.lock().unwrap();
        stored.version += 10;
        let version = stored.version.to_string();
        stored.saga["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        stored.saga["metadata"]["annotations"] = annotations.clone();
        stored.saga["metadata"]["resourceVersion"] = version.into();
        let deleted = serde_json::from_value(stored.saga.clone()).unwrap();
        drop(stored);
        self.task.caches.sagas.written(deleted);
    }

    fn finalizers(&self) -> Value {
        self.server.lock().unwrap().saga["metadata"]["finalizers"].clone()
    }

    async fn visit(&self) -> Done {
        self.task.visit(&Key::new("shop", "place-order")).await
    }

    fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.server.lock().unwrap().writes)
    }

    fn status(&self) -> Value {
        self.server.lock().unwrap().saga["status"].clone()
    }

    /// `Ready False EngineNotInstalled`
    fn condition(&self, name: &str) -> String {
        let status = self.status();
        let mut all = status["conditions"].as_array().unwrap().iter();
        let found = all.find(|condition| condition["type"] == name).unwrap();
        format!(
            "{} {}",
            found["status"].as_str().unwrap(),
            found["reason"].as_str().unwrap()
        )
    }

    fn revisions(&self) -> Vec<String> {
        let status = self.status();
        let all = status["revisions"].as_array().cloned().unwrap_or_default();
        all.iter()
            .map(|revision| revision["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn a_revision_is_made_once_before_the_status_names_it_and_a_look_at_rest_writes_nothing() {
    let stage = Stage::new(Authority::held());
    assert_eq!(stage.visit().await, Done::Visit(VISIT));
    let revision = stage.status()["revision"].as_str().unwrap().to_owned();
    let status = "PATCH /apis/trellis.dev/v1alpha1/namespaces/shop/sagas/place-order/status";
    assert_eq!(
        stage.writes(),
        ["POST /api/v1/namespaces/shop/configmaps", status]
    );
    assert_eq!(stage.revisions(), [&*revision]);
    {
        let stored = stage.server.lock().unwrap();
        let made = &stored.config_maps[&format!("place-order-saga-{revision}")];
        assert_eq!(made["immutable"], true);
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "s");
        assert_eq!(made["metadata"]["labels"]["trellis.dev/saga"], "place-order");
        let content = made["data"]["definition.json"].as_str().unwrap();
        let content: Value = serde_json::from_str(content).unwrap();
        assert_eq!(content["steps"][0]["action"]["call"]["path"], "/x");
    }
    for (name, expected) in [
        ("Accepted", "True Accepted"),
        ("ParticipantsResolved", "False ParticipantNotFound"),
        ("Programmed", "False EngineNotInstalled"),
        ("Ready", "False ParticipantNotFound"),
    ] {
        assert_eq!(stage.condition(name), expected, "{name}");
    }
    assert_eq!(stage.visit().await, Done::Visit(VISIT));
    assert_eq!(stage.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_fault_leaves_the_last_good_revision_and_going_back_is_the_old_revision() {
    let stage = Stage::new(Authority::held());
    stage.visit().await;
    let first = stage.revisions();
    stage.edit(2, "no path");
    stage.visit().await;
    assert_eq!(stage.condition("Accepted"), "False Invalid");
    assert_eq!(stage.status()["revision"], *first[0]);
    assert_eq!(
        stage.status()["problems"][0]["field"],
        "spec.steps[0].action.call.path"
    );
    stage.edit(3, "/y");
    stage.visit().await;
    let both = stage.revisions();
    assert_eq!((both.len(), &both[1]), (2, &first[0]));
    stage.writes();
    stage.edit(4, "/x");
    stage.visit().await;
    assert_eq!(stage.revisions(), [&*both[1], &*both[0]]);
    assert!(
        stage.writes().iter().all(|write| write.starts_with("PATCH")),
        "nothing is made anew"
    );
}

#[tokio::test]
async fn the_newest_revisions_are_kept_and_older_ones_are_deleted() {
    let stage = Stage::new(Authority::held());
    for generation in 1..=13 {
        stage.edit(generation, &format!("/{generation}"));
        assert_eq!(stage.visit().await, Done::Visit(VISIT));
    }
    let kept = stage.revisions();
    assert_eq!(kept.len(), saga::KEPT);
    let stored = stage.server.lock().unwrap();
    assert_eq!(stored.config_maps.len(), saga::KEPT);
    for revision in kept {
        assert!(
            stored
                .config_maps
                .contains_key(&format!("place-order-saga-{revision}"))
        );
    }
}

#[tokio::test]
async fn a_revision_that_could_not_be_deleted_is_deleted_later() {
    let stage = Stage::new(Authority::held());
    stage.server.lock().unwrap().keeps = true;
    for generation in 1..=12 {
        stage.edit(generation, &format!("/{generation}"));
        stage.visit().await;
    }
    assert_eq!(stage.server.lock().unwrap().config_maps.len(), 12);
    stage.server.lock().unwrap().keeps = false;
    stage.visit().await;
    assert_eq!(stage.server.lock().unwrap().config_maps.len(), saga::KEPT);
    stage.writes();
    stage.visit().await;
    assert_eq!(stage.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_revision_that_is_seen_late_is_named() {
    let stage = Stage::new(Authority::held());
    stage.visit().await;
    // It looks for revisions again until there is no news of any.
    stage.visit().await;
    let known = stage.revisions();
    let other = Stage::new(Authority::held());
    other.edit(1, "/late");
    other.visit().await;
    let late = other.server.lock().unwrap().config_maps.values().next().cloned();
    let late = serde_json::from_value(late.unwrap()).unwrap();
    stage.task.caches.config_maps.written(late);
    stage.visit().await;
    let mut expected = [known, other.revisions()].concat();
    let mut named = stage.revisions();
    expected.sort();
    named.sort();
    assert_eq!(named, expected);
}

#[tokio::test]
async fn what_has_the_name_of_a_revision_and_is_none_is_said_and_left_alone() {
    let stage = Stage::new(Authority::held());
    stage.visit().await;
    let name = stage.status()["revisions"][0]["configMap"]
        .as_str()
        .unwrap()
        .to_owned();
    for (change, expected) in [
        (
            json!({"metadata": {"ownerReferences": []}}),
            "belongs to somebody else",
        ),
        (json!({"data": {"definition.json": "{}"}}), "another content"),
    ] {
        let stage = Stage::new(Authority::held());
        let mut other = stage.server.lock().unwrap().config_maps.clone();
        assert!(other.is_empty());
        let first = Stage::new(Authority::held());
        first.visit().await;
        let mut made = first.server.lock().unwrap().config_maps[&name].clone();
        for (part, value) in change.as_object().unwrap() {
            match value.as_object().unwrap().get("ownerReferences") {
                Some(none) => made["metadata"]["ownerReferences"] = none.clone(),
                None => made[part] = value.clone(),
            }
        }
        other.insert(name.clone(), made.clone());
        stage.server.lock().unwrap().config_maps = other;
        assert_eq!(stage.visit().await, Done::Failed);
        assert_eq!(stage.condition("Programmed"), "False ApplyFailed");
        let status = stage.status().to_string();
        assert!(status.contains(expected), "{status}");
        assert_eq!(stage.server.lock().unwrap().config_maps[&name], made);
        assert_eq!(stage.status()["revision"], Value::Null);
    }
}

#[tokio::test]
async fn a_refused_write_is_tried_again_and_one_without_authority_is_not_sent() {
    let stage = Stage::new(Authority::held());
    stage.server.lock().unwrap().refuses = true;
    assert_eq!(stage.visit().await, Done::Failed);
    stage.server.lock().unwrap().refuses = false;
    assert_eq!(stage.visit().await, Done::Visit(VISIT));
    assert_eq!(stage.condition("Programmed"), "False EngineNotInstalled");

    let deposed = Stage::new(Authority::lost());
    assert_eq!(deposed.visit().await, Done::Failed);
    assert_eq!(deposed.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_microservice_that_comes_or_changes_its_ports_changes_what_is_said_of_participants() {
    let mut stage = Stage::new(Authority::held());
    stage.visit().await;
    while stage.changes.try_recv().is_ok() {}
    let due = Some((Key::new("shop", "place-order"), Cause::Event));
    for (version, port, expected) in [
        ("9", "http", "True Resolved"),
        ("10", "raw", "False ParticipantNotFound"),
    ] {
        stage
            .task
            .caches
            .microservices
            .written(microservice(version, port));
        assert_eq!(stage.changes.recv().await, due);
        stage.visit().await;
        while stage.changes.try_recv().is_ok() {}
        assert_eq!(stage.condition("ParticipantsResolved"), expected);
    }
}

/// What the engine says of a saga.
fn said(connected: &Connected, revision: &str, running: u64) {
    let (namespace, saga) = ("shop".to_owned(), "place-order".to_owned());
    let of = v1::RunsOfRevision {
        namespace,
        saga,
        revision: revision.to_owned(),
        running,
        ..v1::RunsOfRevision::default()
    };
    connected.runs(v1::RunCounts { revisions: vec![of] });
}

fn answered(connected: &Connected, revision: &str, fault: &str) {
    connected.answered(v1::Answer {
        namespace: "shop".to_owned(),
        saga: "place-order".to_owned(),
        revision: revision.to_owned(),
        fault: fault.to_owned(),
    });
}

#[tokio::test]
async fn a_saga_is_programmed_when_every_replica_of_the_engine_says_so() {
    let stage = Stage::new(Authority::held());
    stage.task.caches.microservices.written(microservice("9", "http"));
    let connected = stage.engine();
    stage.visit().await;
    assert_eq!(stage.condition("Programmed"), "False Pending");
    let revision = stage.revisions().remove(0);
    answered(&connected, &revision, "no");
    stage.visit().await;
    assert_eq!(stage.condition("Programmed"), "False EngineRefused");
    answered(&connected, &revision, "");
    said(&connected, &revision, 3);
    stage.visit().await;
    assert_eq!(
        (stage.condition("Programmed"), stage.condition("Ready")),
        ("True Programmed".to_owned(), "True Programmed".to_owned())
    );
    assert_eq!(stage.status()["runs"]["running"], 3);
    assert_eq!(stage.status()["revisions"][0]["inFlight"], 3);
    // What it said goes with it.
    drop(connected);
    stage.visit().await;
    assert_eq!(stage.condition("Programmed"), "False Pending");
}

#[tokio::test]
async fn a_replica_of_the_engine_that_gets_ready_or_is_gone_is_a_reason_to_look_at_every_saga() {
    let mut stage = Stage::new(Authority::held());
    let connected = stage.engine();
    stage.visit().await;
    while stage.changes.try_recv().is_ok() {}
    let pod = stage.task.caches.pods.all().remove(0);
    stage.task.caches.pods.deleted(&pod);
    assert_eq!(
        stage.changes.recv().await,
        Some((Key::new("shop", "place-order"), Cause::Event))
    );
    drop(connected);
}

#[tokio::test]
async fn the_deletion_of_a_saga_waits_for_its_runs() {
    let stage = Stage::new(Authority::held());
    let connected = stage.engine();
    stage.visit().await;
    assert_eq!(stage.finalizers(), json!(["trellis.dev/saga-runs"]));
    let revision = stage.revisions().remove(0);
    answered(&connected, &revision, "");
    said(&connected, &revision, 2);
    stage.delete(&json!({}));
    assert!(matches!(stage.visit().await, Done::Visit(_)));
    assert_eq!(stage.condition("Ready"), "False Deleting");
    let message = stage.status().to_string();
    assert!(
        message.contains("waits for 2 runs") && message.contains("abandon-runs=true"),
        "{message}"
    );
    // None is in flight, but one may have been started just before.
    said(&connected, &revision, 0);
    assert!(matches!(stage.visit().await, Done::Visit(_)));
    answered(&connected, "", "");
    assert!(
        matches!(stage.visit().await, Done::Visit(_)),
        "it has not said since what runs"
    );
    said(&connected, &revision, 0);
    assert_eq!(stage.visit().await, Done::Gone);
    assert_eq!(stage.finalizers(), json!([]));
}

#[tokio::test]
async fn the_deletion_of_a_saga_waits_for_nobody_who_is_not_there_or_given_up() {
    for what in ["no engine", "abandoned", "the namespace ends"] {
        let stage = Stage::new(Authority::held());
        let connected = stage.engine();
        stage.visit().await;
        said(&connected, &stage.revisions().remove(0), 2);
        match what {
            "no engine" => {
                let engine = stage
                    .task
                    .caches
                    .microservices
                    .get(&stage.task.engine_key)
                    .unwrap();
                stage.task.caches.microservices.deleted(&engine);
                stage.delete(&json!({}));
            }
            "abandoned" => stage.delete(&json!({"trellis.dev/abandon-runs": "true"})),
            _ => {
                stage.server.lock().unwrap().namespace_ends = true;
                stage.delete(&json!({}));
            }
        }
        assert_eq!(stage.visit().await, Done::Gone, "{what}");
        assert_eq!(stage.finalizers(), json!([]), "{what}");
    }
}

#[tokio::test]
async fn a_revision_of_which_runs_are_in_flight_is_kept() {
    let stage = Stage::new(Authority::held());
    let connected = stage.engine();
    stage.visit().await;
    let first = stage.revisions().remove(0);
    said(&connected, &first, 1);
    for generation in 2..=13 {
        stage.edit(generation, &format!("/{generation}"));
        stage.visit().await;
    }
    let kept = stage.server.lock().unwrap().config_maps.len();
    assert_eq!(kept, saga::KEPT + 1);
    assert!(
        stage
            .server
            .lock()
            .unwrap()
            .config_maps
            .contains_key(&format!("place-order-saga-{first}"))
    );
    said(&connected, &first, 0);
    stage.visit().await;
    assert_eq!(stage.server.lock().unwrap().config_maps.len(), saga::KEPT);
}

#[tokio::test]
async fn a_saga_that_is_gone_is_not_visited_again() {
    let stage = Stage::new(Authority::held());
    assert_eq!(stage.task.visit(&Key::new("shop", "other")).await, Done::Gone);
    assert_eq!(stage.writes(), Vec::<String>::new());
}
