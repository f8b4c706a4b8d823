//! Whether the Microservices that a saga calls exist.

use std::{collections::BTreeSet, sync::Arc};

use trellis_api::{Microservice, microservice::Protocol};
use trellis_saga_core::{Definition, definition::HttpCall};

use crate::microservice::ports;

/// What is not there, and the fix, each once. `microservices` are those of the saga's namespace.
pub(super) fn missing(definition: &Definition, microservices: &[Arc<Microservice>]) -> BTreeSet<String> {
    let calls = definition
        .steps
        .iter()
        .flat_map(|step| [Some(&step.action), step.compensation.as_ref()])
        .flatten();
    calls
        .filter_map(|call| fault(&call.call, microservices))
        .collect()
}

fn fault(call: &HttpCall, microservices: &[Arc<Microservice>]) -> Option<String> {
    let name = &call.microservice;
    let Some(cr) = microservices
        .iter()
        .find(|cr| cr.metadata.name.as_ref() == Some(name))
    else {
        return Some(format!("there is no Microservice {name}"));
    };
    if cr.spec.gateway.is_some() {
        return Some(format!("{name} is a gateway: call the service behind it"));
    }
    let ports = ports::of(cr);
    let found = match &call.port {
        Some(port) => ports.iter().find(|known| known.name == *port),
        None => ports::first_of(&ports, &[Protocol::Http, Protocol::H2c]),
    };
    match (found, &call.port) {
        (Some(port), _) if !matches!(port.protocol, Protocol::Http | Protocol::H2c) => Some(format!(
            "port {} of {name} speaks {}: name one that speaks HTTP",
            port.name,
            port.protocol.as_ref()
        )),
        (Some(_), _) => None,
        (None, Some(port)) => {
            let known: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            Some(format!("{name} has no port {port}; it has: {known}"))
        }
        (None, None) => Some(format!("{name} has no port that speaks HTTP")),
    }
}
