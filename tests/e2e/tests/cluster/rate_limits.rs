//! Limits on what a Microservice takes, from `kubectl apply` to the answers of its proxy.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, eventually, image, wait::until_ready, with_namespace};
use http::{HeaderMap, Request, StatusCode};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use trellis_api::{
    Microservice, RateLimitPolicy,
    condition::{ConditionType, PolicyConditionType, PolicyReason, status},
};

const SOON: Duration = Duration::from_secs(30);
const NAME: &str = "limited";
const POLICY: &str = "limits";

#[tokio::test]
async fn a_policy_limits_a_running_service_and_edits_of_it_replace_no_pod_and_reset_no_counter() {
    with_namespace(|cluster, ns| async move {
        let microservices: Api<Microservice> = Api::namespaced(cluster.client.clone(), &ns);
        let service = json!({
            "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice", "metadata": {"name": NAME},
            "spec": {"image": image::echo().await?, "ports": [{"name": "http", "port": 8080}]},
        });
        microservices
            .create(&PostParams::default(), &serde_json::from_value(service)?)
            .await?;
        until_ready(&microservices, NAME).await;
        let pods = pods(&cluster, &ns).await?;
        let caller = caller(&cluster).await?;
        for _ in 0..10 {
            assert_eq!(ask(&caller, &ns).await?.0, StatusCode::OK);
        }

        let policies: Api<RateLimitPolicy> = Api::namespaced(cluster.client.clone(), &ns);
        // A window that does not pass within the test.
        let policy = json!({
            "apiVersion": "trellis.dev/v1alpha1", "kind": "RateLimitPolicy", "metadata": {"name": POLICY},
            "spec": {
                "targetRefs": [{"group": "trellis.dev", "kind": "Microservice", "name": NAME}],
                "limits": {"all": {"scope": "Pod", "rates": [{"limit": 5, "window": "10m"}]}},
            },
        });
        policies
            .create(&PostParams::default(), &serde_json::from_value(policy)?)
            .await?;
        until_programmed(&policies).await;
        for left in (0..5).rev() {
            let (answered, headers) = ask(&caller, &ns).await?;
            assert_eq!(answered, StatusCode::OK, "{left} left");
            assert!(header(&headers, "ratelimit").starts_with(&format!("\"all\";r={left};t=")));
            assert_eq!(header(&headers, "ratelimit-policy"), "\"all\";q=5;w=600");
        }
        let (answered, headers) = ask(&caller, &ns).await?;
        assert_eq!(answered, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(header(&headers, "x-trellis-reason"), "rate_limited");
        let wait: u64 = header(&headers, "retry-after").parse()?;
        assert!((1..=660).contains(&wait), "{wait}");
        assert!(header(&headers, "ratelimit").starts_with("\"all\";r=0;t="));
        until_affected(&microservices, true).await;

        // A bad edit says where, and what was in force stays.
        edit(
            &policies,
            &json!({"limits": {"all": {"when": ["request.verb == \"GET\""]}}}),
        )
        .await?;
        let message = eventually(SOON, "the fault in the status", || async {
            let policy = policies.get(POLICY).await?;
            let accepted = condition(&policy, PolicyConditionType::Accepted).context("not accepted yet")?;
            ensure!(
                accepted.observed_generation == policy.metadata.generation,
                "{accepted:?}"
            );
            ensure!(accepted.status == status::FALSE && accepted.reason == PolicyReason::Invalid.as_ref());
            Ok(accepted.message)
        })
        .await;
        assert!(
            message.starts_with("spec.limits[all].when[0]: line 1, column 9: "),
            "{message}"
        );
        assert_eq!(ask(&caller, &ns).await?.0, StatusCode::TOO_MANY_REQUESTS);
        let policy = policies.get(POLICY).await?;
        let enforced = condition(&policy, PolicyConditionType::Enforced).unwrap();
        assert_eq!(enforced.status, status::TRUE, "{enforced:?}");

        // Two more than before: the five still count.
        let raised = json!({"limits": {"all": {"when": null, "rates": [{"limit": 7, "window": "10m"}]}}});
        edit(&policies, &raised).await?;
        until_programmed(&policies).await;
        for expected in [StatusCode::OK, StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
            assert_eq!(ask(&caller, &ns).await?.0, expected);
        }

        policies.delete(POLICY, &DeleteParams::default()).await?;
        eventually(SOON, "the limit to be lifted", || async {
            let (answered, headers) = ask(&caller, &ns).await?;
            ensure!(
                answered == StatusCode::OK && !headers.contains_key("ratelimit"),
                "{answered}"
            );
            Ok(())
        })
        .await;
        until_affected(&microservices, false).await;
        assert_eq!(self::pods(&cluster, &ns).await?, pods, "a pod was replaced");
        Ok(())
    })
    .await;
}

/// A client that takes 429 for an answer, and does not wait and ask again.
async fn caller(cluster: &Cluster) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(&cluster.kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// One request to the service, through the API server.
async fn ask(caller: &Client, ns: &str) -> Result<(StatusCode, HeaderMap)> {
    let url = format!("/api/v1/namespaces/{ns}/services/{NAME}:http/proxy/");
    let answer = caller.send(Request::get(url).body(Body::empty())?).await?;
    let (parts, body) = answer.into_parts();
    body.collect_bytes().await?;
    Ok((parts.status, parts.headers))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Names of the pods, and how often their containers were started again.
async fn pods(cluster: &Cluster, ns: &str) -> Result<BTreeSet<(String, i32)>> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), ns);
    let pods = pods.list(&ListParams::default()).await?;
    let restarts = |pod: &Pod| -> i32 {
        let status = pod.status.iter();
        let all = status.flat_map(|status| [&status.container_statuses, &status.init_container_statuses]);
        all.flatten()
            .flatten()
            .map(|container| container.restart_count)
            .sum()
    };
    Ok(pods.iter().map(|pod| (pod.name_any(), restarts(pod))).collect())
}

async fn edit(policies: &Api<RateLimitPolicy>, spec: &Value) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": spec}));
    policies.patch(POLICY, &PatchParams::default(), &patch).await?;
    Ok(())
}

fn condition(policy: &RateLimitPolicy, type_: PolicyConditionType) -> Option<Condition> {
    let conditions = policy.status.iter().flat_map(|status| &status.conditions);
    conditions
        .into_iter()
        .find(|condition| condition.type_ == type_.as_ref())
        .cloned()
}

/// Waits until every proxy runs by the policy as it is.
async fn until_programmed(policies: &Api<RateLimitPolicy>) {
    eventually(SOON, "the policy to be programmed", || async {
        let policy = policies.get(POLICY).await?;
        for type_ in [
            PolicyConditionType::Accepted,
            PolicyConditionType::Enforced,
            PolicyConditionType::Programmed,
        ] {
            let condition = condition(&policy, type_).context("no status yet")?;
            ensure!(
                condition.status == status::TRUE
                    && condition.observed_generation == policy.metadata.generation,
                "{condition:?}"
            );
        }
        Ok(())
    })
    .await;
}

/// Waits until the Microservice says that limits hold there, or that none do.
async fn until_affected(microservices: &Api<Microservice>, affected: bool) {
    eventually(SOON, "the condition of the Microservice", || async {
        let seen = microservices.get(NAME).await?.status.unwrap_or_default();
        let type_ = ConditionType::RateLimitPolicyAffected;
        let found = seen.conditions.iter().find(|it| it.type_ == type_.as_ref());
        let names = found.is_some_and(|it| it.status == status::TRUE && it.message.contains(POLICY));
        ensure!(found.is_some() == affected && names == affected, "{found:?}");
        Ok(())
    })
    .await;
}
