//! Sagas from `kubectl apply` to the status: revisions, faults with their places, participants.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, eventually, image, with_namespace};
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use trellis_api::{
    Microservice, Saga,
    condition::{SagaConditionType, SagaReason, status},
};

const SOON: Duration = Duration::from_secs(30);
const NAME: &str = "place-order";

#[tokio::test]
async fn a_saga_makes_revisions_a_fault_is_said_where_it_is_and_what_was_good_stays() {
    with_namespace(|cluster, ns| async move {
        let sagas: Api<Saga> = Api::namespaced(cluster.client.clone(), &ns);
        create(&sagas, &saga(NAME, 3)).await?;
        let good = until(&sagas, SagaConditionType::Accepted, SagaReason::Accepted).await;
        let first = good.status.clone().unwrap().revision.context("no revision")?;
        let revision = revision(&cluster, &ns, &first).await?;
        assert_eq!(revision.immutable, Some(true));
        let definition: Value = serde_json::from_str(&revision.data.unwrap()["definition.json"])?;
        assert_eq!(definition["steps"].as_array().unwrap().len(), 4);
        let ready = condition(&good, SagaConditionType::Ready).unwrap();
        assert_eq!(ready.status, status::FALSE, "there are no participants");
        until(&sagas, SagaConditionType::Programmed, SagaReason::Programmed).await;

        // A wrong type, which a check of names would let pass.
        let path = "/x/${steps.step-1}/${input.lines.filter(line, line.quantity).size()}";
        edit(
            &sagas,
            json!([{"op": "replace", "path": "/spec/steps/1/action/call/path", "value": path}]),
        )
        .await?;
        let faulty = until(&sagas, SagaConditionType::Accepted, SagaReason::Invalid).await;
        let status = faulty.status.clone().unwrap();
        assert_eq!(
            status.revision.as_ref(),
            Some(&first),
            "runs are made of what was good"
        );
        let said: Vec<String> = status.problems.iter().map(ToString::to_string).collect();
        let place = "spec.steps[1].action.call.path: line 1, column ";
        assert!(said.iter().all(|said| said.starts_with(place)), "{said:?}");
        assert!(
            said.iter()
                .any(|said| said
                    .contains("there is no step step; if step-0 is meant, write steps[\"step-0\"]")),
            "{said:?}"
        );
        assert!(
            said.iter()
                .any(|said| said.contains("what is asked of each element is int, and bool is needed")),
            "{said:?}"
        );

        // Another definition is another revision, and the same again is the first.
        edit(
            &sagas,
            json!([{"op": "replace", "path": "/spec/steps/1/action/call/path", "value": "/y"}]),
        )
        .await?;
        let second = until_revision(&sagas, |revision| *revision != first).await;
        assert_eq!(second.status.unwrap().revisions.len(), 2);
        edit(
            &sagas,
            json!([{"op": "replace", "path": "/spec/steps/1/action/call/path", "value": "/x/1"}]),
        )
        .await?;
        let back = until_revision(&sagas, |revision| *revision == first).await;
        assert_eq!(back.status.unwrap().revisions.len(), 2, "nothing was made anew");

        // Its revisions go with it.
        sagas.delete(NAME, &DeleteParams::default()).await?;
        let config_maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &ns);
        let of_saga = ListParams::default().labels(&format!("trellis.dev/saga={NAME}"));
        eventually(SOON, "the revisions are gone", || async {
            let left = config_maps.list(&of_saga).await?.items.len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn participants_are_reported_as_they_come_and_change() {
    with_namespace(|cluster, ns| async move {
        let sagas: Api<Saga> = Api::namespaced(cluster.client.clone(), &ns);
        create(&sagas, &saga(NAME, 1)).await?;
        let missing = until(&sagas, SagaConditionType::ParticipantsResolved, SagaReason::ParticipantNotFound).await;
        let message = condition(&missing, SagaConditionType::ParticipantsResolved).unwrap().message;
        assert_eq!(message, "there is no Microservice stock");
        assert_eq!(condition(&missing, SagaConditionType::Accepted).unwrap().status, status::TRUE, "it is not refused");

        let microservices: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        let stock = json!({
            "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice", "metadata": {"name": "stock"},
            "spec": {"image": image::echo().await?, "replicas": 0, "ports": [{"name": "raw", "port": 9000, "protocol": "TCP"}]},
        });
        microservices.create(&PostParams::default(), &serde_json::from_value(stock)?).await?;
        eventually(SOON, "no port speaks HTTP", || async {
            let saga = sagas.get(NAME).await?;
            let found = condition(&saga, SagaConditionType::ParticipantsResolved).context("no condition")?;
            ensure!(found.message == "stock has no port that speaks HTTP", "{}", found.message);
            Ok(())
        })
        .await;
        let ports = json!({"spec": {"ports": [{"name": "http", "port": 8080}]}});
        microservices.patch("stock", &PatchParams::default(), &Patch::Merge(ports)).await?;
        until(&sagas, SagaConditionType::ParticipantsResolved, SagaReason::Resolved).await;
        Ok(())
    })
    .await;
}

/// Prints how long the status of 30 steps takes; the figure is no assertion.
#[tokio::test]
async fn a_saga_of_thirty_steps_has_its_status_soon() {
    with_namespace(|cluster, ns| async move {
        let sagas: Api<Saga> = Api::namespaced(cluster.client.clone(), &ns);
        let mut times = Vec::new();
        for n in 0..5 {
            let name = format!("thirty-{n}");
            let mut object = saga(&name, 29);
            object["spec"]["timeout"] = format!("{}m", 10 + n).into();
            let begin = Instant::now();
            create(&sagas, &object).await?;
            eventually(SOON, "the status", || async {
                let saga = sagas.get(&name).await?;
                let revision = saga.status.and_then(|status| status.revision);
                revision.context("no revision yet")
            })
            .await;
            times.push(begin.elapsed());
        }
        times.sort();
        println!("status of a saga of 30 steps: {times:?}");
        Ok(())
    })
    .await;
}

/// As many steps that can be taken back, and a pivot.
fn saga(name: &str, steps: usize) -> Value {
    let mut all: Vec<Value> = (0..steps)
        .map(|i| {
            let before = i.checked_sub(1).map(|before| format!("${{steps[\"step-{before}\"].output.id}}"));
            json!({
                "name": format!("step-{i}"), "timeout": "5s",
                "action": {
                    "call": {"microservice": "stock", "method": "POST", "path": format!("/x/{i}")},
                    "body": {"skus": "${input.lines.map(line, line.sku)}", "before": before},
                },
                "compensation": {"call": {"microservice": "stock", "method": "DELETE", "path": format!("/x/{i}/${{run.id}}")}},
                "output": {"schema": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}},
            })
        })
        .collect();
    all.push(json!({
        "name": "confirm", "kind": "Pivot", "timeout": "5s",
        "action": {"call": {"microservice": "stock", "method": "POST", "path": "/confirm"}},
    }));
    let line = json!({"type": "object", "required": ["sku", "quantity"], "properties": {"sku": {"type": "string"}, "quantity": {"type": "integer"}}});
    json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Saga", "metadata": {"name": name},
        "spec": {
            "timeout": "10m",
            "input": {"schema": {"type": "object", "required": ["lines"], "properties": {"lines": {"type": "array", "items": line}}}},
            "steps": all,
        },
    })
}

async fn create(sagas: &Api<Saga>, saga: &Value) -> Result<()> {
    let saga = serde_json::from_value(saga.clone())?;
    sagas.create(&PostParams::default(), &saga).await?;
    Ok(())
}

async fn edit(sagas: &Api<Saga>, patch: Value) -> Result<()> {
    let patch = Patch::<Value>::Json(serde_json::from_value(patch)?);
    sagas.patch(NAME, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Waits until a condition of the newest generation has a reason.
async fn until(sagas: &Api<Saga>, type_: SagaConditionType, reason: SagaReason) -> Saga {
    eventually(SOON, &format!("{type_} is {reason}"), || async {
        let saga = sagas.get(NAME).await?;
        let found = condition(&saga, type_).context("no condition")?;
        ensure!(
            found.observed_generation == saga.metadata.generation,
            "of an older generation"
        );
        ensure!(
            found.reason == reason.as_ref(),
            "{}: {}",
            found.reason,
            found.message
        );
        Ok(saga)
    })
    .await
}

async fn until_revision(sagas: &Api<Saga>, is_it: impl Fn(&String) -> bool) -> Saga {
    eventually(SOON, "the revision", || async {
        let saga = sagas.get(NAME).await?;
        let revision = saga.status.as_ref().and_then(|status| status.revision.clone());
        ensure!(revision.as_ref().is_some_and(&is_it), "{revision:?}");
        Ok(saga)
    })
    .await
}

async fn revision(cluster: &Cluster, ns: &str, name: &str) -> Result<ConfigMap> {
    let config_maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), ns);
    let found = config_maps.get(&format!("{NAME}-saga-{name}")).await?;
    ensure!(found.owner_references().len() == 1);
    Ok(found)
}

fn condition(saga: &Saga, type_: SagaConditionType) -> Option<Condition> {
    let conditions = &saga.status.as_ref()?.conditions;
    conditions
        .iter()
        .find(|condition| condition.type_ == type_.as_ref())
        .cloned()
}
