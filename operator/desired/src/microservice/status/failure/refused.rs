//! The API server refuses the pods: there is no pod to look at, only the Deployment's own condition.

use k8s_openapi::api::apps::v1::Deployment;
use trellis_api::condition::{Reason, status};

use super::Failure;
use crate::microservice::status::conditions::shorten;

pub(super) fn find(deployment: &Deployment) -> Option<Failure> {
    let condition = deployment
        .status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == status::TRUE)?;
    let message = condition.message.as_deref().unwrap_or_default();
    let fix = if message.contains("exceeded quota") {
        "lower spec.resources or spec.replicas, or raise the namespace's ResourceQuota"
    } else if message.contains("LimitRange") || message.contains("usage per") {
        "keep spec.resources within the namespace's LimitRange"
    } else {
        "mend what the message names"
    };
    // The pod's name in it is a new one with every try.
    let message = match message.split_once(" is forbidden: ") {
        Some((_, cause)) => cause,
        None => message,
    };
    Some(Failure::new(
        Reason::PodsRefused,
        format!("the API server refuses the pods: {}; {fix}", shorten(message)),
    ))
}
