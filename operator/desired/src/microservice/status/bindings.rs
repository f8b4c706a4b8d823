//! Condition `BindingsReady`.
//!
//! The operator never reads a Secret: whether a binding is there is known from the pods that mount it.

use trellis_api::condition::Reason;

use super::{Failure, Rollout, Verdict};
use crate::microservice::validated::{Role, Validated};

pub(super) fn verdict(
    validated: &Validated,
    rollout: &Rollout,
    failure: Option<&Failure>,
    any_started: bool,
) -> Verdict {
    let Role::Service(service) = &validated.role else {
        return Verdict::good(Reason::NotApplicable, "a gateway has no bindings");
    };
    match (service.bindings.len(), failure) {
        (0, _) => Verdict::good(Reason::NotApplicable, "spec.bindings is empty"),
        (_, Some(failure)) if failure.reason == Reason::BindingNotReady => {
            Verdict::bad(Reason::BindingNotReady, &failure.message)
        }
        (_, _) if rollout.wanted == 0 => {
            Verdict::unknown(Reason::ScaledToZero, "no pod runs that would mount them")
        }
        (count, _) if rollout.is_complete() || any_started => {
            Verdict::good(Reason::Reconciled, format!("mounted: {count}"))
        }
        _ => Verdict::unknown(Reason::Progressing, "no pod has started yet"),
    }
}
