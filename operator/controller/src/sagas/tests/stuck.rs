//! Events of stuck runs.

use trellis_testkit::wait;

use super::*;

/// What the engine says of runs that are stuck.
fn stuck(connected: &Connected, revision: &str, runs: &[&str]) {
    let cause = |run: &&str| v1::StuckRun {
        run: (*run).to_owned(),
        cause: "PivotUnknown at confirm: 503 Service Unavailable".to_owned(),
    };
    let of = v1::RunsOfRevision {
        namespace: "shop".to_owned(),
        saga: "place-order".to_owned(),
        revision: revision.to_owned(),
        stuck: runs.len() as u64,
        stuck_runs: runs.iter().map(|run| (*run).to_owned()).collect(),
        stuck_causes: runs.iter().map(cause).collect(),
        ..v1::RunsOfRevision::default()
    };
    connected.runs(v1::RunCounts { revisions: vec![of] });
}

impl Stage {
    /// The Events, when there are so many.
    async fn events(&self, count: usize) -> Vec<Value> {
        let events = || self.server.lock().unwrap().events.clone();
        wait::until("the events are written", async || events().len() >= count).await;
        events()
    }
}

#[tokio::test]
async fn a_run_that_gets_stuck_is_told_of_once_also_by_the_next_leader() {
    let stage = Stage::new(Authority::held());
    let connected = stage.engine();
    stage.visit().await;
    let revision = stage.revisions().remove(0);
    stuck(&connected, &revision, &["RUN1"]);
    for _ in 0..3 {
        stage.visit().await;
    }
    let event = stage.events(1).await.remove(0);
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&json!("Warning"), &json!("RunsStuck"))
    );
    let about = &event["regarding"];
    assert_eq!(
        (&about["kind"], &about["name"], &about["uid"]),
        (&json!("Saga"), &json!("place-order"), &json!("s"))
    );
    assert_eq!(
        event["note"],
        "a run is stuck: RUN1 (PivotUnknown at confirm: 503 Service Unavailable); look with: trellis saga show RUN1"
    );

    // Another leads, and the engine has not said anything yet: what the status says stays.
    let next = Stage::new(Authority::held());
    let before = stage.server.lock().unwrap().saga.clone();
    let version = before["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    {
        let mut stored = next.server.lock().unwrap();
        stored.saga = before.clone();
        stored.version = version;
        stored.config_maps = stage.server.lock().unwrap().config_maps.clone();
        for made in stored.config_maps.values() {
            next.task
                .caches
                .config_maps
                .written(serde_json::from_value(made.clone()).unwrap());
        }
    }
    next.task
        .caches
        .sagas
        .written(serde_json::from_value(before).unwrap());
    let connected = next.engine();
    next.visit().await;
    assert_eq!(
        (
            &next.status()["runs"]["stuck"],
            &*next.condition("StuckInstances")
        ),
        (&json!(1), "True RunsStuck")
    );
    stuck(&connected, &revision, &["RUN1"]);
    next.visit().await;
    stuck(&connected, &revision, &["RUN2", "RUN1"]);
    next.visit().await;
    let events = next.events(1).await;
    assert_eq!(events.len(), 1);
    assert!(
        events[0]["note"]
            .as_str()
            .unwrap()
            .starts_with("2 runs are stuck, now also RUN2")
    );
}

#[tokio::test]
async fn a_saga_that_wants_no_events_has_none() {
    let stage = Stage::new(Authority::held());
    let mut silent = saga(2, "/x");
    silent["spec"]["onStuck"] = json!({"event": false});
    silent["metadata"]["resourceVersion"] = "50".into();
    {
        let mut stored = stage.server.lock().unwrap();
        stored.saga = silent.clone();
        stored.version = 50;
    }
    stage
        .task
        .caches
        .sagas
        .written(serde_json::from_value(silent).unwrap());
    let connected = stage.engine();
    stage.visit().await;
    let revision = stage.revisions().remove(0);
    stuck(&connected, &revision, &["RUN1"]);
    stage.visit().await;
    assert_eq!(stage.condition("StuckInstances"), "True RunsStuck");
    // Events are written in order: this one would come after.
    let about =
        serde_json::from_value(json!({"kind": "Saga", "namespace": "shop", "name": "place-order"})).unwrap();
    stage.task.events.warn(about, "Last", "the last");
    assert_eq!(stage.events(1).await[0]["reason"], "Last");
}
