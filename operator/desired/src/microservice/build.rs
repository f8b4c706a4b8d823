//! The children of a Microservice, one file a child.
//!
//! Pure and deterministic: the same input gives the same bytes, or a Microservice at rest would be written for ever.
//!
//! The pod template is made from the spec and the operator's settings only. Routes, other Microservices, gateways and
//! versions go into the proxy's document, which changes in place: no such change ever rolls a pod.

use std::marker::PhantomData;

use crate::resources::{Prepared, ReplicaHandover, Resources};

use super::validated::{Scaling, Validated};

mod app;
mod autoscaler;
mod deployment;
mod disruption_budget;
mod environment;
mod gateway;
mod metadata;
mod pod;
mod probe;
mod proxy_config;
mod security;
mod service;
mod service_account;
mod sidecar;
mod volumes;

pub(super) use self::volumes::BINDING_PREFIX;

/// Every child of a Microservice.
pub(super) fn build(validated: &Validated) -> Resources<Prepared> {
    let template = pod::build(validated);
    let template_digest = pod::digest(&template);
    Resources {
        service_account: metadata::seal(service_account::build(validated)),
        proxy_config: metadata::seal(proxy_config::build(validated, &template_digest)),
        services: service::build(validated)
            .into_iter()
            .map(metadata::seal)
            .collect(),
        handover: handover(validated),
        deployment: metadata::seal(deployment::build(
            validated,
            pod::stamp(template, template_digest),
        )),
        autoscaler: autoscaler::build(validated).map(metadata::seal),
        disruption_budget: disruption_budget::build(validated).map(metadata::seal),
        stage: PhantomData,
    }
}

fn handover(validated: &Validated) -> Option<ReplicaHandover> {
    match validated.scaling {
        Scaling::Auto {
            handover: Some(replicas),
            ..
        } => Some(ReplicaHandover {
            namespace: validated.key.namespace.clone(),
            name: validated.key.name.clone(),
            replicas,
        }),
        Scaling::Auto { handover: None, .. } | Scaling::Fixed(_) => None,
    }
}
