//! Which Microservices are due when something changes: pure mappings from changes to keys.
//!
//! | change of | makes due |
//! |---|---|
//! | a child | the Microservice that owns it, and the one that did |
//! | a pod | the Microservice on its label |
//! | a rate limit policy | the Microservices that it names, or named; all of its namespace if it names that; not for its status |
//! | a Microservice | the saga engine, if what others see of it differs; itself, if what a pass reads of it differs; those that depend on it, the gateways that serve it, and the owners of routes beside it, if what *they* read of it differs |
//!
//! The last rule keeps a new image of one service from visiting every gateway. Own writes of children are no changes at
//! all (see `cache`). The answer to an own status is one for others, and for the object itself if it shows an edit.

use std::{collections::BTreeSet, ops::Deref, sync::Arc};

use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod, policy::v1::PodDisruptionBudget,
};
use kube::Resource;
use trellis_api::{Microservice, RateLimitPolicy};
use trellis_operator_desired::{microservice as decisions, rate_limit};

use crate::{cache::Change, key::Key, observed::Observed, queue::Cause};

/// Microservices that own, or did own, a child.
pub fn of_child<K: Resource>(change: &Change<K>) -> Vec<Key> {
    let mut keys = Vec::new();
    if let Change::Set {
        before: Some(before), ..
    } = change
    {
        keys.extend(owner(&**before));
    }
    keys.extend(owner(&**change.object()));
    keys.dedup();
    keys
}

/// As [`of_child`], but without the figures that the autoscaler's controller writes every 15 s.
pub fn of_autoscaler(change: &Change<HorizontalPodAutoscaler>) -> Vec<Key> {
    if let Change::Set {
        before: Some(before),
        after,
    } = change
        && before.spec == after.spec
        && same_metadata(&**before, &**after)
        && said(before) == said(after)
    {
        return Vec::new();
    }
    of_child(change)
}

/// As [`of_child`], but without the status, which is written with every pod and which nobody reads.
pub fn of_disruption_budget(change: &Change<PodDisruptionBudget>) -> Vec<Key> {
    if let Change::Set {
        before: Some(before),
        after,
    } = change
        && before.spec == after.spec
        && same_metadata(&**before, &**after)
    {
        return Vec::new();
    }
    of_child(change)
}

/// The Microservice that a pod runs.
pub fn of_pod(change: &Change<Pod>) -> Option<Key> {
    Key::of_microservice(&**change.object())
}

/// Microservices that are due because one of them changed. `all` is asked only if others may be concerned.
pub fn of_microservice<I>(
    change: &Change<Observed>,
    engine: &Key,
    all: impl FnOnce() -> I,
) -> Vec<(Key, Cause)>
where
    I: IntoIterator<Item: Deref<Target = Microservice>>,
{
    let key = Key::of(&**change.object());
    let (before, after) = match change {
        Change::Set { before, after } => (before.as_deref(), Some(&**after)),
        Change::Removed(object) => (Some(&**object), None),
    };
    let mut due = Vec::new();
    let own = own_cause(before, after);
    if let Some(cause) = own {
        due.push((key.clone(), cause));
    }
    // What a status tells others was decided by a pass, and comes in bursts as passes do.
    let others = match own {
        Some(Cause::User) => Cause::Neighbour,
        _ => Cause::Event,
    };
    let (before, after) = (
        before.and_then(Observed::readable),
        after.and_then(Observed::readable),
    );
    let seen = |object: Option<&Arc<Microservice>>| object.map(|object| decisions::seen(object));
    if seen(before) != seen(after) {
        let routed = [before, after]
            .into_iter()
            .flatten()
            .any(|object| object.spec.gateway.is_some() || !object.spec.routes.is_empty());
        let concerned = |reader: &Microservice| {
            [before, after]
                .into_iter()
                .flatten()
                .any(|changed| concerns(reader, changed, routed))
        };
        due.extend(
            all()
                .into_iter()
                .filter(|reader| concerned(reader) || Key::of(&**reader) == *engine)
                .map(|reader| (Key::of(&*reader), others))
                .filter(|(reader, _)| *reader != key),
        );
    }
    due
}

/// Microservices that are due because of the answer to an own status: the object itself only if somebody edited it just
/// before. Its status is what was just written and no reason to look again.
pub fn of_own_status<I>(change: &Change<Observed>, engine: &Key, all: impl FnOnce() -> I) -> Vec<(Key, Cause)>
where
    I: IntoIterator<Item: Deref<Target = Microservice>>,
{
    let own = Key::of(&**change.object());
    let mut due = of_microservice(change, engine, all);
    due.retain(|(key, cause)| *key != own || *cause == Cause::User);
    due
}

/// Microservices that are due because a rate limit policy changed. `all` is asked only if any may be.
pub fn of_rate_limit_policy<I>(
    change: &Change<Observed<RateLimitPolicy>>,
    all: impl FnOnce() -> I,
) -> Vec<(Key, Cause)>
where
    I: IntoIterator<Item: Deref<Target = Microservice>>,
{
    let (before, after) = match change {
        Change::Set { before, after } => (before.as_deref().and_then(Observed::readable), after.readable()),
        Change::Removed(object) => (object.readable(), None),
    };
    let policies: Vec<&Arc<RateLimitPolicy>> = [before, after].into_iter().flatten().collect();
    if let [before, after] = policies[..]
        && before.spec == after.spec
        && before.metadata.uid == after.metadata.uid
        && before.metadata.deletion_timestamp == after.metadata.deletion_timestamp
    {
        return Vec::new();
    }
    let Some(namespace) = policies.first().map(|policy| &policy.metadata.namespace) else {
        return Vec::new();
    };
    let named: Option<BTreeSet<String>> = policies
        .iter()
        .map(|policy| rate_limit::concerned(policy))
        .try_fold(BTreeSet::new(), |named, more| Some(&named | &more?));
    let concerned = |reader: &Microservice| {
        let name = reader.metadata.name.as_deref().unwrap_or_default();
        reader.metadata.namespace == *namespace && named.as_ref().is_none_or(|named| named.contains(name))
    };
    all()
        .into_iter()
        .filter(|reader| concerned(reader))
        .map(|reader| (Key::of(&*reader), Cause::Neighbour))
        .collect()
}

/// Whether `reader` reads what others see of `changed`. `routed` says whether that is about routes.
fn concerns(reader: &Microservice, changed: &Microservice, routed: bool) -> bool {
    let interests = decisions::interests(reader);
    interests.by_name(changed)
        || interests.by_gateway(changed)
        // A gateway serves every Microservice by its name; an owner of routes is concerned only by other routes.
        || (reader.spec.gateway.is_some() || routed) && interests.by_routes(changed)
}

/// Why the object itself is due; None if nothing that a pass reads of it changed.
fn own_cause(before: Option<&Observed>, after: Option<&Observed>) -> Option<Cause> {
    let (Some(before), Some(after)) = (before, after) else {
        return Some(Cause::User);
    };
    let (old, new) = (before.meta(), after.meta());
    let same = old.uid == new.uid
        && old.generation == new.generation
        && old.labels == new.labels
        && old.annotations == new.annotations
        && old.deletion_timestamp == new.deletion_timestamp;
    if !same {
        return Some(Cause::User);
    }
    // Own statuses are in the cache before their watch event comes; a status that differs is a rival's.
    let status = |observed: &Observed| observed.readable().and_then(|object| object.status.clone());
    (status(before) != status(after)).then_some(Cause::Event)
}

/// Whether the metadata that we write, or that ends an object, is the same.
fn same_metadata<K: Resource>(before: &K, after: &K) -> bool {
    let (before, after) = (before.meta(), after.meta());
    before.labels == after.labels
        && before.annotations == after.annotations
        && before.owner_references == after.owner_references
        && before.deletion_timestamp == after.deletion_timestamp
}

/// What an autoscaler says of itself, without figures and times.
fn said(object: &HorizontalPodAutoscaler) -> Vec<(&str, &str, Option<&str>)> {
    let conditions = object
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .map(|condition| (&*condition.type_, &*condition.status, condition.reason.as_deref()))
        .collect()
}

fn owner<K: Resource>(object: &K) -> Option<Key> {
    let meta = object.meta();
    let owner = meta
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true) && owner.kind == Microservice::kind(&()))?;
    Some(Key::new(meta.namespace.clone()?, owner.name.clone()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::{Value, json};

    use super::*;

    fn engine() -> Key {
        Key::new("trellis-system", "trellis-saga")
    }

    fn microservice(name: &str, generation: i64, spec: Value) -> Microservice {
        let mut object: Microservice = serde_json::from_value(json!({
            "apiVersion": "trellis.dev/v1alpha1",
            "kind": "Microservice",
            "metadata": {"namespace": "shop", "name": name, "uid": name, "generation": generation},
            "spec": spec,
        }))
        .unwrap();
        object.metadata.resource_version = Some(generation.to_string());
        object
    }

    fn change(before: Option<&Microservice>, after: Option<&Microservice>) -> Change<Observed> {
        let observed = |object: &Microservice| Arc::new(Observed::from(object.clone()));
        match (before, after) {
            (Some(before), None) => Change::Removed(observed(before)),
            (before, after) => Change::Set {
                before: before.map(observed),
                after: observed(after.unwrap()),
            },
        }
    }

    fn due(before: Option<&Microservice>, after: Option<&Microservice>, all: &[Microservice]) -> Vec<String> {
        of_microservice(&change(before, after), &engine(), || all)
            .into_iter()
            .map(|(key, cause)| format!("{} {cause:?}", key.name))
            .collect()
    }

    fn shop() -> [Microservice; 4] {
        [
            microservice(
                "user",
                1,
                json!({"image": "user:1", "ports": [{"name": "http", "port": 80}]}),
            ),
            microservice(
                "order",
                1,
                json!({
                    "image": "order:1", "ports": [{"name": "http", "port": 80}],
                    "dependsOn": [{"microservice": "user"}],
                    "routes": [{"name": "orders", "path": "/orders"}],
                }),
            ),
            microservice(
                "product",
                1,
                json!({"image": "product:1", "ports": [{"name": "http", "port": 80}]}),
            ),
            microservice(
                "gateway",
                1,
                json!({"gateway": {"listeners": [{"name": "http", "port": 80}]}}),
            ),
        ]
    }

    #[test]
    fn a_new_image_concerns_nobody_else() {
        let all = shop();
        let mut after = all[0].clone();
        after.metadata.generation = Some(2);
        after.spec.image = Some("user:2".to_owned());
        assert_eq!(due(Some(&all[0]), Some(&after), &all), ["user User"]);
    }

    #[test]
    fn a_new_port_concerns_dependents_and_gateways() {
        let all = shop();
        let mut after = all[0].clone();
        after.metadata.generation = Some(2);
        after.spec.ports[0].name = "web".to_owned();
        let concerned = due(Some(&all[0]), Some(&after), &all);
        assert_eq!(concerned, ["user User", "order Neighbour", "gateway Neighbour"]);
        assert_eq!(due(Some(&all[0]), None, &all), concerned, "and so does its end");
    }

    #[test]
    fn a_gateway_concerns_those_that_it_serves() {
        let all = shop();
        let served = [
            "gateway User",
            "user Neighbour",
            "order Neighbour",
            "product Neighbour",
        ];
        assert_eq!(due(None, Some(&all[3]), &all), served);
        let mut elsewhere = all[3].clone();
        elsewhere.metadata.namespace = Some("other".to_owned());
        assert_eq!(
            due(None, Some(&elsewhere), &all),
            ["gateway User", "order Neighbour"],
            "who is served by name only is not served from there"
        );
    }

    #[test]
    fn a_status_by_somebody_else_is_looked_at_and_a_heartbeat_in_metadata_is_not() {
        let all = shop();
        let mut after = all[0].clone();
        after.metadata.resource_version = Some("9".to_owned());
        assert!(due(Some(&all[0]), Some(&after), &all).is_empty());
        after.status = Some(Default::default());
        assert_eq!(due(Some(&all[0]), Some(&after), &all), ["user Event"]);
    }

    #[test]
    fn an_edit_that_comes_with_the_answer_to_an_own_status_is_not_lost() {
        let all = shop();
        let mut after = all[0].clone();
        after.status = Some(Default::default());
        let answered = |after: &Microservice| {
            let due = of_own_status(&change(Some(&all[0]), Some(after)), &engine(), || &all);
            due.into_iter()
                .map(|(key, cause)| format!("{} {cause:?}", key.name))
                .collect::<Vec<_>>()
        };
        assert!(
            answered(&after).is_empty(),
            "an own status is no reason to look again"
        );
        after.metadata.generation = Some(2);
        assert_eq!(answered(&after), ["user User"]);
    }

    #[test]
    fn a_rate_limit_policy_concerns_those_that_it_names_and_named_and_its_status_nobody() {
        let all = shop();
        let policy = |generation: i64, target: &str| -> RateLimitPolicy {
            let (group, kind) = match target {
                "shop" => ("", "Namespace"),
                _ => ("trellis.dev", "Microservice"),
            };
            serde_json::from_value(json!({
                "apiVersion": "trellis.dev/v1alpha1",
                "kind": "RateLimitPolicy",
                "metadata": {"namespace": "shop", "name": "limits", "uid": "u", "generation": generation},
                "spec": {
                    "targetRefs": [{"group": group, "kind": kind, "name": target}],
                    "limits": {"all": {"scope": "Pod"}},
                },
            }))
            .unwrap()
        };
        let observed = |policy: &RateLimitPolicy| Arc::new(Observed::from(policy.clone()));
        let due = |before: Option<&RateLimitPolicy>, after: &RateLimitPolicy| -> Vec<String> {
            let change = Change::Set {
                before: before.map(observed),
                after: observed(after),
            };
            let due = of_rate_limit_policy(&change, || &all);
            due.into_iter().map(|(key, _)| key.name).collect()
        };
        let (order, user) = (policy(1, "order"), policy(2, "user"));
        assert_eq!(due(None, &order), ["order"]);
        assert_eq!(due(Some(&order), &user), ["user", "order"]);
        let everyone = ["user", "order", "product", "gateway"];
        assert_eq!(due(Some(&user), &policy(3, "shop")), everyone);
        let mut told = order.clone();
        told.status = Some(Default::default());
        assert!(due(Some(&order), &told).is_empty());
        let gone = of_rate_limit_policy(&Change::Removed(observed(&order)), || &all);
        assert_eq!(gone, [(Key::new("shop", "order"), Cause::Neighbour)]);
    }

    #[test]
    fn a_sidecar_port_that_moved_concerns_those_who_call_it() {
        let all = shop();
        let mut after = all[0].clone();
        after.status = Some(serde_json::from_value(json!({"inboundPorts": {"http": 15101}})).unwrap());
        let due = of_own_status(&change(Some(&all[0]), Some(&after)), &engine(), || &all);
        let names: Vec<String> = due.into_iter().map(|(key, _)| key.name).collect();
        assert_eq!(names, ["order", "gateway"]);
    }

    #[test]
    fn a_child_that_changes_hands_concerns_both_owners() {
        let child = |owner: &str| -> Arc<ConfigMap> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {
                    "namespace": "shop", "name": "user-proxy",
                    "ownerReferences": [{"apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice",
                        "name": owner, "uid": owner, "controller": true}],
                }}))
                .unwrap(),
            )
        };
        let change = Change::Set {
            before: Some(child("user")),
            after: child("order"),
        };
        let names: Vec<String> = of_child(&change).into_iter().map(|key| key.name).collect();
        assert_eq!(names, ["user", "order"]);
        assert_eq!(of_child(&Change::Removed(child("user"))).len(), 1);
    }
}
