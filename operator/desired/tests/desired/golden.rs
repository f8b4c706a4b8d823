//! What the operator makes of a Microservice, as pairs of files.
//!
//! `<case>.in.yaml`: first the Microservice, which anybody may `kubectl apply`, then what else is there: other
//! Microservices, rate limit policies, the live Deployment, autoscaler and document, pods, what proxies said, and Events. A pod whose template digest is
//! `current` is of the template that this pass makes. A comment `# golden: Deployment, status` says what the case is
//! about; without it everything is shown.
//!
//! `<case>.out.yaml`: the children, then the status with what kstatus makes of it, or the problems.
//!
//! `TRELLIS_WRITE=1 cargo test -p trellis-operator-desired --test desired` writes what is now made; read the difference.

use std::{fmt::Write as _, path::PathBuf};

use serde::Serialize;
use similar::TextDiff;
use trellis_api::{Microservice, MicroserviceStatus, Problem, names};
use trellis_operator_desired::{Resources, microservice};
use trellis_testkit::kstatus;

use crate::case::{self, Case, Pass, inputs, now};

/// Fewest cases there may be.
const LEAST: usize = 25;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    /// What tools make of it.
    kstatus: String,
    /// Seconds until the operator looks again on its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    recheck: Option<u64>,
    status: &'a MicroserviceStatus,
}

#[derive(Serialize)]
struct Problems<'a> {
    problems: &'a [Problem],
}

#[test]
fn every_golden_input_still_gives_its_output() {
    let write = std::env::var_os("TRELLIS_WRITE").is_some();
    let mut failures = String::new();
    let inputs = inputs();
    assert!(
        inputs.len() >= LEAST,
        "{} cases are fewer than {LEAST}",
        inputs.len()
    );
    for input in &inputs {
        let case = Case::read(input);
        let made = render(&case, &case.pass(now()));
        let output = PathBuf::from(input.to_str().unwrap().replace(".in.yaml", ".out.yaml"));
        if write {
            std::fs::write(&output, &made).unwrap();
            continue;
        }
        let golden = std::fs::read_to_string(&output).unwrap_or_default();
        if golden != made {
            let diff = TextDiff::from_lines(&golden, &made);
            writeln!(
                failures,
                "{} is no longer what its input gives:\n{}",
                output.file_name().unwrap().to_string_lossy(),
                diff.unified_diff().context_radius(3).header("golden", "made now")
            )
            .unwrap();
        }
    }
    assert!(
        failures.is_empty(),
        "{failures}\nTRELLIS_WRITE=1 writes what is made now"
    );
}

#[test]
fn a_status_repeated_is_the_same_bytes() {
    for input in inputs() {
        let mut case = Case::read(&input);
        let first = case.pass(now()).status;
        case.cr.status = Some(first.clone());
        let later = now() + std::time::Duration::from_secs(3600);
        let mut again = case.pass(later).status;
        let mut first = first;
        if first
            .conditions
            .iter()
            .any(|condition| condition.reason == "ProxiesPending")
        {
            // By then its proxies are overdue, which is told once.
            case.cr.status = Some(again.clone());
            first = std::mem::replace(&mut again, case.pass(later).status);
        }
        assert_eq!(
            serde_json::to_string(&first).unwrap(),
            serde_json::to_string(&again).unwrap(),
            "{} would be written again at rest",
            input.display()
        );
    }
}

#[test]
fn children_repeated_are_the_same_bytes() {
    for input in inputs() {
        let mut case = Case::read(&input);
        let Some(first) = case.pass(now()).resources else {
            continue;
        };
        // The second pass may let go of what only old pods used; after that nothing changes.
        live(&mut case, &first);
        let second = case.pass(now()).resources.unwrap();
        live(&mut case, &second);
        let third = case.pass(now()).resources.unwrap();
        assert_eq!(second, third, "{} never comes to rest", input.display());
        assert_eq!(
            case::template_digest(&first.deployment),
            case::template_digest(&third.deployment),
            "{} rolls its pods again",
            input.display()
        );
    }
}

/// Makes what a pass applied the live state, with the rollout over.
fn live(case: &mut Case, resources: &Resources<trellis_operator_desired::Applied>) {
    let mut deployment = resources.deployment.clone();
    let replicas = deployment.spec.as_ref().unwrap().replicas;
    let status = deployment.status.get_or_insert_default();
    status.observed_generation = deployment.metadata.generation;
    status.replicas = replicas;
    status.updated_replicas = replicas;
    status.available_replicas = replicas;
    status.terminating_replicas = None;
    case.fetched.deployment = Some(deployment);
    case.fetched.proxy_config = Some(resources.proxy_config.clone());
    case.fetched.autoscaler.clone_from(&resources.autoscaler);
}

#[test]
fn no_tool_takes_a_microservice_for_done_before_its_children_are_there() {
    for input in inputs() {
        let case = Case::read(&input);
        let Pass {
            resources, status, ..
        } = case.pass(now());
        let seen = kstatus::compute(&with_status(&case.cr, &status));
        let complete = resources.as_ref().is_some_and(|resources| {
            let status = resources.deployment.status.clone().unwrap_or_default();
            status.observed_generation.is_some()
                && status.available_replicas.unwrap_or_default()
                    >= resources
                        .deployment
                        .spec
                        .as_ref()
                        .unwrap()
                        .replicas
                        .unwrap()
                        .min(1)
        });
        if seen == kstatus::Status::Current {
            assert!(complete, "{} is Current too early", input.display());
        }
        // The first status of the same object, written before its first child.
        let mut fresh = case.cr.clone();
        fresh.status = None;
        let pending = microservice::status(&fresh, &microservice::Outcome::Pending, now());
        assert_eq!(
            kstatus::compute(&with_status(&fresh, &pending)),
            kstatus::Status::InProgress,
            "{}: first status",
            input.display()
        );
    }
}

#[test]
fn exactly_one_of_ready_reconciling_and_stalled_is_true() {
    for input in inputs() {
        let case = Case::read(&input);
        let status = case.pass(now()).status;
        let true_ones: Vec<&str> = status
            .conditions
            .iter()
            .filter(|condition| condition.status == "True")
            .map(|condition| condition.type_.as_str())
            .filter(|type_| ["Ready", "Reconciling", "Stalled"].contains(type_))
            .collect();
        assert_eq!(true_ones.len(), 1, "{}: {true_ones:?}", input.display());
        assert_eq!(status.observed_generation, case.cr.metadata.generation);
        assert!(
            status
                .conditions
                .iter()
                .all(|condition| !condition.message.is_empty()),
            "{} has a condition without a message",
            input.display()
        );
    }
}

#[test]
fn every_document_for_a_proxy_is_one_that_it_takes() {
    for input in inputs() {
        let Some(resources) = Case::read(&input).pass(now()).resources else {
            continue;
        };
        let text = &resources.proxy_config.data.as_ref().unwrap()[names::KEY_PROXY_CONFIG];
        let faults = trellis_proxy_config::ValidDocument::parse(text.as_bytes()).err();
        assert_eq!(faults, None, "{}", input.display());
    }
}

fn with_status(cr: &Microservice, status: &MicroserviceStatus) -> serde_json::Value {
    let mut cr = cr.clone();
    cr.status = Some(status.clone());
    serde_json::to_value(cr).unwrap()
}

fn render(case: &Case, pass: &Pass) -> String {
    let mut documents = Vec::new();
    if let Some(resources) = &pass.resources {
        let Resources {
            service_account,
            proxy_config,
            services,
            handover,
            deployment,
            autoscaler,
            disruption_budget,
            stage: _,
        } = resources;
        let mut show = |kind: &str, text: String| {
            if case.shown.is_empty() || case.shown.iter().any(|shown| shown == kind) {
                documents.push(text);
            }
        };
        show("ServiceAccount", yaml(service_account));
        show("ConfigMap", yaml(proxy_config));
        for service in services {
            show("Service", yaml(service));
        }
        if let Some(handover) = handover {
            show(
                "handover",
                format!(
                    "# under {}\n{}",
                    names::FIELD_MANAGER_REPLICAS_HANDOVER,
                    yaml(&handover.patch())
                ),
            );
        }
        let mut wanted = deployment.clone();
        wanted.status = None;
        wanted.metadata.generation = None;
        show("Deployment", yaml(&wanted));
        if let Some(autoscaler) = autoscaler {
            let mut wanted = autoscaler.clone();
            wanted.status = None;
            show("HorizontalPodAutoscaler", yaml(&wanted));
        }
        if let Some(disruption_budget) = disruption_budget {
            show("PodDisruptionBudget", yaml(disruption_budget));
        }
    }
    let invalid = pass.status.problems.len();
    if case.shown.is_empty() || case.shown.iter().any(|shown| shown == "status") {
        documents.push(yaml(&Status {
            kstatus: format!("{:?}", kstatus::compute(&with_status(&case.cr, &pass.status))),
            recheck: microservice::recheck(&pass.status).map(|recheck| recheck.as_secs()),
            status: &pass.status,
        }));
    }
    if invalid == 0 && !pass.problems.is_empty() {
        documents.push(yaml(&Problems {
            problems: &pass.problems,
        }));
    }
    documents.join("---\n")
}

fn yaml<T: Serialize>(value: &T) -> String {
    let text = serde_saphyr::to_string(value).unwrap();
    if text.ends_with('\n') { text } else { text + "\n" }
}
