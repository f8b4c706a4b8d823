//! What two runs are compared by: every object, without what differs from run to run, and who was written how often.

use std::collections::BTreeMap;

use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams},
    core::GroupVersionKind,
};
use serde_json::{Map, Value, json};
use similar::TextDiff;
use trellis_testkit::control_plane::{User, audit::Write};

/// Group, version, kind.
pub type Kind = (&'static str, &'static str, &'static str);

/// The kind itself.
pub const MICROSERVICE: Kind = ("trellis.dev", "v1alpha1", "Microservice");
/// What the operator makes of it.
pub const CHILDREN: [Kind; 6] = [
    ("apps", "v1", "Deployment"),
    ("", "v1", "Service"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "ServiceAccount"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    ("policy", "v1", "PodDisruptionBudget"),
];
/// Made by Kubernetes in every namespace.
const OF_EVERY_NAMESPACE: [&str; 2] = ["kube-root-ca.crt", "default"];
/// Differ from run to run, wherever they are.
const UNSTABLE: [&str; 10] = [
    "document",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "clusterIP",
    "clusterIPs",
    "time",
    "lastTransitionTime",
    "trellis.dev/applied-digest",
    "trellis.dev/template-digest",
];

/// How often each object was created, patched and deleted by the operator, where that changed something.
pub type Summary = BTreeMap<String, u32>;

/// What a run has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndState {
    /// Every object, as text.
    pub objects: String,
    /// Writes of the operator to children.
    pub children: Summary,
    /// Writes of the operator to the status.
    pub statuses: u32,
    /// What any write of anybody has set `spec.replicas` of the Deployment to, in order.
    pub replicas: Vec<i64>,
}

pub fn resource((group, version, kind): Kind) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

impl EndState {
    /// As a namespace is now, `writes` being those since the run began.
    pub async fn read(client: &Client, namespace: &str, writes: &[Write]) -> Self {
        let mut objects = String::new();
        let mut owners = Vec::new();
        for kind in CHILDREN.into_iter().chain([MICROSERVICE]) {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource(kind));
            let mut list = api.list(&ListParams::default()).await.unwrap().items;
            list.retain(|object| !OF_EVERY_NAMESPACE.contains(&&*object.name_any()));
            list.sort_by_key(ResourceExt::name_any);
            for object in list {
                owners.extend(object.uid().filter(|_| kind == MICROSERVICE));
                let mut value = serde_json::to_value(&object).unwrap();
                strip(&mut value, kind);
                let text = serde_json::to_string_pretty(&value).unwrap();
                objects.push_str(&format!("--- {} {}\n", kind.2, object.name_any()));
                objects.push_str(&text.replace(namespace, "NAMESPACE"));
                objects.push('\n');
            }
        }
        for owner in owners {
            // A part of the names of fields, too.
            objects = objects.replace(&owner, "OWNER");
        }
        let mut state = Self {
            objects,
            children: Summary::new(),
            statuses: 0,
            replicas: writes
                .iter()
                .filter(|write| write.effective && write.resource() == "deployments")
                .filter_map(Write::replicas)
                .collect(),
        };
        for write in writes
            .iter()
            .filter(|write| of_operator(write) && write.effective)
        {
            if write.resource() == "microservices/status" {
                state.statuses += 1;
                continue;
            }
            let verb = if write.created() { "create" } else { &*write.verb };
            let entry = format!("{verb} {} {}", write.resource(), write.name());
            *state.children.entry(entry).or_default() += 1;
        }
        state
    }

    /// What is different in `self`, which should be as in `wanted`; None if nothing is.
    pub fn difference(&self, wanted: &Self) -> Option<String> {
        let text = |state: &Self| {
            let writes: String = state
                .children
                .iter()
                .map(|(write, count)| format!("{count} x {write}\n"))
                .collect();
            format!("{}{writes}", state.objects)
        };
        let (wanted, have) = (text(wanted), text(self));
        (wanted != have).then(|| {
            TextDiff::from_lines(&wanted, &have)
                .unified_diff()
                .context_radius(4)
                .to_string()
        })
    }
}

/// Whether the operator wrote it.
pub fn of_operator(write: &Write) -> bool {
    write.user() == User::Operator.name()
}

fn strip(object: &mut Value, kind: Kind) {
    if kind != MICROSERVICE {
        // The controllers of Kubernetes have it at their own pace.
        object.as_object_mut().unwrap().remove("status");
    }
    if let Some(fields) = object["metadata"]["managedFields"].as_array_mut() {
        // Of everybody else, only whether they hold a field of ours is of interest, and that shows in ours.
        fields.retain(|entry| {
            entry["manager"]
                .as_str()
                .unwrap_or_default()
                .starts_with("trellis.dev/")
        });
    }
    if let Some(document) = object["data"]["proxy.json"].as_str() {
        let mut document: Value = serde_json::from_str(document).unwrap();
        document["version"] = json!("VERSION");
        document["digest"] = json!("DIGEST");
        object["data"]["proxy.json"] = document;
    }
    mask(object);
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => mask_fields(fields),
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

fn mask_fields(fields: &mut Map<String, Value>) {
    for (name, value) in fields {
        if UNSTABLE.contains(&&**name) {
            *value = json!("MASKED");
        } else {
            mask(value);
        }
    }
}
