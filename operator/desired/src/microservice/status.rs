//! The status: what became of a pass, for people (`kubectl get`, the message of `Ready`) and for tools (kstatus).
//!
//! Exactly one of `Ready`, `Reconciling` and `Stalled` is `True`: it is done, it goes on by itself, or somebody has to
//! mend the cause. The message of `Ready` repeats the first failing detail, so that one `kubectl get` shows it.

use std::time::Duration;

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    jiff::Timestamp,
};
use trellis_api::{
    Microservice, MicroserviceStatus, Problem, Severity,
    condition::{ConditionType, Reason, status as condition_status},
};

use self::{
    conditions::{Conditions, Verdict},
    failure::Failure,
    rollout::Rollout,
};
use super::{
    ApplyFault, Outcome, PodEvent, Proxy,
    validated::{Scaling, Validated},
};
use crate::resources::{Applied, Resources};

mod apply_failed;
mod autoscaler;
mod bindings;
mod columns;
mod conditions;
mod dependencies;
mod failure;
mod programmed;
mod rate_limits;
mod rollout;
mod routes;

/// Conditions that are details of `Ready`, in the order in which they explain it.
const DETAILS: [ConditionType; 6] = [
    ConditionType::WorkloadAvailable,
    ConditionType::BindingsReady,
    ConditionType::DependenciesReady,
    ConditionType::RoutesAccepted,
    ConditionType::AutoscalerActive,
    ConditionType::Programmed,
];
/// Look again so soon while a pod's failure may show in an Event.
const RECHECK: Duration = Duration::from_secs(2);
/// Look again so seldom where it takes somebody to mend the cause.
const RECHECK_SELDOM: Duration = Duration::from_secs(30);

/// The status after a pass.
pub(super) fn status(cr: &Microservice, outcome: &Outcome<'_>, now: Timestamp) -> MicroserviceStatus {
    let previous = cr.status.clone().unwrap_or_default();
    let listed = cr.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let mut conditions = Conditions::new(listed, cr.metadata.generation, now);
    let mut status = match outcome {
        Outcome::Pending => {
            let message = "nothing was made yet";
            conditions.set(ConditionType::Ready, Verdict::unknown(Reason::Pending, message));
            going_on(&mut conditions, Reason::Pending, message);
            keep_details(&mut conditions, Reason::Pending, message);
            previous
        }
        Outcome::Invalid { problems } => {
            let message = first_error(problems);
            conditions.set(ConditionType::Ready, Verdict::bad(Reason::Invalid, &message));
            stuck(&mut conditions, Reason::Invalid, &message);
            keep_details(
                &mut conditions,
                Reason::Invalid,
                "not looked at: the spec has faults",
            );
            MicroserviceStatus {
                problems: problems.to_vec(),
                ..previous
            }
        }
        Outcome::ApplyFailed {
            child,
            message,
            cause,
        } => {
            let reason = match cause {
                ApplyFault::NotOwned => Reason::ChildNotOwned,
                ApplyFault::Passing | ApplyFault::Refused { .. } => Reason::ApplyFailed,
            };
            let message = apply_failed::message(cr, child, message, cause);
            conditions.set(ConditionType::Ready, Verdict::bad(reason, &message));
            match cause {
                ApplyFault::Passing => going_on(&mut conditions, reason, &message),
                ApplyFault::Refused { .. } | ApplyFault::NotOwned => {
                    stuck(&mut conditions, reason, &message);
                }
            }
            keep_details(
                &mut conditions,
                reason,
                "not looked at: a child could not be applied",
            );
            MicroserviceStatus {
                problems: warnings(&previous.problems),
                ..previous
            }
        }
        Outcome::Applied {
            validated,
            resources,
            pods,
            events,
            proxies,
        } => {
            // First: the message of `Ready` repeats what fails.
            let proxies = programmed::set(resources, proxies, &previous, &mut conditions);
            MicroserviceStatus {
                proxies,
                ..applied(validated, resources, pods, events, &mut conditions)
            }
        }
    };
    status.observed_generation = cr.metadata.generation;
    status.conditions = conditions.into_list();
    status
}

/// When to look again although nothing that is watched changes.
pub(super) fn recheck(status: &MicroserviceStatus) -> Option<Duration> {
    let condition = |type_: ConditionType| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_.as_ref())
    };
    let ready = condition(ConditionType::Ready)?;
    if ready.status == condition_status::TRUE || ready.reason == Reason::Invalid.as_ref() {
        return None;
    }
    let stalled =
        condition(ConditionType::Stalled).is_some_and(|stalled| stalled.status == condition_status::TRUE);
    // A failed apply is tried again by the controller, with its own back-off; this is the net under it.
    let seldom = stalled || ready.reason == Reason::ApplyFailed.as_ref();
    Some(if seldom { RECHECK_SELDOM } else { RECHECK })
}

/// When to look again at proxies that have not answered.
pub(super) fn recheck_proxies(resources: &Resources<Applied>, proxies: &[Proxy]) -> Option<Duration> {
    let document = programmed::digest(&resources.proxy_config);
    programmed::is_waiting(&document, proxies).then_some(programmed::PATIENCE)
}

fn applied(
    validated: &Validated,
    resources: &Resources<Applied>,
    pods: &[Pod],
    events: &[PodEvent],
    conditions: &mut Conditions<'_>,
) -> MicroserviceStatus {
    let deployment = &resources.deployment;
    let least = match &validated.scaling {
        Scaling::Fixed(0) => 0,
        Scaling::Fixed(_) | Scaling::Auto { .. } => 1,
    };
    let rollout = Rollout::of(deployment, least);
    let failure = (!rollout.is_complete())
        .then(|| failure::find(validated, deployment, pods, events))
        .flatten();
    conditions.set(
        ConditionType::WorkloadAvailable,
        workload(&rollout, failure.as_ref()),
    );
    conditions.set(
        ConditionType::BindingsReady,
        bindings::verdict(
            validated,
            &rollout,
            failure.as_ref(),
            failure::any_started(deployment, pods),
        ),
    );
    conditions.set(ConditionType::DependenciesReady, dependencies::verdict(validated));
    conditions.set(ConditionType::RoutesAccepted, routes::verdict(validated));
    conditions.set(
        ConditionType::AutoscalerActive,
        autoscaler::verdict(validated, resources.autoscaler.as_ref()),
    );
    if let Some(verdict) = rate_limits::verdict(validated) {
        conditions.set(ConditionType::RateLimitPolicyAffected, verdict);
    }
    sum_up(validated, deployment, &rollout, failure.as_ref(), conditions);
    columns::fill(validated, resources, &rollout)
}

fn workload(rollout: &Rollout, failure: Option<&Failure>) -> Verdict {
    let message = rollout.availability();
    if rollout.wanted == 0 {
        Verdict::good(Reason::ScaledToZero, message)
    } else if rollout.available >= rollout.wanted {
        Verdict::good(Reason::Available, message)
    } else {
        let reason = failure.map_or(Reason::Progressing, |failure| failure.reason);
        Verdict::bad(reason, message)
    }
}

fn sum_up(
    validated: &Validated,
    deployment: &Deployment,
    rollout: &Rollout,
    failure: Option<&Failure>,
    conditions: &mut Conditions<'_>,
) {
    let enough = match &validated.scaling {
        // Pods above its minimum are the autoscaler's own business, as long as none of them fails.
        Scaling::Auto { autoscaling, .. } => rollout.is_only_scaling(autoscaling.min) && failure.is_none(),
        Scaling::Fixed(_) => false,
    };
    if rollout.is_complete() || enough {
        let reason = if rollout.wanted == 0 {
            Reason::ScaledToZero
        } else {
            Reason::Available
        };
        let message = match conditions.first_failing(&DETAILS[1..]) {
            Some(detail) => format!("{}; {detail}", rollout.availability()),
            None => rollout.availability(),
        };
        conditions.set(ConditionType::Ready, Verdict::good(reason, message));
        conditions.set(
            ConditionType::Reconciling,
            Verdict::bad(Reason::Reconciled, "as asked for"),
        );
        conditions.set(
            ConditionType::Stalled,
            Verdict::bad(Reason::Reconciled, "as asked for"),
        );
        return;
    }
    let overdue = rollout::is_overdue(deployment);
    let (reason, message) = match failure {
        Some(failure) => (failure.reason, failure.message.clone()),
        None if overdue => (
            Reason::ProgressDeadlineExceeded,
            format!(
                "the rollout made no progress within its deadline ({}); see kubectl describe pods -n {} -l {}={}",
                rollout.progress(),
                validated.key.namespace,
                trellis_api::names::LABEL_MICROSERVICE,
                validated.key.name
            ),
        ),
        None => (Reason::Progressing, rollout.progress()),
    };
    conditions.set(ConditionType::Ready, Verdict::bad(reason, &message));
    if failure.is_some_and(Failure::is_terminal) {
        stuck(conditions, reason, &message);
    } else if overdue {
        stuck(conditions, Reason::ProgressDeadlineExceeded, &message);
    } else {
        going_on(conditions, Reason::Progressing, &rollout.progress());
    }
}

fn going_on(conditions: &mut Conditions<'_>, reason: Reason, message: &str) {
    conditions.set(ConditionType::Reconciling, Verdict::good(reason, message));
    conditions.set(
        ConditionType::Stalled,
        Verdict::bad(reason, "it goes on by itself"),
    );
}

fn stuck(conditions: &mut Conditions<'_>, reason: Reason, message: &str) {
    conditions.set(
        ConditionType::Reconciling,
        Verdict::bad(reason, "it does not go on by itself"),
    );
    conditions.set(ConditionType::Stalled, Verdict::good(reason, message));
}

/// Details that were not looked at stay as they were: what runs still runs.
fn keep_details(conditions: &mut Conditions<'_>, reason: Reason, message: &str) {
    for detail in DETAILS {
        conditions.keep_or(detail, Verdict::unknown(reason, message));
    }
    conditions.keep(ConditionType::RateLimitPolicyAffected);
}

fn first_error(problems: &[Problem]) -> String {
    let errors: Vec<&Problem> = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .collect();
    match errors.as_slice() {
        [] => "the spec has faults".to_owned(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more in status.problems)", rest.len()),
    }
}

fn warnings(problems: &[Problem]) -> Vec<Problem> {
    problems
        .iter()
        .filter(|problem| problem.severity == Severity::Warning)
        .cloned()
        .collect()
}
