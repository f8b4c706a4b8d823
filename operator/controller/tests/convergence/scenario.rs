//! What a user, or a rival, does.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use trellis_api::Microservice;

/// Name of the Microservice.
pub const NAME: &str = "shop";
/// Of every Microservice, before and after, but where a scenario says otherwise; and never fewer.
pub const REPLICAS: i64 = 3;

/// One thing that happens to a Microservice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    Create,
    Update,
    FewerPorts,
    Scale,
    AutoscalingOn,
    AutoscalingOff,
    RivalEdits,
    RivalDeletes,
    Delete,
    Recreate,
}

impl Scenario {
    pub const ALL: [Self; 10] = [
        Self::Create,
        Self::Update,
        Self::FewerPorts,
        Self::Scale,
        Self::AutoscalingOn,
        Self::AutoscalingOff,
        Self::RivalEdits,
        Self::RivalDeletes,
        Self::Delete,
        Self::Recreate,
    ];

    /// Whether a user edits what runs, so that each child is written once.
    pub const fn is_one_edit(self) -> bool {
        matches!(self, Self::Update | Self::FewerPorts | Self::Scale)
    }

    /// What is there before it happens.
    pub async fn prepare(self, client: &Client, namespace: &str) {
        match self {
            Self::Create => {}
            Self::AutoscalingOff => apply(client, namespace, autoscaled()).await,
            _ => apply(client, namespace, spec()).await,
        }
    }

    /// The number of replicas that it ends with, if there are any: with the autoscaler it is what ran before.
    pub const fn replicas(self) -> Option<i64> {
        match self {
            Self::Delete => None,
            Self::Scale => Some(5),
            Self::AutoscalingOff => Some(4),
            _ => Some(REPLICAS),
        }
    }

    /// It happens.
    pub async fn act(self, client: &Client, rival: &Client, namespace: &str) {
        let mut next = spec();
        match self {
            Self::Create => apply(client, namespace, next).await,
            Self::Update => {
                next["image"] = json!("registry.example/shop:2");
                next["env"][0]["value"] = json!("good bye");
                apply(client, namespace, next).await;
            }
            Self::FewerPorts => {
                next["ports"] = json!([]);
                apply(client, namespace, next).await;
            }
            Self::Scale => {
                next["replicas"] = json!(5);
                apply(client, namespace, next).await;
            }
            Self::AutoscalingOn => apply(client, namespace, autoscaled()).await,
            Self::AutoscalingOff => {
                next["replicas"] = json!(4);
                apply(client, namespace, next).await;
            }
            Self::RivalEdits => {
                let patch = json!({"spec": {"template": {"spec": {"containers": [
                    {"name": "app", "image": "registry.example/rival:1"}]}}}});
                let api: Api<Deployment> = Api::namespaced(rival.clone(), namespace);
                api.patch(NAME, &PatchParams::default(), &Patch::Strategic(patch))
                    .await
                    .unwrap();
            }
            Self::RivalDeletes => {
                let api: Api<Service> = Api::namespaced(rival.clone(), namespace);
                api.delete(NAME, &DeleteParams::default()).await.unwrap();
            }
            Self::Delete => delete(client, namespace).await,
            Self::Recreate => {
                delete(client, namespace).await;
                apply(client, namespace, next).await;
            }
        }
    }
}

fn spec() -> Value {
    json!({
        "image": "registry.example/shop:1",
        "replicas": REPLICAS,
        "ports": [{"name": "http", "port": 8080}, {"name": "grpc", "port": 9000, "protocol": "GRPC"}],
        "env": [{"name": "GREETING", "value": "hello"}],
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
    })
}

fn autoscaled() -> Value {
    let mut spec = spec();
    spec.as_object_mut().unwrap().remove("replicas");
    spec["autoscaling"] = json!({"min": 2, "max": 6, "cpu": 70});
    spec
}

/// Applies the Microservice, as `kubectl apply --server-side` does.
pub async fn apply(client: &Client, namespace: &str, spec: Value) {
    apply_named(client, namespace, NAME, spec).await;
}

pub async fn apply_named(client: &Client, namespace: &str, name: &str, spec: Value) {
    let api: Api<Microservice> = Api::namespaced(client.clone(), namespace);
    let object = json!({
        "apiVersion": "trellis.dev/v1alpha1",
        "kind": "Microservice",
        "metadata": {"name": name},
        "spec": spec,
    });
    api.patch(name, &PatchParams::apply("user"), &Patch::Apply(object))
        .await
        .unwrap();
}

async fn delete(client: &Client, namespace: &str) {
    let api: Api<Microservice> = Api::namespaced(client.clone(), namespace);
    api.delete(NAME, &DeleteParams::background()).await.unwrap();
}
