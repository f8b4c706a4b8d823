//! Waiting until what was installed works, and saying what does not.
//!
//! After a restart of the node the API server still tells the old story for a while: pods that ran before look ready until
//! the kubelet has looked at them. So a container that claims to run since before this life of the node counts as unknown,
//! and a Microservice counts as ready only when no pod around it is on its way.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{OPERATOR, SHOP, databases};
use crate::command::tail;
use crate::kubectl::Kubectl;
use crate::poll;
use crate::progress;
use crate::status::{Microservice, is_open, microservices};

/// From the last change until everything has to work. A first start pulls nothing, but runs initdb and migrations.
const PATIENCE: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_millis(300);

/// Waits for the operator, and for the Microservices in its namespace.
pub fn for_operator(kubectl: &Kubectl, began: Option<&str>) -> Result<()> {
    let step = progress::step("waiting for the operator");
    let mut missing = String::new();
    let ready = poll::until(PATIENCE, PAUSE, || {
        let deployment =
            kubectl.json(&["get", "deployment/trellis-operator", "-n", OPERATOR, "-o", "json"])?;
        let lacks = if let Some(lack) = rollout_lacks(&deployment) {
            Some(format!("deployment/trellis-operator: {lack}"))
        } else if let Some(services) = not_ready(&microservices(kubectl, OPERATOR)?, OPERATOR) {
            Some(services)
        } else {
            pods_on_their_way(kubectl, OPERATOR, began)?
        };
        Ok(settled(lacks, &mut missing, |text| step.detail(text)))
    })?;
    if ready.is_none() {
        bail!(
            "what is in {OPERATOR} does not get ready: {missing}\n  fix: `cargo xtask logs operator` shows the operator's log, \
             `cargo xtask kubectl -- describe msvc,pods -n {OPERATOR}` tells more"
        );
    }
    step.done("");
    Ok(())
}

/// Waits for every Microservice of the shop, and for the gateway's port.
pub fn for_shop(kubectl: &Kubectl, began: Option<&str>, gateway: Option<&str>) -> Result<()> {
    let step = progress::step("waiting for the shop");
    let mut missing = String::new();
    let mut count = 0;
    let ready = poll::until(PATIENCE, PAUSE, || {
        let all = microservices(kubectl, SHOP)?;
        count = all.len();
        let ready = all.iter().filter(|service| service.ready).count();
        let has_gateway = all.iter().any(|service| service.name == "gateway");
        let lacks = if let Some(services) = not_ready(&all, SHOP) {
            Some(services)
        } else if let Some(job) = databases_lack(kubectl)? {
            Some(job)
        } else if let Some(pods) = pods_on_their_way(kubectl, SHOP, began)? {
            Some(pods)
        } else {
            gateway
                .filter(|url| has_gateway && !is_open(url))
                .map(|url| format!("the gateway does not answer at {url}"))
        };
        Ok(settled(lacks, &mut missing, |text| {
            step.detail(format!("{ready} of {count} ready; {text}"))
        }))
    })?;
    if ready.is_none() {
        bail!(
            "not everything got ready in {} s:\n{}\n  fix: `cargo xtask kubectl -- describe msvc -n {SHOP}` tells more",
            PATIENCE.as_secs(),
            tail(&missing, 30)
        );
    }
    step.done(&format!("{count} microservices are ready"));
    Ok(())
}

/// Nothing lacks: done. Else keeps what does, for the error, and shows it.
fn settled(lacks: Option<String>, missing: &mut String, show: impl FnOnce(&str)) -> Option<()> {
    match lacks {
        None => Some(()),
        Some(text) => {
            show(&text);
            *missing = text;
            None
        }
    }
}

/// The same conditions as `kubectl rollout status`.
fn rollout_lacks(deployment: &Value) -> Option<String> {
    let status = &deployment["status"];
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    if number(&status["observedGeneration"]) < number(&deployment["metadata"]["generation"]) {
        return Some("the change is not seen yet".to_owned());
    }
    let (updated, total, available) = (
        number(&status["updatedReplicas"]),
        number(&status["replicas"]),
        number(&status["availableReplicas"]),
    );
    let is_rolled = updated >= wanted && total <= updated && available >= updated;
    (!is_rolled)
        .then(|| format!("{available} of {wanted} replicas are available, {updated} are of the new revision"))
}

/// The Microservices that are not ready, a line each.
fn not_ready(all: &[Microservice], namespace: &str) -> Option<String> {
    let waiting = all.iter().filter(|service| !service.ready);
    let lines: Vec<String> = waiting
        .map(|service| {
            format!(
                "microservice/{} in {namespace}: {}",
                service.name, service.message
            )
        })
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The Job that makes the databases, while it has not done so.
fn databases_lack(kubectl: &Kubectl) -> Result<Option<String>> {
    let names = "jsonpath={.items[?(@.status.succeeded!=1)].metadata.name}";
    let open = kubectl.output(&["get", "jobs", "-n", SHOP, "-l", databases::LABEL, "-o", names])?;
    Ok((!open.trim().is_empty())
        .then(|| format!("job/{} in {SHOP} has not made the databases yet", open.trim())))
}

fn pods_on_their_way(kubectl: &Kubectl, namespace: &str, began: Option<&str>) -> Result<Option<String>> {
    let pods = kubectl.json(&["get", "pods", "-n", namespace, "-o", "json"])?;
    let lacking: Vec<String> = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|pod| pod_lacks(pod, began))
        .collect();
    Ok((!lacking.is_empty()).then(|| lacking.join("\n")))
}

/// What keeps a pod from being taken as ready; none for one that has ended or is asked to.
fn pod_lacks(pod: &Value, began: Option<&str>) -> Option<String> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let status = &pod["status"];
    if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"))
        || pod["metadata"]["deletionTimestamp"].is_string()
    {
        return None;
    }
    let containers = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .flat_map(|list| status[list].as_array().into_iter().flatten());
    // Times of the API server are all of one form, so they compare as text.
    let is_stale = |container: &Value| matches!((container["state"]["running"]["startedAt"].as_str(), began), (Some(started), Some(began)) if started < began);
    if containers.clone().any(is_stale) {
        return Some(format!("pod/{name}: the kubelet has not looked at it yet"));
    }
    let waits = containers.filter_map(|container| {
        let waiting = &container["state"]["waiting"];
        Some(format!(
            "{}: {}",
            container["name"].as_str()?,
            waiting["message"].as_str().or(waiting["reason"].as_str())?
        ))
    });
    let is_ready = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    (!is_ready).then(|| {
        format!("pod/{name} is not ready {}", waits.collect::<Vec<_>>().join(", "))
            .trim_end()
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rollout_lacks_something_until_the_old_replicas_are_gone() {
        let deployment = |observed: i64, updated: i64, total: i64, available: i64| {
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 2},
                   "status": {"observedGeneration": observed, "updatedReplicas": updated, "replicas": total, "availableReplicas": available}})
        };
        assert_eq!(rollout_lacks(&deployment(2, 2, 2, 2)), None);
        assert!(rollout_lacks(&deployment(1, 2, 2, 2)).is_some());
        assert!(rollout_lacks(&deployment(2, 2, 3, 2)).is_some());
        assert!(rollout_lacks(&deployment(2, 2, 2, 1)).is_some());
    }

    #[test]
    fn a_pod_that_ran_in_an_earlier_life_of_the_node_is_not_believed() {
        let pod = |started: &str| {
            json!({"metadata": {"name": "a"}, "status": {
                "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "app", "state": {"running": {"startedAt": started}}}],
            }})
        };
        let began = Some("2026-01-01T00:00:10Z");
        assert!(
            pod_lacks(&pod("2026-01-01T00:00:09Z"), began).is_some_and(|text| text.contains("not looked"))
        );
        assert_eq!(pod_lacks(&pod("2026-01-01T00:00:11Z"), began), None);
        assert_eq!(pod_lacks(&pod("2026-01-01T00:00:09Z"), None), None);
    }

    #[test]
    fn a_pod_that_waits_says_for_what_and_one_that_ended_lacks_nothing() {
        let waiting = json!({"metadata": {"name": "a"}, "status": {"phase": "Pending", "containerStatuses": [
            {"name": "app", "state": {"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"x\" not found"}}}]}});
        assert_eq!(
            pod_lacks(&waiting, None).unwrap(),
            "pod/a is not ready app: secret \"x\" not found"
        );
        assert_eq!(
            pod_lacks(
                &json!({"metadata": {"name": "a"}, "status": {"phase": "Succeeded"}}),
                None
            ),
            None
        );
    }
}
