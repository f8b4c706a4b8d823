//! Every field that is ours, by what the API server says we manage: a rival edits it, and takes it away, and it comes back.
//!
//! Not among them: our owner reference. Who takes that away takes the object, which the status says (`ChildNotOwned`).

use std::time::Duration;

use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use trellis_api::names;
use trellis_testkit::control_plane::User;

use crate::{
    end_state::{self, CHILDREN, Kind},
    operator::{Launch, Operator},
    scenario,
    settled::settled,
    stage::Stage,
};

const PATIENCE: Duration = Duration::from_secs(240);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// What else a field may be that takes a few words only.
const WORDS: [&str; 8] = [
    "Always",
    "Never",
    "Default",
    "TCP",
    "SCTP",
    "Ignore",
    "DoNotSchedule",
    "Local",
];

/// A way to a field: through objects by name, through lists by the keys of the item.
type Path = Vec<Step>;

#[derive(Debug, Clone)]
enum Step {
    Field(String),
    Item(Value),
}

/// What was tried on the fields of one kind.
#[derive(Default)]
struct Tally {
    edited: u32,
    deleted: u32,
    /// The API server let nobody change it, or put it back itself.
    fixed: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_ours_comes_back_whether_a_rival_edits_it_or_takes_it_away() {
    let mut stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let rival = stage.client(User::Rival).await;
    let mut operator = Operator::start(&stage.cluster, &Launch::default()).await;
    let namespaces = [stage.namespace(&client).await];
    let namespace = &namespaces[0];
    // Without pods to wait for: the one that is scaled is there for its autoscaler and its disruption budget.
    scenario::apply_named(&client, namespace, "still", still()).await;
    scenario::apply_named(&client, namespace, "scaled", scaled()).await;
    settled(&mut stage, &client, &mut operator, &namespaces).await;

    for kind in CHILDREN {
        let of = match kind.2 {
            "HorizontalPodAutoscaler" | "PodDisruptionBudget" => "scaled",
            _ => "still",
        };
        let theirs: Api<DynamicObject> =
            Api::namespaced_with(rival.clone(), namespace, &end_state::resource(kind));
        let selector = format!("{}={of}", names::LABEL_MICROSERVICE);
        let began = Instant::now();
        let mut tally = Tally::default();
        for child in theirs
            .list(&ListParams::default().labels(&selector))
            .await
            .unwrap()
        {
            try_all(&theirs, &child, kind, &mut tally).await;
        }
        assert!(
            tally.edited > 0 && tally.deleted > 0,
            "{kind:?}: nothing was tried"
        );
        println!(
            "{:<24} {:>3} edited, {:>3} taken away, {:>2} fixed, {:>5.1} s  {:?}",
            kind.2,
            tally.edited,
            tally.deleted,
            tally.fixed.len(),
            began.elapsed().as_secs_f64(),
            tally.fixed,
        );
    }
    settled(&mut stage, &client, &mut operator, &namespaces).await;
    stage.leave(&client, namespace).await;
}

async fn try_all(theirs: &Api<DynamicObject>, child: &DynamicObject, kind: Kind, tally: &mut Tally) {
    let name = child.name_any();
    let object = serde_json::to_value(child).unwrap();
    for path in ours(&object) {
        let what = format!("{} {name} {}", kind.2, text(&path));
        // As it is now: a document that was put back is a newer one.
        let now = serde_json::to_value(theirs.get(&name).await.unwrap()).unwrap();
        let wanted = find(&now, &path).unwrap().clone();
        let edited = rival(theirs, &name, &path, &wanted, edits(&wanted)).await;
        if edited {
            comes_back(theirs, &name, &path, &wanted, &what).await;
            tally.edited += 1;
        }
        let deleted = rival(theirs, &name, &path, &wanted, vec![Value::Null]).await;
        if deleted {
            comes_back(theirs, &name, &path, &wanted, &what).await;
            tally.deleted += 1;
        }
        if !edited && !deleted {
            tally.fixed.push(text(&path));
        }
    }
}

/// Puts the first of `values` there that the API server takes; null takes the field away. False: none changed it.
async fn rival(
    theirs: &Api<DynamicObject>,
    name: &str,
    path: &Path,
    before: &Value,
    values: Vec<Value>,
) -> bool {
    for value in values {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // What the operator has just put back may be on its way.
            let Some(live) = theirs.get_opt(name).await.unwrap() else {
                continue;
            };
            let mut object = serde_json::to_value(live).unwrap();
            object["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("managedFields");
            if !put(&mut object, path, &value) {
                break;
            }
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            match theirs.replace(name, &PostParams::default(), &object).await {
                Ok(after) => {
                    let after = serde_json::to_value(after).unwrap();
                    if find(&after, path) != Some(before) {
                        return true;
                    }
                    break;
                }
                Err(kube::Error::Api(status)) if status.is_conflict() => {
                    assert!(Instant::now() < deadline, "{name} does not come to rest");
                }
                Err(_) => break,
            }
        }
    }
    false
}

async fn comes_back(theirs: &Api<DynamicObject>, name: &str, path: &Path, wanted: &Value, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let live = theirs.get_opt(name).await.unwrap();
        let live = live.map(|live| serde_json::to_value(live).unwrap());
        let have = live.as_ref().and_then(|live| find(live, path));
        if have.is_some_and(|have| same(have, wanted)) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what} is not put back: {wanted} wanted, {have:?} there"
        );
        sleep(LOOK_AGAIN).await;
    }
}

/// Whether it is what was there. A proxy's document is put back under a higher version, or no proxy would take it.
fn same(have: &Value, wanted: &Value) -> bool {
    let config = |value: &Value| -> Option<Value> {
        let document: Value = serde_json::from_str(value.as_str()?).ok()?;
        document.get("config").cloned()
    };
    have == wanted || config(wanted).is_some() && config(have) == config(wanted)
}

/// Every field that our manager holds.
fn ours(object: &Value) -> Vec<Path> {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let entry = entries
        .iter()
        .find(|entry| entry["manager"] == names::FIELD_MANAGER && entry["operation"] == "Apply");
    let mut paths = Vec::new();
    walk(&entry.unwrap()["fieldsV1"], &mut Vec::new(), &mut paths);
    paths.retain(|path| !text(path).contains("ownerReferences") && find(object, path).is_some());
    assert!(!paths.is_empty(), "{object}");
    paths
}

fn walk(fields: &Value, path: &mut Path, paths: &mut Vec<Path>) {
    for (name, below) in fields.as_object().unwrap() {
        let step = match name.split_once(':') {
            Some(("f", field)) => Step::Field(field.to_owned()),
            Some(("k", keys)) => Step::Item(serde_json::from_str(keys).unwrap()),
            // The item itself, or a value of a set.
            _ => continue,
        };
        // An item's keys are what it is found by; a rival that edits one makes another item.
        if let (Some(Step::Item(keys)), Step::Field(field)) = (path.last(), &step)
            && keys.get(field).is_some()
        {
            continue;
        }
        path.push(step);
        if below.as_object().unwrap().is_empty() {
            paths.push(path.clone());
        } else {
            walk(below, path, paths);
        }
        path.pop();
    }
}

fn find<'a>(object: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, step| match step {
        Step::Field(name) => value.get(name),
        Step::Item(keys) => value.as_array()?.iter().find(|item| has(item, keys)),
    })
}

fn has(item: &Value, keys: &Value) -> bool {
    keys.as_object()
        .unwrap()
        .iter()
        .all(|(key, value)| item[key] == *value)
}

/// Puts a value at the end of a way that is there; false if it is not.
fn put(object: &mut Value, path: &Path, value: &Value) -> bool {
    let (last, way) = path.split_last().unwrap();
    let mut at = object;
    for step in way {
        let next = match step {
            Step::Field(name) => at.get_mut(name),
            Step::Item(keys) => at
                .as_array_mut()
                .and_then(|items| items.iter_mut().find(|item| has(item, keys))),
        };
        let Some(next) = next else { return false };
        at = next;
    }
    match (last, at) {
        (Step::Field(name), Value::Object(fields)) if value.is_null() => fields.remove(name).is_some(),
        (Step::Field(name), Value::Object(fields)) => {
            fields.insert(name.clone(), value.clone());
            true
        }
        (Step::Item(keys), Value::Array(items)) if value.is_null() => {
            items.retain(|item| !has(item, keys));
            true
        }
        _ => false,
    }
}

/// Other values of the same form.
fn edits(value: &Value) -> Vec<Value> {
    match value {
        Value::Bool(it) => vec![json!(!it)],
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or_default();
            vec![json!(number + 1), json!(number - 1)]
        }
        Value::String(text) => {
            let mut all = vec![json!(format!("{text}x")), json!(format!("1{text}"))];
            all.extend(WORDS.iter().filter(|word| *word != text).map(|word| json!(word)));
            all
        }
        Value::Array(items) => {
            let mut fewer = items.clone();
            fewer.pop();
            let mut all = vec![json!(fewer)];
            let first = items.first().map(edits).unwrap_or_default();
            all.extend(first.into_iter().map(|first| {
                let mut items = items.clone();
                items[0] = first;
                json!(items)
            }));
            all
        }
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| edits(value).into_iter().map(move |edit| (name, edit)))
            .map(|(name, edit)| {
                let mut fields = fields.clone();
                fields.insert(name.clone(), edit);
                Value::Object(fields)
            })
            .collect(),
        Value::Null => Vec::new(),
    }
}

fn text(path: &Path) -> String {
    let step = |step: &Step| match step {
        Step::Field(name) => format!(".{name}"),
        Step::Item(keys) => {
            let keys: Vec<String> = keys.as_object().unwrap().values().map(Value::to_string).collect();
            format!("[{}]", keys.join(","))
        }
    };
    path.iter().map(step).collect()
}

fn still() -> Value {
    json!({
        "image": "registry.example/shop:1",
        "imagePullPolicy": "IfNotPresent",
        "imagePullSecrets": [{"name": "registry"}],
        "command": ["/shop"],
        "args": ["--serve", "--loud"],
        "replicas": 0,
        "ports": [{"name": "http", "port": 8080}, {"name": "grpc", "port": 9000, "protocol": "GRPC"}],
        "env": [{"name": "GREETING", "value": "hello"}],
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "bindings": [{"name": "db", "secret": "db", "keys": ["host"]}],
        "dependsOn": [{"microservice": "scaled"}],
        "probes": {"readiness": {"path": "/readyz"}, "liveness": {"path": "/livez"}},
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {"runAsUser": 1000},
        "automountServiceAccountToken": true, "tokenAudiences": ["trellis-saga"],
        "terminationGracePeriod": "40s",
        "podMetadata": {"labels": {"team": "shop"}, "annotations": {"note": "hello"}},
    })
}

fn scaled() -> Value {
    json!({
        "image": "registry.example/shop:1",
        "ports": [{"name": "http", "port": 8080}],
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
        "autoscaling": {"min": 2, "max": 6, "cpu": 70},
    })
}
