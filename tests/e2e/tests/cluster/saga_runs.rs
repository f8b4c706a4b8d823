//! Runs of sagas, from the command of a user to the participants and back, whatever ends meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Cluster,
    cluster::{share_shop, xtask},
    eventually, image,
    namespace::with_namespace_alone,
    wait::until_ready,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};
use trellis_api::{
    Microservice, Saga,
    condition::{SagaConditionType, status},
};

const SOON: Duration = Duration::from_secs(60);
const SYSTEM: &str = "trellis-system";
const ENGINE: &str = "trellis.dev/microservice=trellis-saga";
const SAGA: &str = "order";
/// Runs of each sort.
const RUNS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn runs_end_as_they_should_though_every_replica_of_the_engine_is_killed() {
    with_namespace_alone(|cluster, ns| async move {
        install(&cluster, &ns).await?;
        // The pivot answers with the status of the input: runs are completed, compensated, or go on until somebody helps.
        let start = |key: &str, status: u32, wait: &str| {
            let input = json!({ "status": status }).to_string();
            cluster.trellis([
                "saga", "start", SAGA, "-n", &ns, "--input", &input, "--key", key, "--wait", wait, "-o",
                "json",
            ])
        };
        let (is_completed, run) = start("first", 200, "30")?;
        ensure!(is_completed, "{run}");
        let first: Value = serde_json::from_str(&run)?;
        let (_, again) = start("first", 200, "30")?;
        assert_eq!(
            serde_json::from_str::<Value>(&again)?["id"],
            first["id"],
            "the same key is the same run"
        );
        for n in 0..RUNS {
            start(&format!("away-{n}"), 503, "0")?;
        }
        kill(&cluster, ENGINE, SYSTEM).await?;
        for n in 0..RUNS {
            // Whoever is asked while nobody is there asks again, with the same key.
            for (name, status) in [("good", 200), ("bad", 409)] {
                let key = format!("{name}-{n}");
                eventually(SOON, "the engine is back", || async { start(&key, status, "0") }).await;
            }
        }
        kill(&cluster, ENGINE, SYSTEM).await?;
        eventually(SOON, "runs have ended", || async {
            let [completed, compensated, running] = counts(&cluster, &ns)?;
            ensure!(
                (completed, compensated, running) == (RUNS + 1, RUNS, RUNS),
                "{completed} {compensated} {running}"
            );
            Ok(())
        })
        .await;
        // Nobody answers their pivot, so nobody knows whether it was done: an operator ends them.
        let arguments = [
            "saga",
            "complete",
            "-n",
            &ns,
            "--all",
            "--reason",
            "the participant is gone",
        ];
        eventually(SOON, "an operator ends them", || async {
            let (is_done, _) = cluster.trellis(arguments)?;
            ensure!(is_done, "some are being taken over");
            Ok(())
        })
        .await;
        let [completed, compensated, running] = counts(&cluster, &ns)?;
        assert_eq!((completed, compensated, running), (2 * RUNS + 1, RUNS, 0));

        let sagas: Api<Saga> = Api::namespaced(cluster.client.clone(), &ns);
        eventually(SOON, "the status counts them", || async {
            let runs = sagas
                .get(SAGA)
                .await?
                .status
                .and_then(|status| status.runs)
                .context("no counts")?;
            ensure!(
                runs.completed == 2 * RUNS as i64 + 1 && runs.compensated == RUNS as i64,
                "{runs:?}"
            );
            Ok(())
        })
        .await;
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_is_told_to_its_end() -> Result<()> {
    let _lock = share_shop().await?;
    let told = tokio::task::spawn_blocking(|| xtask(["demo"])).await??;
    for end in [
        "\"status\":\"Rejected\"",
        "  skip capture by ",
        "\"status\":\"Cancelled\"",
    ] {
        ensure!(told.contains(end), "{end} is not in\n{told}");
    }
    Ok(())
}

/// A participant, and a saga over it that every replica of the engine has.
async fn install(cluster: &Cluster, ns: &str) -> Result<()> {
    let microservices: Api<Microservice> = Api::namespaced(cluster.client.clone(), ns);
    let stock = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice", "metadata": {"name": "stock"},
        "spec": {"image": image::echo().await?, "ports": [{"name": "http", "port": 8080}], "securityContext": {"runAsUser": 65532}},
    });
    microservices
        .create(&PostParams::default(), &serde_json::from_value(stock)?)
        .await?;
    until_ready(&microservices, "stock").await;
    let call =
        |method: &str, path: &str| json!({"call": {"microservice": "stock", "method": method, "path": path}});
    let saga = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Saga", "metadata": {"name": SAGA},
        "spec": {
            "input": {"schema": {"type": "object", "required": ["status"], "properties": {"status": {"type": "integer"}}}},
            "steps": [
                {"name": "reserve", "action": call("POST", "/reserve"), "compensation": call("DELETE", "/reserve")},
                {"name": "authorise", "after": [], "action": call("POST", "/authorise"), "compensation": call("DELETE", "/authorise")},
                {"name": "confirm", "after": ["reserve", "authorise"], "kind": "Pivot", "retry": {"initial": "100ms", "maxInterval": "1s"},
                    "action": call("POST", "/status/${input.status}")},
            ],
        },
    });
    let sagas: Api<Saga> = Api::namespaced(cluster.client.clone(), ns);
    sagas
        .create(&PostParams::default(), &serde_json::from_value(saga)?)
        .await?;
    eventually(SOON, "runs can be started", || async {
        let conditions = sagas.get(SAGA).await?.status.context("no status")?.conditions;
        let ready = conditions
            .iter()
            .find(|condition| condition.type_ == SagaConditionType::Ready.as_ref());
        let ready = ready.context("no condition")?;
        ensure!(ready.status == status::TRUE, "{}", ready.message);
        Ok(())
    })
    .await;
    Ok(())
}

/// Runs that are completed, compensated, and on their way.
fn counts(cluster: &Cluster, ns: &str) -> Result<[usize; 3]> {
    let (_, listed) = cluster.trellis(["saga", "list", "-n", ns, "--limit", "500", "-o", "json"])?;
    let runs: Vec<Value> = serde_json::from_str(&listed)?;
    let count = |statuses: &[&str]| {
        let is_one = |run: &&Value| {
            run["status"]
                .as_str()
                .is_some_and(|status| statuses.contains(&status))
        };
        runs.iter().filter(is_one).count()
    };
    Ok([
        count(&["Completed"]),
        count(&["Compensated"]),
        count(&["Running", "Compensating", "Stuck"]),
    ])
}

/// Kills every pod with a label, without a word.
async fn kill(cluster: &Cluster, label: &str, namespace: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    for pod in pods.list(&ListParams::default().labels(label)).await? {
        let at_once = DeleteParams::default().grace_period(0);
        pods.delete(&pod.name_any(), &at_once).await?;
    }
    Ok(())
}
