//! The shop and the operator as a run disturbs them: what they were, what is changed, and when they have settled.

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::{Cluster, wait::Ready};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use trellis_api::{Microservice, RateLimitPolicy, condition::status, names::LABEL_MICROSERVICE};

use crate::wait::until;

/// Where the shop is.
pub(crate) const NAMESPACE: &str = "shop";
const SYSTEM: &str = "trellis-system";
const OPERATOR: &str = "trellis-operator";
/// The limit that a run edits.
const POLICY: &str = "soak";
/// Annotation of pods that is changed to roll them.
const ROLL: &str = "trellis-soak/roll";
/// What is disturbed, or needed to answer.
const SERVICES: [&str; 3] = ["user", "order", "gateway"];
/// Replicas during a run: with one, a roll of the gateway would have nowhere to go.
pub(crate) const REPLICAS: i32 = 2;

/// The shop and the operator.
#[derive(Clone)]
pub(crate) struct Shop {
    microservices: Api<Microservice>,
    policies: Api<RateLimitPolicy>,
    pods: Api<Pod>,
    operator: Api<Deployment>,
    operator_pods: Api<Pod>,
}

/// What a run has to put back.
pub(crate) struct Before {
    microservices: Vec<Microservice>,
    operator_replicas: i32,
}

impl Shop {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let client = || cluster.client.clone();
        Self {
            microservices: Api::namespaced(client(), NAMESPACE),
            policies: Api::namespaced(client(), NAMESPACE),
            pods: Api::namespaced(client(), NAMESPACE),
            operator: Api::namespaced(client(), SYSTEM),
            operator_pods: Api::namespaced(client(), SYSTEM),
        }
    }

    /// Notes what is there.
    pub(crate) async fn before(&self) -> Result<Before> {
        let mut microservices = Vec::new();
        for name in SERVICES {
            let found = self.microservices.get(name).await;
            microservices
                .push(found.with_context(|| format!("no {name} to disturb; run `cargo xtask up` first"))?);
        }
        let operator = self.operator.get(OPERATOR).await?;
        Ok(Before {
            microservices,
            operator_replicas: operator.spec.and_then(|spec| spec.replicas).unwrap_or(1),
        })
    }

    /// Makes everything as it was, whatever state it is in. Goes on after a fault and returns the first.
    pub(crate) async fn put_back(&self, before: &Before) -> Result<()> {
        let mut outcome = self.scale_operator(before.operator_replicas).await;
        outcome = outcome.and(self.unlimit().await);
        for microservice in &before.microservices {
            let restored = self.restore(microservice).await;
            outcome = outcome.and(restored);
        }
        outcome.context("failed to put the shop back as it was; `cargo xtask up` does")
    }

    async fn restore(&self, before: &Microservice) -> Result<()> {
        let name = before.name_any();
        until(&format!("{name} to be put back"), || async {
            let mut now = self.microservices.get(&name).await?;
            if serde_json::to_value(&now.spec)? != serde_json::to_value(&before.spec)? {
                now.spec = before.spec.clone();
                // Refused if somebody else wrote in between: then it is read again.
                self.microservices
                    .replace(&name, &PostParams::default(), &now)
                    .await?;
            }
            Ok(())
        })
        .await?;
        self.settled(&name).await
    }

    /// Gives everything that has to answer the replicas of a run.
    pub(crate) async fn prepare(&self) -> Result<()> {
        for name in SERVICES {
            self.change(name, json!({"replicas": REPLICAS, "autoscaling": null}))
                .await?;
        }
        for name in SERVICES {
            self.settled(name).await?;
        }
        Ok(())
    }

    /// Merges into a Microservice's spec. Returns when the API server has answered.
    pub(crate) async fn change(&self, name: &str, spec: Value) -> Result<Microservice> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.microservices
            .patch(name, &PatchParams::default(), &patch)
            .await
            .with_context(|| format!("failed to change {name}"))
    }

    /// Gives a Microservice a limit of so many requests a minute over all its pods. Returns when the API server has answered.
    pub(crate) async fn limit(&self, name: &str, limit: u32) -> Result<RateLimitPolicy> {
        let policy = json!({
            "apiVersion": "trellis.dev/v1alpha1", "kind": "RateLimitPolicy", "metadata": {"name": POLICY},
            "spec": {
                "targetRefs": [{"group": "trellis.dev", "kind": "Microservice", "name": name}],
                "limits": {"soak": {"rates": [{"limit": limit, "window": "60s"}]}},
            },
        });
        self.policies
            .patch(
                POLICY,
                &PatchParams::apply("trellis-soak").force(),
                &Patch::Apply(policy),
            )
            .await
            .with_context(|| format!("failed to limit {name}"))
    }

    /// Takes the limit away, if there is one.
    pub(crate) async fn unlimit(&self) -> Result<()> {
        match self.policies.delete(POLICY, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            outcome => outcome.map(|_| ()).context("failed to take the limit away"),
        }
    }

    /// The routes that a Microservice declares.
    pub(crate) async fn routes(&self, name: &str) -> Result<Vec<Value>> {
        let routes = self.microservices.get(name).await?.spec.routes;
        routes
            .iter()
            .map(|route| Ok(serde_json::to_value(route)?))
            .collect()
    }

    /// Replaces every pod of a Microservice, as a change of its spec does.
    pub(crate) async fn roll(&self, name: &str) -> Result<()> {
        let stamp = jiff::Timestamp::now().to_string();
        self.change(name, json!({"podMetadata": {"annotations": {ROLL: stamp}}}))
            .await?;
        self.settled(name).await
    }

    /// Sets the number of pods.
    pub(crate) async fn scale(&self, name: &str, replicas: i32) -> Result<()> {
        self.change(name, json!({"replicas": replicas})).await?;
        self.settled(name).await
    }

    /// Deletes a pod that serves. Does not wait.
    pub(crate) async fn delete_pod(&self, name: &str) -> Result<()> {
        let pod = self.serving_pod(name).await?;
        self.pods
            .delete(&pod.name_any(), &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// A pod that serves.
    pub(crate) async fn serving_pod(&self, name: &str) -> Result<Pod> {
        let pods = self.pods(name).await?;
        pods.into_iter()
            .find(serves)
            .with_context(|| format!("no pod of {name} serves"))
    }

    /// A pod, as it is now.
    pub(crate) async fn pod(&self, name: &str) -> Result<Pod> {
        Ok(self.pods.get(name).await?)
    }

    /// Every pod of a Microservice.
    pub(crate) async fn pods(&self, name: &str) -> Result<Vec<Pod>> {
        let of_it = ListParams::default().labels(&format!("{LABEL_MICROSERVICE}={name}"));
        Ok(self.pods.list(&of_it).await?.items)
    }

    /// Waits until a Microservice is ready for its current spec and no pod of before is left.
    pub(crate) async fn settled(&self, name: &str) -> Result<()> {
        until(&format!("{name} to settle"), || async {
            let found = self.microservices.get(name).await?;
            let ready = Ready::of(&found);
            ensure!(
                ready.status == status::TRUE && ready.observed_generation == found.metadata.generation,
                "its Ready is {ready:?}"
            );
            self.all_serve(name, found.spec.replicas.unwrap_or(1)).await
        })
        .await
    }

    /// Waits until exactly so many pods are there, and each serves. Needs no operator.
    pub(crate) async fn pods_settled(&self, name: &str, replicas: i32) -> Result<()> {
        until(&format!("{replicas} pods of {name}"), || {
            self.all_serve(name, replicas)
        })
        .await
    }

    async fn all_serve(&self, name: &str, replicas: i32) -> Result<()> {
        all_serve(&self.pods(name).await?, replicas)
    }

    /// Sets the number of operators and waits for them.
    pub(crate) async fn scale_operator(&self, replicas: i32) -> Result<()> {
        self.change_operator(json!({"replicas": replicas})).await
    }

    /// Replaces every operator, as `kubectl rollout restart` does.
    pub(crate) async fn roll_operator(&self) -> Result<()> {
        let stamp = jiff::Timestamp::now().to_string();
        let annotations = json!({"kubectl.kubernetes.io/restartedAt": stamp});
        self.change_operator(json!({"template": {"metadata": {"annotations": annotations}}}))
            .await
    }

    /// How many operators there are to be.
    pub(crate) async fn operator_replicas(&self) -> Result<i32> {
        let operator = self.operator.get(OPERATOR).await?;
        Ok(operator.spec.and_then(|spec| spec.replicas).unwrap_or(1))
    }

    async fn change_operator(&self, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.operator
            .patch(OPERATOR, &PatchParams::default(), &patch)
            .await
            .context("failed to change the operator's Deployment")?;
        until("the operator to settle", || async {
            let found = self.operator.get(OPERATOR).await?;
            let wanted = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let status = found.status.unwrap_or_default();
            ensure!(
                status.observed_generation == found.metadata.generation
                    && status.updated_replicas.unwrap_or(0) == wanted,
                "its status is {status:?}"
            );
            let of_it = ListParams::default().labels(&format!("app.kubernetes.io/name={OPERATOR}"));
            all_serve(&self.operator_pods.list(&of_it).await?.items, wanted)
        })
        .await
    }
}

fn all_serve(pods: &[Pod], replicas: i32) -> Result<()> {
    let serving = pods.iter().filter(|pod| serves(pod)).count();
    if usize::try_from(replicas) == Ok(serving) && pods.len() == serving {
        return Ok(());
    }
    Err(anyhow!(
        "{serving} of {} pods serve, {replicas} are wanted",
        pods.len()
    ))
}

/// Whether a pod is ready and nobody has asked it to end.
fn serves(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    is_ready && pod.metadata.deletion_timestamp.is_none()
}
