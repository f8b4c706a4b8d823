//! What is told when a child could not be applied: in terms of the Microservice where its field is to blame, else in the
//! API server's words.

use trellis_api::Microservice;

use super::conditions::shorten;
use crate::microservice::{ApplyFault, FieldFault};

/// Children's names that Kubernetes uses: the ServiceAccount of every namespace, and the API server's Service. Other
/// workloads need them, so nobody is told to delete them.
const OF_EVERY_CLUSTER: [&str; 2] = ["ServiceAccount default", "Service kubernetes"];

/// The message of `Ready`; `answer` is what the API server said.
pub(super) fn message(cr: &Microservice, child: &str, answer: &str, cause: &ApplyFault) -> String {
    match cause {
        ApplyFault::NotOwned => not_owned(child),
        ApplyFault::Refused { fields } => fields
            .iter()
            .find_map(|fault| node_port(cr, fault))
            .unwrap_or_else(|| of_api_server(child, answer)),
        ApplyFault::Passing => of_api_server(child, answer),
    }
}

fn not_owned(child: &str) -> String {
    if OF_EVERY_CLUSTER.contains(&child) {
        format!(
            "{child} is made by Kubernetes itself and cannot be owned by this Microservice: rename the Microservice"
        )
    } else {
        format!(
            "{child} exists and is not owned by this Microservice: delete or rename it, or rename the Microservice"
        )
    }
}

fn of_api_server(child: &str, answer: &str) -> String {
    if answer.contains(child) {
        shorten(answer)
    } else {
        format!("failed to apply {child}: {}", shorten(answer))
    }
}

/// The listener whose node port the API server refuses. Found by value, which is unique: the live Service may have ports
/// of somebody else between ours.
fn node_port(cr: &Microservice, fault: &FieldFault) -> Option<String> {
    if !fault.field.ends_with(".nodePort") {
        return None;
    }
    let listeners = &cr.spec.gateway.as_ref()?.listeners;
    listeners.iter().enumerate().find_map(|(i, listener)| {
        let port = listener.node_port?;
        let why = fault.message.strip_prefix(&format!("Invalid value: {port}: "))?;
        Some(format!(
            "spec.gateway.listeners[{i}].nodePort: {port} cannot be had ({}): choose another",
            shorten(why)
        ))
    })
}
