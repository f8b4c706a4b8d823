//! The load: Microservices of the usual shape that want no pods.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use trellis_api::Microservice;

use crate::wait;

/// Where they are.
pub const NAMESPACE: &str = "bench";
/// Objects a page of a list.
const PAGE: u32 = 250;

/// Names are of one length, so that no name begins another.
pub fn name(number: u32) -> String {
    format!("m{number:05}")
}

/// The Microservice whose child or self has this name.
pub fn of(object: &str) -> Option<&str> {
    let name = object.get(..6)?;
    let digits = name.strip_prefix('m')?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
}

/// Applies a new one, as `kubectl apply --server-side` does.
pub async fn create(client: &Client, number: u32) -> Result<()> {
    let (api, name) = (
        Api::<Microservice>::namespaced(client.clone(), NAMESPACE),
        name(number),
    );
    let patch = Patch::Apply(object(&name));
    api.patch(&name, &PatchParams::apply("bench"), &patch)
        .await
        .with_context(|| format!("failed to create Microservice {name}"))?;
    Ok(())
}

/// Like the shop's, without pods.
fn object(name: &str) -> Value {
    json!({
        "apiVersion": "trellis.dev/v1alpha1",
        "kind": "Microservice",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "bench"}},
        "spec": {
            "image": "registry.example/bench:1.0",
            "replicas": 0,
            "ports": [{"name": "http", "port": 8080, "protocol": "HTTP"}],
            "env": [{"name": "GREETING", "value": "hello"}],
            "bindings": [{"name": "db", "secret": format!("{name}-db"), "keys": ["host", "username", "password"]}],
            "probes": {
                "readiness": {"path": "/readyz", "port": 9090, "period": "2s"},
                "liveness": {"path": "/livez", "port": 9090, "period": "10s"},
            },
            "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
            "securityContext": {"runAsUser": 65532, "runAsGroup": 65532, "readOnlyRootFilesystem": true},
        },
    })
}

/// Waits until all are ready.
pub async fn wait_until_ready(client: &Client, count: u32) -> Result<()> {
    let api = Api::<Microservice>::namespaced(client.clone(), NAMESPACE);
    let mut first = 0;
    wait::until(
        "every Microservice is ready",
        Duration::from_secs(600),
        async || {
            // One that is ready stays so: nothing about it changes.
            while first < count {
                let microservice = api.get_status(&name(first)).await?;
                if !is_ready(&microservice) {
                    return Ok(None);
                }
                first += 1;
            }
            let all = count_all(&api).await?;
            Ok((all == count).then_some(()))
        },
    )
    .await
}

async fn count_all(api: &Api<Microservice>) -> Result<u32> {
    let mut parameters = ListParams::default().limit(PAGE);
    let mut count = 0;
    loop {
        let page = api.list_metadata(&parameters).await?;
        count += u32::try_from(page.items.len())?;
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(count),
        }
    }
}

fn is_ready(microservice: &Microservice) -> bool {
    let Some(status) = &microservice.status else {
        return false;
    };
    status.observed_generation == microservice.metadata.generation
        && status
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_known_by_the_beginning_of_their_names() {
        assert_eq!(of(&name(7)), Some("m00007"));
        assert_eq!(of("m00007-headless"), Some("m00007"));
        assert_eq!(of("kube-root-ca.crt"), None);
    }

    #[test]
    fn what_is_created_is_a_microservice() {
        assert!(serde_json::from_value::<Microservice>(object("m00001")).is_ok());
    }
}
