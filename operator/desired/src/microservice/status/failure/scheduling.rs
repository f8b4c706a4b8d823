//! No node takes the pod.

use trellis_api::condition::{Reason, status};

use super::{Failure, Subject};
use crate::microservice::status::conditions::shorten;

pub(super) fn find(subject: &Subject<'_>) -> Option<Failure> {
    let condition = subject
        .pod
        .status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == status::FALSE)?;
    // What preemption would not have changed only blurs the message.
    let message = condition.message.as_deref().unwrap_or_default();
    let message = message.split(" preemption:").next().unwrap_or(message);
    let fix = if message.contains("Insufficient cpu") || message.contains("Insufficient memory") {
        "lower spec.resources.requests, or add nodes"
    } else {
        "see kubectl get nodes and their taints"
    };
    Some(Failure::new(
        Reason::Unschedulable,
        format!(
            "pod {} finds no node: {}; {fix}",
            subject.name,
            shorten(message.trim_end_matches(['.', ' ']))
        ),
    ))
}
