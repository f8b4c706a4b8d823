//! The Microservices that a saga calls: whether they exist, and how a revision's ConfigMap names them.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::ConfigMap;
use trellis_api::{
    Microservice,
    microservice::{Dependency, Protocol},
    names,
};
use trellis_saga_core::{Definition, definition::HttpCall};

use crate::microservice::ports;

/// Most that a revision calls: an action and a compensation for each of the most steps.
const MOST_PARTICIPANTS: usize = 512;

/// What is not there, and the fix, each once. `microservices` are those of the saga's namespace.
pub(super) fn missing(definition: &Definition, microservices: &[Arc<Microservice>]) -> BTreeSet<String> {
    calls(definition)
        .filter_map(|call| fault(call, microservices))
        .collect()
}

fn calls(definition: &Definition) -> impl Iterator<Item = &HttpCall> {
    let steps = definition.steps.iter();
    let calls = steps.flat_map(|step| [Some(&step.action), step.compensation.as_ref()]);
    calls.flatten().map(|call| &call.call)
}

/// What a definition calls, as [`names::ANNOTATION_PARTICIPANTS`] has it.
pub(super) fn written(definition: &Definition) -> String {
    let all: BTreeSet<String> = calls(definition)
        .map(|call| match &call.port {
            Some(port) => format!("{}:{port}", call.microservice),
            None => call.microservice.clone(),
        })
        .collect();
    all.into_iter().collect::<Vec<_>>().join(",")
}

/// What the revision in a ConfigMap calls; nothing, if it has none.
#[must_use]
pub fn participants_of(config_map: &ConfigMap) -> Vec<Dependency> {
    let metadata = &config_map.metadata;
    let is_owned = metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.kind == "Saga" && owner.controller == Some(true));
    let is_revision = is_owned
        && metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(names::LABEL_SAGA));
    let annotations = metadata.annotations.as_ref().filter(|_| is_revision);
    let written = annotations.and_then(|annotations| annotations.get(names::ANNOTATION_PARTICIPANTS));
    let entry = |text: &str| {
        let (microservice, port) = match text.split_once(':') {
            Some((microservice, port)) => (microservice, Some(port.to_owned())),
            None => (text, None),
        };
        Dependency {
            microservice: microservice.to_owned(),
            namespace: metadata.namespace.clone(),
            port,
            resilience: None,
        }
    };
    let written = written.into_iter().flat_map(|written| written.split(','));
    written
        .filter(|text| !text.is_empty())
        .take(MOST_PARTICIPANTS)
        .map(entry)
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
