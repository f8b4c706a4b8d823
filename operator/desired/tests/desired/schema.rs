//! What the API server refuses by the schema of the CustomResourceDefinition, `validate` refuses too, at the same field:
//! `trellis check` and `kubectl apply` agree, and an object that is older than a rule shows its fault.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use trellis_api::{Microservice, RateLimitPolicy, Saga};
use trellis_operator_desired::{
    microservice::{self, Fetched, Settings},
    rate_limit, saga,
};

/// A service and a gateway in which every field with a rule has a value.
const SERVICE: &str = r#"{
  "image": "order:1", "imagePullPolicy": "Always", "imagePullSecrets": [{"name": "a"}], "command": ["a"], "args": ["b"],
  "ports": [{"name": "http", "port": 8080, "protocol": "HTTP", "bulkhead": {"maxConcurrent": 5, "maxQueue": 5, "queueTimeout": "1s"}}],
  "replicas": 2,
  "env": [{"name": "A", "value": "b"}],
  "bindings": [{"name": "db", "secret": "db", "keys": ["host"]}],
  "dependsOn": [{"microservice": "user", "namespace": "crm", "port": "http"}],
  "probes": {"readiness": {"path": "/readyz", "port": 9090, "period": "5s", "timeout": "1s", "failures": 3, "initialDelay": "1s"}},
  "resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "100m"}},
  "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
  "automountServiceAccountToken": true, "tokenAudiences": ["trellis-saga"],
  "terminationGracePeriod": "30s", "preStopDelay": "5s",
  "podMetadata": {"labels": {"team": "a"}, "annotations": {"a": "b"}},
  "exposure": "Gateway",
  "routes": [{"name": "orders", "path": "/orders", "methods": ["GET"], "port": "http"}]
}"#;
const AUTOSCALED: &str = r#"{
  "image": "order:1", "autoscaling": {"min": 1, "max": 2, "cpu": 50}, "resources": {"requests": {"cpu": "50m"}}
}"#;
const GATEWAY: &str = r#"{
  "gateway": {"listeners": [{"name": "http", "port": 80, "protocol": "HTTP", "nodePort": 30080}], "routes": {"fromNamespaces": "All"}, "pathByService": true}
}"#;

/// Policies in which every field with a rule has a value.
const POLICY: &str = r#"{
  "targetRefs": [{"group": "trellis.dev", "kind": "Microservice", "name": "order", "sectionName": "orders"}],
  "limits": {
    "bucket": {"scope": "Pod", "algorithm": "TokenBucket", "rates": [{"limit": 1, "window": "1s", "burst": 5}],
      "counters": ["source.address"], "when": ["true"], "cost": "1", "mode": "Shadow", "headers": "None",
      "response": {"status": 503, "body": "later"}},
    "of-all-pods": {"scope": "Service", "onQuotaLoss": "Closed"},
    "under-way": {"concurrency": 5}
  },
  "mode": "Enforce", "headers": "Ietf", "response": {"status": 503, "body": "later"}, "onQuotaLoss": "Share"
}"#;

/// A saga in which every field with a rule has a value.
const SAGA: &str = r#"{
  "timeout": "10m", "retention": {"completed": "7d", "compensated": "30d"}, "concurrency": 10,
  "onStuck": {"event": true, "webhook": {"url": "https://alerts.example/sagas"}},
  "input": {"schema": {"type": "object", "required": ["lines"], "properties": {"lines": {"type": "array", "items": {"type": "string"}}}}},
  "secret": ["input.lines"],
  "steps": [
    {"name": "look-up", "action": {"call": {"microservice": "stock", "method": "GET", "path": "/stock"}}},
    {"name": "pick", "after": ["look-up"], "when": "true", "forEach": {"items": "input.lines", "concurrency": 2, "maxItems": 10},
      "kind": "Compensatable", "timeout": "5s", "output": {"schema": {"type": "object"}},
      "retry": {"initial": "1s", "factor": 2, "maxInterval": "10s", "jitter": 10, "maxElapsed": "1m", "maxAttempts": 9, "retryOn": ["Timeout"]},
      "action": {"call": {"microservice": "stock", "port": "http", "method": "POST", "path": "/picks"}, "headers": {"x-a": "b"}, "body": {"sku": "${item}"},
        "timeout": "5s", "retry": {"factor": 1.5, "jitter": 1, "maxAttempts": 2, "retryOn": ["Unreachable"]}},
      "compensation": {"call": {"microservice": "stock", "method": "DELETE", "path": "/picks"}}},
    {"name": "charge", "after": ["pick"], "kind": "Pivot", "action": {"call": {"microservice": "payment", "method": "POST", "path": "/charges"}}}
  ]
}"#;

#[test]
fn validate_refuses_whatever_the_schema_of_a_microservice_refuses() {
    let rules = try_rules(0, &[SERVICE, AUTOSCALED, GATEWAY], faults);
    assert!(rules > 60, "only {rules} rules were tried");
}

#[test]
fn problems_has_whatever_the_schema_of_a_policy_refuses() {
    let rules = try_rules(1, &[POLICY], faults_of_policy);
    assert!(rules > 25, "only {rules} rules were tried");
}

#[test]
fn compile_refuses_whatever_the_schema_of_a_saga_refuses() {
    let rules = try_rules(2, &[SAGA], faults_of_saga);
    assert!(rules > 60, "only {rules} rules were tried");
}

/// Breaks every rule of a kind's schema, one after the other; answers how many there are.
fn try_rules(
    kind: usize,
    samples: &[&str],
    faults: fn(&Value) -> Result<Vec<String>, serde_json::Error>,
) -> usize {
    let crd = trellis_api::crds().unwrap().remove(kind);
    let crd = serde_json::to_value(crd).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut rules = 0;
    for text in samples {
        let spec: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            faults(&spec).unwrap(),
            Vec::<String>::new(),
            "the sample itself is valid"
        );
        walk(schema, &spec, "", "spec", &mut |pointer, path, bad, rule| {
            rules += 1;
            let mut changed = spec.clone();
            *changed.pointer_mut(pointer).unwrap() = bad.clone();
            // What cannot even be read is refused before.
            let Ok(fields) = faults(&changed) else { return };
            // A key of a map may be written either way.
            let dotted = |path: &str| path.replace('[', ".").replace(']', "");
            let place = dotted(path);
            assert!(
                fields
                    .iter()
                    .map(|field| dotted(field))
                    .any(|field| field.starts_with(&place) || place.starts_with(&field)),
                "{path}: {rule}: {bad} passes validate, which has {fields:?}"
            );
        });
    }
    rules
}

/// Calls back with a bad value for every rule of the schema at every place of the sample.
fn walk(
    schema: &Value,
    value: &Value,
    pointer: &str,
    path: &str,
    visit: &mut impl FnMut(&str, &str, &Value, &str),
) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    let number = |name: &str| schema[name].as_f64();
    let size = |name: &str| schema[name].as_u64().and_then(|size| usize::try_from(size).ok());
    if let Some(minimum) = number("minimum") {
        visit(pointer, path, &json!(minimum as i64 - 1), "minimum");
    }
    if let Some(maximum) = number("maximum") {
        visit(pointer, path, &json!(maximum as i64 + 1), "maximum");
    }
    if let Some(length) = size("maxLength") {
        visit(pointer, path, &json!("a".repeat(length + 1)), "maxLength");
    }
    if size("minLength").is_some() {
        visit(pointer, path, &json!(""), "minLength");
    }
    if schema["pattern"].is_string() {
        for bad in ["A_B", "-a", "a b", "?"] {
            visit(pointer, path, &json!(bad), "pattern");
        }
    }
    if let (Some(most), Some(items)) = (size("maxItems"), value.as_array()) {
        visit(
            pointer,
            path,
            &json!(vec![items[0].clone(); most + 1]),
            "maxItems",
        );
    }
    if size("minProperties").is_some() {
        visit(pointer, path, &json!({}), "minProperties");
    }
    if let (Some(most), Some(map)) = (size("maxProperties"), value.as_object()) {
        let first = map.values().next().unwrap();
        let many: serde_json::Map<String, Value> =
            (0..=most).map(|i| (format!("key-{i}"), first.clone())).collect();
        visit(pointer, path, &json!(many), "maxProperties");
    }
    if size("minItems").is_some() {
        visit(pointer, path, &json!([]), "minItems");
    }
    if schema["x-kubernetes-list-type"] == "map"
        && let Some(items) = value.as_array()
    {
        visit(pointer, path, &json!([items[0], items[0]]), "duplicate key");
    }
    match value {
        Value::Object(map) => {
            for (key, child) in map {
                let of_child = match &schema["properties"][key] {
                    Value::Null => &schema["additionalProperties"],
                    of_child => of_child,
                };
                assert!(of_child.is_object(), "{path}.{key} is not in the schema");
                let key_pointer = key.replace('~', "~0").replace('/', "~1");
                walk(
                    of_child,
                    child,
                    &format!("{pointer}/{key_pointer}"),
                    &format!("{path}.{key}"),
                    visit,
                );
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                walk(
                    &schema["items"],
                    item,
                    &format!("{pointer}/{i}"),
                    &format!("{path}[{i}]"),
                    visit,
                );
            }
        }
        _ => {}
    }
}

fn faults(spec: &Value) -> Result<Vec<String>, serde_json::Error> {
    let cr: Microservice = serde_json::from_value(json!({
        "apiVersion": "trellis.dev/v1alpha1",
        "kind": "Microservice",
        "metadata": {"name": "order", "namespace": "shop"},
        "spec": spec,
    }))?;
    let settings = Settings {
        proxy_image: String::new(),
        config_stream_address: String::new(),
        quota_address: String::new(),
        saga_engine: String::new(),
        namespace: String::new(),
        gateway_host: None,
        telemetry_endpoint: None,
        trusted_gateway_namespaces: BTreeSet::new(),
    };
    let validation = microservice::validate(&cr, &Fetched::default(), &settings);
    Ok(validation
        .problems
        .into_iter()
        .filter(|problem| problem.severity == trellis_api::Severity::Error)
        .map(|problem| problem.field)
        .collect())
}

fn faults_of_policy(spec: &Value) -> Result<Vec<String>, serde_json::Error> {
    let policy: RateLimitPolicy = serde_json::from_value(json!({
        "apiVersion": "trellis.dev/v1alpha1",
        "kind": "RateLimitPolicy",
        "metadata": {"name": "limits", "namespace": "shop"},
        "spec": spec,
    }))?;
    let problems = rate_limit::problems(&policy);
    Ok(problems.into_iter().map(|problem| problem.field).collect())
}

fn faults_of_saga(spec: &Value) -> Result<Vec<String>, serde_json::Error> {
    let saga: Saga = serde_json::from_value(json!({
        "apiVersion": "trellis.dev/v1alpha1",
        "kind": "Saga",
        "metadata": {"name": "place-order", "namespace": "shop"},
        "spec": spec,
    }))?;
    let problems = saga::compile(&saga).err().unwrap_or_default();
    Ok(problems.into_iter().map(|problem| problem.field).collect())
}
