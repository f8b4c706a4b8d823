//! What was said before, what proxies say now, and what becomes of it.

use std::marker::PhantomData;

use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::microservice::{Answer, Refused};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// One proxy: `+` runs by the newest document, `o` by an old one, `!` has refused the newest, `-` is not connected.
fn proxy(index: usize, sign: char, waited: Duration) -> Proxy {
    let answer = |in_use: &str, refused: Option<&str>| {
        Some(Answer {
            in_use: in_use.to_owned(),
            refused: refused.map(|digest| Refused {
                version: 7,
                digest: digest.to_owned(),
                fault: "config.listeners[0].port: 15101 is taken".to_owned(),
            }),
        })
    };
    Proxy {
        pod: format!("user-{index}"),
        waited,
        answer: match sign {
            '+' => answer("new", None),
            // A refusal of another document is nobody's business any more.
            'o' => answer("old", Some("older")),
            '!' => answer("old", Some("new")),
            _ => None,
        },
    }
}

fn proxies(signs: &str, waited: u64) -> Vec<Proxy> {
    let waited = Duration::from_secs(waited);
    signs
        .chars()
        .enumerate()
        .map(|(index, sign)| proxy(index, sign, waited))
        .collect()
}

fn resources(document: &str, wanted: usize, ready: usize) -> Resources<Applied> {
    let document = json!({"version": 7, "digest": document, "config": {}}).to_string();
    let read = |value| serde_json::from_value(value).unwrap();
    Resources {
        service_account: Default::default(),
        proxy_config: serde_json::from_value(json!({"metadata": {}, "data": {"proxy.json": document}}))
            .unwrap(),
        services: Vec::new(),
        handover: None,
        deployment: read(json!({
            "metadata": {"generation": 1},
            "spec": {"replicas": wanted, "selector": {}, "template": {}},
            "status": {
                "observedGeneration": 1, "replicas": wanted, "updatedReplicas": wanted,
                "readyReplicas": ready, "availableReplicas": ready,
            },
        })),
        autoscaler: None,
        disruption_budget: None,
        stage: PhantomData,
    }
}

/// Status after the pass; `previous` is the one before.
fn pass(
    previous: &MicroserviceStatus,
    resources: &Resources<Applied>,
    proxies: &[Proxy],
    now: Timestamp,
) -> MicroserviceStatus {
    let mut conditions = Conditions::new(&previous.conditions, Some(1), now);
    let counts = set(resources, proxies, previous, &mut conditions);
    MicroserviceStatus {
        proxies: counts,
        conditions: conditions.into_list(),
        ..Default::default()
    }
}

/// `status reason acknowledged/connected/total`
fn short(status: &MicroserviceStatus) -> String {
    let condition = &status.conditions[0];
    let counts = status.proxies.as_ref().unwrap();
    format!(
        "{} {} {}/{}/{}",
        condition.status, condition.reason, counts.acknowledged, counts.connected, counts.total
    )
}

#[test]
fn what_proxies_say_of_a_document_nobody_spoke_of_before() {
    let nothing = MicroserviceStatus::default();
    for (signs, waited, expected) in [
        ("++", 99, "True Programmed 2/2/2"),
        ("+o", 99, "Unknown ProxiesPending 1/2/2"),
        ("+-", 99, "Unknown ProxiesPending 1/1/2"),
        ("+!", 0, "False ProxyRefused 1/2/2"),
        ("-!", 0, "False ProxyRefused 0/1/2"),
        ("", 0, "True NotApplicable 0/0/0"),
    ] {
        let resources = resources("new", 2, 2);
        let status = pass(&nothing, &resources, &proxies(signs, waited), NOW);
        assert_eq!(short(&status), expected, "{signs}");
    }
    let status = pass(&nothing, &resources("new", 0, 0), &[], NOW);
    assert_eq!(short(&status), "True ScaledToZero 0/0/0");
}

#[test]
fn what_was_said_of_the_same_document_stays_until_all_have_answered_or_one_is_overdue() {
    for before in ["++", "+!"] {
        let at_rest = resources("new", 2, 2);
        let said = pass(
            &MicroserviceStatus::default(),
            &at_rest,
            &proxies(before, 99),
            NOW,
        );
        // An operator that has just started: nobody is there yet, then one by one.
        for signs in ["--", "-+", "o-", "+-", "+o"] {
            let next = pass(&said, &at_rest, &proxies(signs, 5), NOW);
            assert_eq!(next, said, "{before} then {signs}");
        }
        assert_eq!(pass(&said, &at_rest, &proxies(before, 5), NOW), said);
        let overdue = pass(&said, &at_rest, &proxies("+-", 31), NOW);
        assert_eq!(short(&overdue), "Unknown ProxiesBehind 1/1/2");
    }
}

#[test]
fn a_pending_document_is_told_once_then_what_became_of_it() {
    let at_rest = resources("new", 3, 3);
    let before = pass(
        &MicroserviceStatus::default(),
        &resources("old", 3, 3),
        &proxies("ooo", 99),
        NOW,
    );
    assert_eq!(short(&before), "True Programmed 3/3/3");
    let pending = pass(&before, &at_rest, &proxies("ooo", 99), NOW);
    assert_eq!(short(&pending), "Unknown ProxiesPending 0/3/3");
    for signs in ["+oo", "++o"] {
        let soon = NOW + PATIENCE / 2;
        assert_eq!(
            pass(&pending, &at_rest, &proxies(signs, 99), soon),
            pending,
            "{signs}"
        );
    }
    let late = pass(&pending, &at_rest, &proxies("++o", 99), NOW + PATIENCE);
    assert_eq!(short(&late), "Unknown ProxiesBehind 2/3/3");
    assert_eq!(late.proxies.as_ref().unwrap().laggards[0].pod, "user-2");
    let done = pass(&pending, &at_rest, &proxies("+++", 99), NOW);
    assert_eq!(short(&done), "True Programmed 3/3/3");
}

#[test]
fn the_proxy_that_is_overdue_is_named_and_not_one_that_may_still_answer() {
    let at_rest = resources("new", 3, 3);
    let said = pass(&MicroserviceStatus::default(), &at_rest, &proxies("+++", 99), NOW);
    let proxies = [(0, 'o', 5), (1, 'o', 40), (2, '-', 31)];
    let proxies = proxies.map(|(index, sign, waited)| proxy(index, sign, Duration::from_secs(waited)));
    let status = pass(&said, &at_rest, &proxies, NOW);
    let condition = &status.conditions[0];
    assert_eq!(condition.reason, Reason::ProxiesBehind.as_ref());
    assert!(
        condition.message.contains("pod user-1 is connected") && condition.message.contains("2 more"),
        "{}",
        condition.message
    );
}

#[test]
fn every_document_has_its_own_patience() {
    let nothing = MicroserviceStatus::default();
    let first = pass(&nothing, &resources("first", 2, 2), &proxies("oo", 99), NOW);
    let later = NOW + 2 * PATIENCE;
    let second = pass(&first, &resources("second", 2, 2), &proxies("oo", 99), later);
    assert_eq!(short(&second), "Unknown ProxiesPending 0/2/2");
    let again = pass(
        &second,
        &resources("second", 2, 2),
        &proxies("oo", 99),
        later + PATIENCE / 2,
    );
    assert_eq!(again, second);
}

#[test]
fn counts_are_not_taken_while_pods_come_and_go() {
    let said = pass(
        &MicroserviceStatus::default(),
        &resources("new", 2, 2),
        &proxies("++", 99),
        NOW,
    );
    let rolling = resources("new", 4, 3);
    assert_eq!(pass(&said, &rolling, &proxies("+++", 99), NOW), said);
    assert_eq!(
        pass(&said, &rolling, &[], NOW),
        said,
        "the pods are ahead of the Deployment"
    );
    let refused = pass(&said, &rolling, &proxies("++!", 0), NOW);
    assert_eq!(
        short(&refused),
        "False ProxyRefused 2/3/3",
        "bad news does not wait"
    );
    let done = pass(&said, &resources("new", 4, 4), &proxies("++++", 99), NOW);
    assert_eq!(short(&done), "True Programmed 4/4/4");
}

#[test]
fn a_refusal_names_the_pod_and_the_fault_and_at_most_five_laggards() {
    let nothing = MicroserviceStatus::default();
    let status = pass(&nothing, &resources("new", 8, 8), &proxies("-!!!!!!-", 99), NOW);
    let message = &status.conditions[0].message;
    for part in ["user-1", "new", "15101 is taken", "7 more", "last good"] {
        assert!(message.contains(part), "{message} lacks {part}");
    }
    let laggards = status.proxies.unwrap().laggards;
    assert_eq!(laggards.len(), 5);
    assert!(
        laggards
            .iter()
            .all(|laggard| laggard.reason == LaggardReason::Refused)
    );
}
