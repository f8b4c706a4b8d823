//! Lists of a child that are ours as a whole: pure.
//!
//! Server-side apply merges some lists by key. A rival that edits the key of an item (the number of a Service's port)
//! makes it an item of its own: the next apply puts ours back beside it and cannot take the rival's away. Two ports of one
//! name are then refused, and the child stays broken until a person looks. So in these lists whatever is not wanted
//! goes, by a merge patch of the list, unless the apply itself takes it out, because it was wanted before. A Service's
//! ports and a container's are what the mesh is made of; nobody else has business there.
//!
//! Everywhere else what others add stays theirs: containers, variables, mounts.
//!
//! The patch makes our manager an owner of what it adds by way of an update, too, so a later apply without that item
//! would leave it. It is then an item that is not wanted, and goes the same way.

use serde_json::{Map, Value, json};

const SERVICE_PORT: &[&str] = &["port", "protocol"];
const CONTAINER_PORT: &[&str] = &["containerPort", "protocol"];
const SPREAD: &[&str] = &["topologyKey", "whenUnsatisfiable"];
/// Keys that the API server fills in.
const DEFAULTS: [(&str, &str); 1] = [("protocol", "TCP")];

/// A merge patch that takes away what is not wanted in lists that are ours; None if there is nothing.
pub fn patch(wanted: &Value, live: &Value) -> Option<Value> {
    let mut patch = Map::new();
    if let Some(ports) = ours(&wanted["spec"]["ports"], &live["spec"]["ports"], SERVICE_PORT) {
        patch.insert("ports".to_owned(), ports);
    }
    let (wanted_pod, live_pod) = (
        &wanted["spec"]["template"]["spec"],
        &live["spec"]["template"]["spec"],
    );
    let mut pod = Map::new();
    let spread = "topologySpreadConstraints";
    if let Some(constraints) = ours(&wanted_pod[spread], &live_pod[spread], SPREAD) {
        pod.insert(spread.to_owned(), constraints);
    }
    for list in ["containers", "initContainers"] {
        if let Some(containers) = containers(&wanted_pod[list], &live_pod[list]) {
            pod.insert(list.to_owned(), containers);
        }
    }
    if !pod.is_empty() {
        patch.insert("template".to_owned(), json!({"spec": pod}));
    }
    (!patch.is_empty()).then(|| json!({"spec": patch}))
}

/// The live containers, ours without ports of others; None if none has any.
fn containers(wanted: &Value, live: &Value) -> Option<Value> {
    let mut containers = live.as_array()?.clone();
    let mut changed = false;
    for container in &mut containers {
        let ours_of = wanted
            .as_array()
            .into_iter()
            .flatten()
            .find(|wanted| wanted["name"] == container["name"]);
        if let Some(ports) = ours_of.and_then(|it| ours(&it["ports"], &container["ports"], CONTAINER_PORT)) {
            container["ports"] = ports;
            changed = true;
        }
    }
    changed.then_some(Value::Array(containers))
}

/// The live items that are wanted, as they are, and those that are missing; None if every live item is wanted.
fn ours(wanted: &Value, live: &Value, keys: &[&str]) -> Option<Value> {
    let (wanted, live) = (wanted.as_array()?, live.as_array()?);
    let (kept, foreign): (Vec<&Value>, Vec<&Value>) = live
        .iter()
        .partition(|live| wanted.iter().any(|wanted| same(wanted, live, keys)));
    if foreign.is_empty() {
        return None;
    }
    let missing = wanted
        .iter()
        .filter(|wanted| !kept.iter().any(|live| same(wanted, live, keys)));
    Some(kept.iter().copied().chain(missing).cloned().collect())
}

fn same(wanted: &Value, live: &Value, keys: &[&str]) -> bool {
    keys.iter().all(|key| value(wanted, key) == value(live, key))
}

fn value(item: &Value, key: &str) -> Value {
    let default = DEFAULTS.iter().find(|(name, _)| *name == key);
    match (&item[key], default) {
        (Value::Null, Some((_, default))) => (*default).into(),
        (value, _) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_whose_number_a_rival_changed_goes_and_the_others_stay_as_they_are() {
        let wanted = json!({"spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": "t-http"}, {"name": "grpc", "port": 90}]}});
        let live = json!({"spec": {"ports": [
            {"name": "http", "port": 81, "protocol": "TCP", "targetPort": "t-http"},
            {"name": "grpc", "port": 90, "protocol": "TCP", "nodePort": 30090}]}});
        assert_eq!(
            patch(&wanted, &live),
            Some(json!({"spec": {"ports": [
                {"name": "grpc", "port": 90, "protocol": "TCP", "nodePort": 30090},
                {"name": "http", "port": 80, "targetPort": "t-http"}]}}))
        );
    }

    #[test]
    fn what_the_mesh_is_made_of_in_a_pod_is_ours_and_the_rest_is_not() {
        let wanted = json!({"spec": {"template": {"spec": {
            "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}],
            "topologySpreadConstraints": [{"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        }}}});
        let injected = json!({"name": "injected", "ports": [{"containerPort": 1}]});
        let env = json!([{"name": "THEIRS"}]);
        let live = json!({"spec": {"template": {"spec": {
            "containers": [
                {"name": "app", "env": env, "ports": [
                    {"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"containerPort": 9}]},
                injected],
            "topologySpreadConstraints": [
                {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
                {"topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}],
        }}}});
        assert_eq!(
            patch(&wanted, &live),
            Some(json!({"spec": {"template": {"spec": {
                "containers": [
                    {"name": "app", "env": env, "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]},
                    injected],
                "topologySpreadConstraints": [{"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
            }}}}))
        );
    }

    #[test]
    fn nothing_is_patched_where_nothing_is_foreign() {
        let wanted = json!({"spec": {"ports": [{"port": 80}, {"port": 90}]}});
        assert_eq!(
            patch(
                &wanted,
                &json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}})
            ),
            None
        );
        assert_eq!(patch(&wanted, &json!({"spec": {}})), None);
        assert_eq!(
            patch(&json!({"data": {}}), &json!({"data": {"ports": [1]}})),
            None
        );
    }
}
