//! The proxy as the only container of a pod.

use k8s_openapi::api::core::v1::Container;
use trellis_api::{
    Quantity,
    microservice::{ImagePullPolicy, Resources},
    names::target_port,
};

use super::{
    app::{container_port, resources},
    sidecar,
};
use crate::microservice::validated::{GatewayRole, Validated};

pub(super) fn build(validated: &Validated, gateway: &GatewayRole) -> Container {
    let listeners = gateway.listeners.iter().filter_map(|listener| {
        Some(container_port(
            &target_port(&listener.port.name),
            listener.port.proxy_port?,
        ))
    });
    Container {
        ports: Some(listeners.chain([sidecar::health_port()]).collect()),
        image_pull_policy: Some(
            gateway
                .image_pull_policy
                .unwrap_or(ImagePullPolicy::IfNotPresent)
                .as_ref()
                .to_owned(),
        ),
        resources: resources(&with_defaults(&gateway.resources)),
        ..sidecar::proxy(validated)
    }
}

/// What the spec says, and where it says nothing, enough for some thousand requests a second.
fn with_defaults(set: &Resources) -> Resources {
    let mut resources = set.clone();
    let mut default = |name: &str, quantity: &str| {
        // A request above the user's limit would be refused.
        if !resources.limits.contains_key(name) {
            resources
                .requests
                .entry(name.to_owned())
                .or_insert_with(|| Quantity::from(quantity));
        }
    };
    default("cpu", "20m");
    default("memory", "32Mi");
    if !set.requests.contains_key("memory") {
        resources
            .limits
            .entry("memory".to_owned())
            .or_insert_with(|| Quantity::from("256Mi"));
    }
    resources
}
