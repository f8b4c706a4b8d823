//! Runs of sagas, from the command of a user to the participants and back, whatever ends meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, eventually, http, image, namespace::with_namespace_alone, wait::until_ready};
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
const SHOP: &str = "shop";
const INVENTORY: &str = "inventory:8080";
const PAYMENT: &str = "payment:8080";
const STOCK: u64 = 1_000;
const PRICE: i64 = 1_250;
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

/// Orders of the shop, good and bad, with the engine killed in between: whatever the runs say, stock and ledger have to say the same.
#[tokio::test(flavor = "multi_thread")]
async fn money_and_stock_balance_whatever_is_killed() {
    with_namespace_alone(|cluster, _| async move {
        let sku = format!("tea-{:08x}", rand::random::<u32>());
        let item = format!("/items/{sku}");
        let client = cluster.client.clone();
        let stocked = json!({"on_hand": STOCK});
        http::put_through_api_server(&client, SHOP, INVENTORY, &item, &stocked).await?;
        let start = |key: &str, username: &str, quantity: u64| {
            let lines = json!([{"sku": sku, "quantity": quantity}]);
            let input = json!({"username": username, "amount": PRICE, "lines": lines}).to_string();
            let key = format!("{sku}-{key}");
            cluster.trellis([
                "saga",
                "start",
                "place-order",
                "-n",
                SHOP,
                "--input",
                &input,
                "--key",
                &key,
                "-o",
                "json",
            ])
        };
        let mut ids = Vec::new();
        for n in 0..RUNS {
            for (name, username, quantity) in [
                ("good", "ada", 2),
                ("declined", "declined-ada", 1),
                ("short", "ada", STOCK + 1),
            ] {
                let key = format!("{name}-{n}");
                let started = eventually(SOON, "the engine takes the order", || async {
                    start(&key, username, quantity)
                })
                .await;
                let run: Value = serde_json::from_str(&started.1)?;
                ids.push((name == "good", run["id"].as_str().context("no id")?.to_owned()));
            }
            if n == RUNS / 2 {
                kill(&cluster, ENGINE, SYSTEM).await?;
                kill(&cluster, "trellis.dev/microservice=payment", SHOP).await?;
            }
        }
        for (is_good, id) in &ids {
            let expected = if *is_good { "Completed" } else { "Compensated" };
            eventually(SOON, "the run has ended", || async {
                let (_, shown) = cluster.trellis(["saga", "show", id, "-o", "json"])?;
                let run: Value = serde_json::from_str(&shown)?;
                ensure!(run["status"] == expected, "{shown}");
                Ok(())
            })
            .await;
        }
        let sold = 2 * RUNS as u64;
        let left = http::get_through_api_server(&client, SHOP, INVENTORY, &item).await?;
        assert_eq!(
            left,
            json!({"sku": sku, "on_hand": STOCK - sold, "reserved": 0, "available": STOCK - sold})
        );
        for (is_good, id) in &ids {
            let held = http::get_through_api_server(&client, SHOP, PAYMENT, &format!("/ledger/{id}")).await;
            // Of one that was declined there may be nothing at all.
            let rows = held
                .map(|held| held["items"].as_array().cloned().unwrap_or_default())
                .unwrap_or_default();
            let sum = |account: &str| -> i64 {
                rows.iter()
                    .filter(|row| row["account"] == account)
                    .filter_map(|row| row["amount"].as_i64())
                    .sum()
            };
            let paid = if *is_good { PRICE } else { 0 };
            assert_eq!(
                (sum("Shop"), sum("Open"), sum("Customer")),
                (paid, 0, -paid),
                "{id}: {rows:?}"
            );
        }
        Ok(())
    })
    .await;
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
