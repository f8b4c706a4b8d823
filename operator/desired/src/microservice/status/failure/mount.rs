//! A volume cannot be mounted. The pod only says `ContainerCreating`; the cause is in an Event.

use trellis_api::condition::Reason;

use super::{Failure, Subject, has_started};
use crate::microservice::{build::BINDING_PREFIX, status::conditions::shorten, validated::Role};

pub(super) fn find(subject: &Subject<'_>) -> Option<Failure> {
    // Events outlive their cause by an hour: once a container runs, every volume was mounted.
    if has_started(subject.pod) {
        return None;
    }
    let mut failures: Vec<(String, String)> = subject
        .events
        .iter()
        .filter(|event| event.reason == "FailedMount")
        .filter_map(|event| {
            let (_, rest) = event.message.split_once("failed for volume \"")?;
            let (volume, cause) = rest.split_once('"')?;
            Some((volume.to_owned(), cause.trim_start_matches([' ', ':']).to_owned()))
        })
        .collect();
    failures.sort();
    let binding = failures
        .iter()
        .find_map(|(volume, cause)| of_binding(subject, volume.strip_prefix(BINDING_PREFIX)?, cause));
    binding.or_else(|| {
        failures.first().map(|(volume, cause)| {
            Failure::new(
                Reason::ContainerConfigInvalid,
                format!(
                    "pod {} cannot mount volume {volume:?}: {}",
                    subject.name,
                    shorten(cause)
                ),
            )
        })
    })
}

fn of_binding(subject: &Subject<'_>, name: &str, cause: &str) -> Option<Failure> {
    let Role::Service(service) = &subject.validated.role else {
        return None;
    };
    let (index, binding) = service
        .bindings
        .iter()
        .enumerate()
        .find(|(_, binding)| binding.name == name)?;
    let (cause, fix) = if cause.contains("non-existent secret key") {
        (
            shorten(cause),
            format!("add the key or change spec.bindings[{index}].keys"),
        )
    } else if cause.ends_with("not found") {
        (
            "not found".to_owned(),
            format!("create it or change spec.bindings[{index}].secret"),
        )
    } else {
        (shorten(cause), format!("check spec.bindings[{index}]"))
    };
    Some(Failure::new(
        Reason::BindingNotReady,
        format!(
            "binding {name:?}: pod {} cannot mount secret {:?}: {cause}; {fix}",
            subject.name, binding.secret
        ),
    ))
}
