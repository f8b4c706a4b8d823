//! `spec.replicas` and `spec.autoscaling`: one owner of the number of pods.

use trellis_api::{MicroserviceSpec, microservice::Autoscaling};

use super::Problems;

const MOST: i32 = 10_000;

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    if let Some(replicas) = spec.replicas
        && !(0..=MOST).contains(&replicas)
    {
        problems.error(
            "spec.replicas",
            format!("{replicas} is out of range: use 0 to {MOST}"),
        );
    }
    let Some(autoscaling) = &spec.autoscaling else {
        return;
    };
    if spec.replicas.is_some() {
        problems.error(
            "spec.replicas",
            "spec.autoscaling is set too, and the autoscaler owns the number of replicas: keep one of the two",
        );
    }
    check_range(autoscaling, problems);
    if spec.gateway.is_none() && !has_cpu_request(spec) {
        problems.error(
            "spec.resources.requests.cpu",
            "spec.autoscaling.cpu is a percentage of it: set it to what a pod needs under usual load, for example 100m",
        );
    }
}

fn check_range(autoscaling: &Autoscaling, problems: &mut Problems) {
    for (field, value, most) in [
        ("min", autoscaling.min, MOST),
        ("max", autoscaling.max, MOST),
        ("cpu", autoscaling.cpu, 1000),
    ] {
        if !(1..=most).contains(&value) {
            problems.error(
                format!("spec.autoscaling.{field}"),
                format!("{value} is out of range: use 1 to {most}"),
            );
        }
    }
    if autoscaling.min > autoscaling.max {
        problems.error(
            "spec.autoscaling.min",
            format!(
                "{} is greater than spec.autoscaling.max ({}): raise max or lower min",
                autoscaling.min, autoscaling.max
            ),
        );
    }
    if autoscaling.min == autoscaling.max {
        problems.warning(
            "spec.autoscaling",
            format!(
                "min and max are both {}, so nothing ever scales: use spec.replicas, or raise max",
                autoscaling.min
            ),
        );
    }
}

/// Kubernetes takes an unset request from the limit.
fn has_cpu_request(spec: &MicroserviceSpec) -> bool {
    spec.resources.as_ref().is_some_and(|resources| {
        resources
            .requests
            .get("cpu")
            .or_else(|| resources.limits.get("cpu"))
            .is_some_and(|cpu| cpu.amount().is_ok_and(|amount| !amount.is_zero()))
    })
}
