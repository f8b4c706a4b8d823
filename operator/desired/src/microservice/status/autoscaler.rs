//! Condition `AutoscalerActive`, a mirror of the HorizontalPodAutoscaler's own.

use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition};
use trellis_api::condition::{Reason, status as condition_status};

use super::{Verdict, conditions::shorten};
use crate::microservice::validated::{Scaling, Validated};

pub(super) fn verdict(validated: &Validated, autoscaler: Option<&HorizontalPodAutoscaler>) -> Verdict {
    if matches!(validated.scaling, Scaling::Fixed(_)) {
        return Verdict::good(Reason::NotApplicable, "spec.autoscaling is not set");
    }
    let conditions: Vec<&HorizontalPodAutoscalerCondition> = autoscaler
        .and_then(|autoscaler| autoscaler.status.as_ref())
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .collect();
    let of_type = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
    let failing = ["AbleToScale", "ScalingActive"]
        .into_iter()
        .filter_map(of_type)
        .find(|condition| condition.status == condition_status::FALSE);
    match (failing, of_type("ScalingActive")) {
        (Some(failing), _) => Verdict::bad(
            Reason::AutoscalerFailed,
            format!(
                "spec.autoscaling: {}: {}; see kubectl describe hpa -n {} {}",
                failing.reason.as_deref().unwrap_or(&failing.type_),
                shorten(failing.message.as_deref().unwrap_or_default()),
                validated.key.namespace,
                validated.key.name
            ),
        ),
        (None, Some(active)) if active.status == condition_status::TRUE => {
            Verdict::good(Reason::Reconciled, "reads its metric and scales")
        }
        (None, _) => Verdict::unknown(Reason::Progressing, "has not read its metric yet"),
    }
}
