//! Condition `DependenciesReady`.

use trellis_api::condition::Reason;

use super::Verdict;
use crate::microservice::validated::{Role, Validated};

pub(super) fn verdict(validated: &Validated) -> Verdict {
    let Role::Service(service) = &validated.role else {
        return Verdict::good(Reason::NotApplicable, "a gateway depends on whatever it serves");
    };
    let dependencies = &service.dependencies;
    let missing: Vec<String> = dependencies
        .iter()
        .filter_map(|dependency| {
            let fix = dependency.missing.as_ref()?;
            Some(format!("spec.dependsOn[{}]: {fix}", dependency.index))
        })
        .collect();
    match missing.as_slice() {
        [] if dependencies.is_empty() => Verdict::good(Reason::NotApplicable, "spec.dependsOn is empty"),
        [] => Verdict::good(Reason::Reconciled, format!("found: {}", dependencies.len())),
        [only] => Verdict::bad(Reason::DependencyNotFound, only),
        [first, rest @ ..] => Verdict::bad(
            Reason::DependencyNotFound,
            format!("{first} (and {} more)", rest.len()),
        ),
    }
}
