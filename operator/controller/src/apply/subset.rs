//! Whether a live object already has everything that is wanted of it: pure.
//!
//! The digest annotation says what was applied last; it says nothing of what a rival did since. So the wanted object is
//! held against the live one, field by field. The API server adds to an object and respells it, which must not look
//! like a rival's work:
//! - fields that are not wanted are not looked at (defaults, `clusterIP`, status);
//! - items of a list with a merge key are found by their key, whatever stands beside them; other lists are atomic, of
//!   the same length, and compared item by item (an item may have got defaults);
//! - quantities are equal by value and unit (`0.5` is `500m`);
//! - null, `{}` and `[]` are often dropped, so they are wanted of nobody.
//!
//! Caveat: a normalisation that is not listed here makes an object look changed for ever. The Applier notices that the
//! API server sees no change and remembers it, so that costs one request after a restart and never a loop.

use serde_json::{Map, Value};
use trellis_api::Quantity;

/// Keys of the lists that the API server merges by key, by the name of the list's field (`x-kubernetes-list-map-keys`
/// of the built-in kinds). Ports are keyed by number and protocol there; ours all have names, which are as unique.
const MERGE_KEYS: [(&str, &[&str]); 12] = [
    ("containers", &["name"]),
    ("env", &["name"]),
    ("hostAliases", &["ip"]),
    ("imagePullSecrets", &["name"]),
    ("initContainers", &["name"]),
    ("ownerReferences", &["uid"]),
    ("ports", &["name"]),
    ("secrets", &["name"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("volumeDevices", &["devicePath"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

/// Fields whose values are quantities, or maps of them.
const QUANTITIES: [&str; 6] = [
    "averageValue",
    "divisor",
    "limits",
    "requests",
    "sizeLimit",
    "storage",
];

/// Whether `live` has everything that `wanted` asks for; otherwise the path of the first field that differs.
pub fn difference(wanted: &Value, live: &Value) -> Option<String> {
    let mut path = Vec::new();
    (!covers(wanted, Some(live), "", &mut path)).then(|| {
        path.reverse();
        path.join(".")
    })
}

/// `field` is the name of the nearest enclosing field. On a difference its path is left in `path`, innermost first.
fn covers(wanted: &Value, live: Option<&Value>, field: &str, path: &mut Vec<String>) -> bool {
    match (wanted, live) {
        (Value::Null, _) => true,
        (Value::Object(wanted), live) if wanted.is_empty() => live.is_none_or(Value::is_object),
        (Value::Array(wanted), live) if wanted.is_empty() => {
            live.is_none_or(|live| live.as_array().is_some_and(Vec::is_empty))
        }
        (Value::Object(wanted), Some(Value::Object(live))) => object(wanted, live, field, path),
        (Value::Array(wanted), Some(Value::Array(live))) => list(wanted, live, field, path),
        (wanted, Some(live)) => {
            wanted == live || (QUANTITIES.contains(&field) && same_quantity(wanted, live))
        }
        (_, None) => false,
    }
}

fn object(
    wanted: &Map<String, Value>,
    live: &Map<String, Value>,
    field: &str,
    path: &mut Vec<String>,
) -> bool {
    wanted.iter().all(|(name, value)| {
        // A map of quantities (`requests: {cpu: ..}`) keeps its own name for its values.
        let field = if QUANTITIES.contains(&field) { field } else { name };
        let covered = covers(value, live.get(name), field, path);
        if !covered {
            path.push(name.clone());
        }
        covered
    })
}

fn list(wanted: &[Value], live: &[Value], field: &str, path: &mut Vec<String>) -> bool {
    let keys = MERGE_KEYS
        .iter()
        .find(|(name, _)| *name == field)
        .map(|(_, keys)| *keys)
        .filter(|keys| {
            wanted
                .iter()
                .all(|item| keys.iter().all(|key| item.get(key).is_some()))
        });
    let Some(keys) = keys else {
        let same_length = wanted.len() == live.len();
        return same_length
            && wanted.iter().zip(live).enumerate().all(|(i, (wanted, live))| {
                let covered = covers(wanted, Some(live), field, path);
                if !covered {
                    path.push(i.to_string());
                }
                covered
            });
    };
    wanted.iter().all(|item| {
        let found = live
            .iter()
            .find(|live| keys.iter().all(|key| live.get(key) == item.get(key)));
        let covered = covers(item, found, field, path);
        if !covered {
            let key: Vec<String> = keys.iter().map(|key| item[key].to_string()).collect();
            path.push(key.join(","));
        }
        covered
    })
}

fn same_quantity(wanted: &Value, live: &Value) -> bool {
    let canonical = |value: &Value| {
        serde_json::from_value::<Quantity>(value.clone())
            .ok()
            .filter(|quantity| quantity.amount().is_ok())
            .map(|quantity| quantity.canonical())
    };
    canonical(wanted).is_some_and(|wanted| Some(wanted) == canonical(live))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn differs(wanted: Value, live: Value) -> String {
        difference(&wanted, &live).unwrap_or_default()
    }

    #[test]
    fn defaults_added_by_the_api_server_are_no_difference() {
        let wanted = json!({"spec": {"template": {"spec": {
            "containers": [{"name": "app", "image": "user:1", "ports": [{"name": "http", "containerPort": 8080}]}],
            "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "token", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "audience": "trellis-config"}}]}}],
        }}}});
        let live = json!({"spec": {"replicas": 1, "template": {"spec": {
            "restartPolicy": "Always",
            "containers": [{"name": "app", "image": "user:1", "terminationMessagePath": "/dev/termination-log",
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}],
            "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "token", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"path": "token", "audience": "trellis-config", "expirationSeconds": 3600}}]}}],
        }}}});
        assert_eq!(differs(wanted, live), "");
    }

    #[test]
    fn a_rivals_edit_is_found_with_its_path() {
        let wanted =
            json!({"spec": {"containers": [{"name": "app", "image": "user:1", "args": ["a", "b"]}]}});
        let live = json!({"spec": {"containers": [{"name": "app", "image": "evil:1", "args": ["a", "b"]}]}});
        assert_eq!(differs(wanted.clone(), live), "spec.containers.\"app\".image");
        let live = json!({"spec": {"containers": [{"name": "app", "image": "user:1", "args": ["a"]}]}});
        assert_eq!(differs(wanted.clone(), live), "spec.containers.\"app\".args");
        let live = json!({"spec": {"containers": [{"name": "other", "image": "user:1"}]}});
        assert_eq!(differs(wanted, live), "spec.containers.\"app\"");
    }

    #[test]
    fn what_a_rival_adds_beside_ours_is_left_alone() {
        let wanted = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [
            {"name": "app", "env": [{"name": "A", "value": "1"}]}]}});
        let live = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [
            {"name": "injected"}, {"name": "app", "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]}]}});
        assert_eq!(differs(wanted, live), "");
    }

    #[test]
    fn quantities_are_equal_by_value() {
        let wanted = json!({"resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}}, "emptyDir": {"sizeLimit": "1.5Gi"}});
        let live = json!({"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}, "emptyDir": {"sizeLimit": "1536Mi"}});
        assert_eq!(differs(wanted.clone(), live), "");
        let live = json!({"resources": {"requests": {"cpu": "600m", "memory": "1Gi"}}, "emptyDir": {"sizeLimit": "1536Mi"}});
        assert_eq!(differs(wanted, live), "resources.requests.cpu");
    }

    #[test]
    fn equal_looking_texts_elsewhere_are_no_quantities() {
        let wanted = json!({"data": {"size": "0.5"}});
        assert_eq!(differs(wanted, json!({"data": {"size": "500m"}})), "data.size");
    }

    #[test]
    fn what_is_empty_may_be_dropped_but_not_filled() {
        let wanted = json!({"a": {}, "b": [], "c": null});
        assert_eq!(differs(wanted.clone(), json!({})), "");
        assert_eq!(differs(wanted.clone(), json!({"a": {}, "b": [], "c": null})), "");
        assert_eq!(differs(wanted.clone(), json!({"b": ["x"]})), "b");
        assert_eq!(differs(wanted, json!({"a": "text"})), "a");
    }

    #[test]
    fn an_atomic_list_has_an_order_and_a_length() {
        let wanted = json!({"args": ["a", "b"]});
        assert_eq!(differs(wanted.clone(), json!({"args": ["b", "a"]})), "args.0");
        assert_eq!(differs(wanted, json!({"args": ["a", "b", "c"]})), "args");
    }
}
