//! What is said of policies.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use serde_json::{Value, json};
use trellis_api::{RateLimitPolicyStatus, condition::PolicyConditionType, rate_limit_policy::OnQuotaLoss};
use trellis_proxy_config::limit::OnLoss;

use super::*;

/// Namespace of the operator.
const OWN: &str = "trellis-system";

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn policy(name: &str, created: &str, target: &Value, limits: &Value) -> Arc<RateLimitPolicy> {
    let policy = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "RateLimitPolicy",
        "metadata": {"namespace": "shop", "name": name, "generation": 2, "creationTimestamp": created},
        "spec": {"targetRefs": [target], "limits": limits},
    });
    Arc::new(serde_json::from_value(policy).unwrap())
}

fn at(name: &str) -> Value {
    json!({"group": "trellis.dev", "kind": "Microservice", "name": name})
}

fn namespace() -> Value {
    json!({"kind": "Namespace", "name": "shop"})
}

fn usual() -> Value {
    json!({"all": {"scope": "Pod"}})
}

/// A Microservice whose document has limits of these policies and generations, and whose proxies say so.
fn target(name: &str, limits: &[(&str, i64)], programmed: &str) -> Target {
    let microservice = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"image": "a:1", "routes": [{"name": "orders", "path": "/orders"}]},
        "status": {
            "proxies": {"document": "digest", "total": 1, "connected": 1, "acknowledged": 1},
            "conditions": [{"type": "Programmed", "status": programmed, "reason": "Any", "message": "",
                "lastTransitionTime": "2026-03-01T11:00:00Z"}],
        },
    });
    let limits: Vec<Value> = limits
        .iter()
        .map(|(policy, generation)| {
            json!({"policy": policy, "generation": generation, "name": "all", "rule": {"concurrency": 1}})
        })
        .collect();
    let document = json!({
        "apiVersion": "proxy.trellis.dev/v1", "version": 1, "digest": "digest",
        "config": {"role": "Sidecar", "identity": {"namespace": "shop", "microservice": name}, "limits": limits},
    });
    Target {
        microservice: Arc::new(serde_json::from_value(microservice).unwrap()),
        document: Some(serde_json::from_value(document).unwrap()),
    }
}

fn condition(status: &RateLimitPolicyStatus, type_: PolicyConditionType) -> &Condition {
    let mut conditions = status.conditions.iter();
    conditions
        .find(|condition| condition.type_ == type_.as_ref())
        .unwrap()
}

/// Status and reason of the five conditions, in the order of their names.
fn said(status: &RateLimitPolicyStatus) -> [(&str, &str); 5] {
    [
        PolicyConditionType::Accepted,
        PolicyConditionType::Conflicted,
        PolicyConditionType::Overridden,
        PolicyConditionType::Enforced,
        PolicyConditionType::Programmed,
    ]
    .map(|type_| {
        let condition = condition(status, type_);
        (&*condition.status, &*condition.reason)
    })
}

fn faults(target: &Value, limits: &Value) -> Vec<String> {
    let found = problems(&policy("limits", "2026-01-01T00:00:00Z", target, limits));
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn a_policy_that_every_proxy_runs_by_is_programmed_and_one_that_they_do_not_know_yet_is_not() {
    let policies = [policy("limits", "2026-01-01T00:00:00Z", &at("order"), &usual())];
    let status = |target: Target| statuses(&policies, &[target], OWN, now()).remove(0);
    let good = [
        ("True", "Accepted"),
        ("False", "NoConflict"),
        ("False", "NotOverridden"),
        ("True", "Enforced"),
    ];
    for (generation, programmed, last) in [
        (2, "True", ("True", "Programmed")),
        (1, "True", ("Unknown", "Pending")),
        (2, "Unknown", ("Unknown", "Pending")),
        (2, "False", ("False", "ProxyRefused")),
    ] {
        let status = status(target("order", &[("limits", generation)], programmed));
        assert_eq!(said(&status)[..4], good);
        assert_eq!(said(&status)[4], last, "generation {generation}, {programmed}");
        assert_eq!(status.observed_generation, Some(2));
    }
}

#[test]
fn a_target_that_is_not_there_is_named() {
    let route =
        json!({"group": "trellis.dev", "kind": "Microservice", "name": "order", "sectionName": "none"});
    for (target_ref, message) in [
        (at("nobody"), "there is no Microservice nobody"),
        (route, "there is no Microservice order with a route none"),
    ] {
        let policies = [policy("limits", "2026-01-01T00:00:00Z", &target_ref, &usual())];
        let status = statuses(&policies, &[target("order", &[], "True")], OWN, now()).remove(0);
        let enforced = condition(&status, PolicyConditionType::Enforced);
        assert_eq!(
            (&*enforced.status, &*enforced.reason),
            ("False", "TargetNotFound")
        );
        assert_eq!(enforced.message, message);
        assert!(status.targets.is_empty());
    }
}

#[test]
fn the_younger_of_two_is_told_who_has_its_target() {
    let policies = [
        policy("a-younger", "2026-02-01T00:00:00Z", &at("order"), &usual()),
        policy("older", "2026-01-01T00:00:00Z", &at("order"), &usual()),
        policy("b-as-young", "2026-02-01T00:00:00Z", &at("order"), &usual()),
    ];
    let status = statuses(&policies, &[target("order", &[("older", 2)], "True")], OWN, now());
    for lost in [&status[0], &status[2]] {
        assert_eq!(said(lost)[1], ("True", "OlderPolicy"));
        assert_eq!(said(lost)[3], ("False", "OlderPolicy"));
        let conflicted = condition(lost, PolicyConditionType::Conflicted);
        assert_eq!(conflicted.message, "order has the older policy older");
        assert_eq!(lost.targets[0].policy, "older");
    }
    assert_eq!(said(&status[1])[3], ("True", "Enforced"));
}

#[test]
fn a_policy_of_the_namespace_gives_way_to_one_of_a_microservice_and_says_so() {
    let policies = [
        policy("of-all", "2026-01-01T00:00:00Z", &namespace(), &usual()),
        policy("of-order", "2026-02-01T00:00:00Z", &at("order"), &usual()),
    ];
    let targets = [
        target("order", &[("of-order", 2)], "True"),
        target("user", &[("of-all", 2)], "True"),
    ];
    let status = statuses(&policies, &targets, OWN, now());
    assert_eq!(said(&status[0])[2], ("True", "OwnPolicy"));
    let overridden = condition(&status[0], PolicyConditionType::Overridden);
    assert_eq!(overridden.message, "have policies of their own: order");
    assert_eq!(
        said(&status[0])[3..],
        [("True", "Enforced"), ("True", "Programmed")]
    );
    assert_eq!(said(&status[1])[3], ("True", "Enforced"));
    let alone = statuses(&policies, &targets[..1], OWN, now());
    assert_eq!(said(&alone[0])[3], ("False", "OwnPolicy"));
}

#[test]
fn an_edit_with_a_fault_is_refused_with_its_position_and_what_was_in_force_still_decides() {
    let limits = json!({"all": {"scope": "Pod", "when": ["request.verb == \"GET\""]}});
    let policies = [
        policy("limits", "2026-01-01T00:00:00Z", &at("order"), &limits),
        policy("younger", "2026-02-01T00:00:00Z", &at("order"), &usual()),
    ];
    let status = statuses(
        &policies,
        &[target("order", &[("limits", 1)], "True")],
        OWN,
        now(),
    );
    assert_eq!(said(&status[0])[0], ("False", "Invalid"));
    assert_eq!(
        said(&status[0])[3..],
        [("True", "Enforced"), ("Unknown", "Pending")]
    );
    let accepted = condition(&status[0], PolicyConditionType::Accepted);
    assert!(
        accepted
            .message
            .starts_with("spec.limits[all].when[0]: line 1, column 9: ")
            && accepted
                .message
                .ends_with("; what was in force before stays in force"),
        "{}",
        accepted.message
    );
    assert_eq!(status[0].problems[0].field, "spec.limits[all].when[0]");
    assert_eq!(said(&status[1])[1], ("True", "OlderPolicy"));

    let status = statuses(&policies, &[target("order", &[], "True")], OWN, now());
    assert_eq!(
        said(&status[0])[1],
        ("False", "NoConflict"),
        "it has no target to lose"
    );
    assert_eq!(said(&status[0])[3], ("False", "Invalid"));
    let accepted = condition(&status[0], PolicyConditionType::Accepted);
    assert!(
        !accepted.message.contains("stays in force"),
        "{}",
        accepted.message
    );
    assert_eq!(said(&status[1])[3], ("True", "Enforced"));
}

#[test]
fn a_status_at_rest_is_the_same_an_hour_later() {
    let mut policies = [policy("limits", "2026-01-01T00:00:00Z", &at("order"), &usual())];
    let targets = [target("order", &[("limits", 2)], "True")];
    let first = statuses(&policies, &targets, OWN, now()).remove(0);
    Arc::make_mut(&mut policies[0]).status = Some(first.clone());
    let later = now() + std::time::Duration::from_secs(3600);
    assert_eq!(statuses(&policies, &targets, OWN, later), [first]);
}

#[test]
fn no_policy_limits_parts_of_trellis_and_its_status_says_so() {
    let system = json!({"kind": "Namespace", "name": "shop"});
    let of_all = policy("of-all", "2026-01-01T00:00:00Z", &system, &usual());
    let of_one = policy("of-quota", "2026-02-01T00:00:00Z", &at("trellis-quota"), &usual());
    let policies = [of_all, of_one];
    let part = target("trellis-quota", &[("of-all", 1)], "True");
    for status in statuses(&policies, std::slice::from_ref(&part), "shop", now()) {
        assert_eq!(said(&status)[0], ("True", "Accepted"));
        assert_eq!(
            said(&status)[3..],
            [("False", "PartOfTrellis"), ("Unknown", "Pending")]
        );
        assert!(status.targets.is_empty());
    }
    let limits = |own: &str| {
        resolve(
            &part.microservice,
            &known(&policies),
            part.document.as_ref(),
            2,
            own,
        )
        .len()
    };
    assert_eq!((limits("shop"), limits(OWN)), (0, 1));
}

#[test]
fn a_limit_counts_over_all_pods_unless_it_says_otherwise_or_cannot() {
    let limits = json!({
        "all": {}, "bucket": {"algorithm": "TokenBucket", "onQuotaLoss": "Open"}, "pod": {"scope": "Pod"},
        "under-way": {"concurrency": 5},
    });
    let mut policy = policy("limits", "2026-01-01T00:00:00Z", &at("order"), &limits);
    Arc::make_mut(&mut policy).spec.on_quota_loss = Some(OnQuotaLoss::Closed);
    let order = target("order", &[], "True");
    let leases: Vec<(String, Option<Lease>)> = resolve(&order.microservice, &known(&[policy]), None, 3, OWN)
        .into_iter()
        .map(|limit| (limit.name, limit.lease))
        .collect();
    let lease = |on_loss| Some(Lease { replicas: 3, on_loss });
    let expected = [
        ("all", lease(OnLoss::Closed)),
        ("bucket", lease(OnLoss::Open)),
        ("pod", None),
        ("under-way", None),
    ];
    assert_eq!(leases, expected.map(|(name, lease)| (name.to_owned(), lease)));
}

#[test]
fn what_stays_in_force_is_shared_by_as_many_pods_as_there_are_now() {
    let faulty = json!({"all": {"when": ["request.verb"]}});
    let policy = policy("limits", "2026-01-01T00:00:00Z", &at("order"), &faulty);
    let mut live = target("order", &[("limits", 1)], "True").document.unwrap();
    let on_loss = OnLoss::Open;
    live.config.limits[0].lease = Some(Lease { replicas: 2, on_loss });
    let order = target("order", &[], "True").microservice;
    let limits = resolve(&order, &known(&[policy]), Some(&live), 7, OWN);
    assert_eq!(limits[0].lease, Some(Lease { replicas: 7, on_loss }));
}

#[test]
fn what_is_in_force_of_policies_that_nobody_can_read_stays_and_no_other_takes_its_place() {
    let other = policy("other", "2026-01-01T00:00:00Z", &at("order"), &usual());
    let live = target("order", &[("limits", 1)], "True").document;
    let order = target("order", &[], "True").microservice;
    let holders = |unknown: Unknown| -> Vec<String> {
        let policies = Policies {
            known: vec![Arc::clone(&other)],
            unknown,
        };
        let limits = resolve(&order, &policies, live.as_ref(), 2, OWN);
        limits.into_iter().map(|limit| limit.policy).collect()
    };
    assert_eq!(holders(Unknown::Nothing), ["other"]);
    let these = |name: &str| Unknown::These([name.to_owned()].into());
    assert_eq!(holders(these("limits")), ["limits"]);
    assert_eq!(holders(these("third")), ["other"]);
    assert_eq!(holders(Unknown::Everything), ["limits"]);
}

fn known(policies: &[Arc<RateLimitPolicy>]) -> Policies {
    Policies {
        known: policies.to_vec(),
        ..Policies::default()
    }
}

#[test]
fn every_fault_of_a_target_has_its_field_and_the_fix() {
    let usual = usual();
    for (target, fault) in [
        (
            json!({"kind": "Microservice", "name": "order"}),
            "spec.targetRefs[0].group: \"\" is not the group of Microservice: write \"trellis.dev\"",
        ),
        (
            json!({"group": "trellis.dev", "kind": "Namespace", "name": "shop"}),
            "spec.targetRefs[0].group: \"trellis.dev\" is not the group of Namespace: write \"\"",
        ),
        (
            json!({"kind": "Namespace", "name": "crm"}),
            "spec.targetRefs[0].name: \"crm\" is not the policy's own namespace: write \"shop\", or make the policy there",
        ),
        (
            json!({"kind": "Namespace", "name": "shop", "sectionName": "orders"}),
            "spec.targetRefs[0].sectionName: a Namespace has no routes: remove it, or name a Microservice",
        ),
    ] {
        assert_eq!(faults(&target, &usual), [fault]);
    }
}

#[test]
fn every_fault_of_a_limit_has_its_field() {
    let rate = |limit: u32, window: &str| json!({"limit": limit, "window": window});
    for (limit, field) in [
        (json!({"scope": "Pod", "onQuotaLoss": "Open"}), "onQuotaLoss"),
        (json!({"concurrency": 5, "onQuotaLoss": "Share"}), "onQuotaLoss"),
        (json!({"algorithm": "Concurrency"}), "concurrency"),
        (json!({"concurrency": 0}), "concurrency"),
        (json!({"concurrency": 5, "scope": "Service"}), "scope"),
        (json!({"concurrency": 5, "rates": [rate(1, "1s")]}), "rates"),
        (
            json!({"concurrency": 5, "algorithm": "FixedWindow", "scope": "Pod"}),
            "concurrency",
        ),
        (
            json!({"scope": "Pod", "rates": [rate(0, "1s")]}),
            "rates[0].limit",
        ),
        (json!({"scope": "Pod", "rates": [rate(1, "0s")]}), "rates"),
        (
            json!({"scope": "Pod", "rates": [{"limit": 1, "window": "1s", "burst": 5}]}),
            "rates",
        ),
        (
            json!({"scope": "Pod", "counters": ["request.headers"]}),
            "counters[0]",
        ),
        (
            json!({"scope": "Pod", "counters": ["identity.name"]}),
            "counters[0]",
        ),
        (
            json!({"scope": "Pod", "when": ["true", "request.method"]}),
            "when[1]",
        ),
        (json!({"scope": "Pod", "cost": "\"much\""}), "cost"),
    ] {
        let found = faults(&at("order"), &json!({"all": limit}));
        assert!(
            found.len() == 1 && found[0].starts_with(&format!("spec.limits[all].{field}: ")),
            "{limit} gives {found:?}"
        );
    }
    for good in [
        json!({}),
        json!({"scope": "Service", "onQuotaLoss": "Closed"}),
        json!({"onQuotaLoss": "Open", "algorithm": "TokenBucket"}),
    ] {
        assert_eq!(faults(&at("order"), &json!({"all": good})), [""; 0], "{good}");
    }
    assert!(faults(&at("order"), &json!({}))[0].starts_with("spec.limits: "));
    assert!(faults(&at("order"), &json!({"A_b": {"scope": "Pod"}}))[0].starts_with("spec.limits[A_b]: "));
}
