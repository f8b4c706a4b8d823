//! The container of the user's image.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Lifecycle, LifecycleHandler, ResourceRequirements, SleepAction,
};
use trellis_api::{
    microservice::{Probe, Resources},
    names::CONTAINER_APP,
};

use super::{
    environment,
    probe::{self, Check},
    security, volumes,
};
use crate::microservice::validated::{ServiceRole, Validated};

pub(super) fn build(validated: &Validated, service: &ServiceRole) -> Container {
    let first_port = service.ports.first().map(|port| port.number);
    let check = |probe: Option<&Probe>, check| probe.and_then(|probe| probe::app(probe, check, first_port));
    let probes = &service.probes;
    // A pod is ready when its app takes connections, unless the spec says otherwise.
    let connect = Probe::default();
    Container {
        name: CONTAINER_APP.to_owned(),
        image: Some(service.image.clone()),
        image_pull_policy: service.image_pull_policy.map(|policy| policy.as_ref().to_owned()),
        command: list(&service.command),
        args: list(&service.args),
        ports: list(
            &service
                .ports
                .iter()
                .map(|port| container_port(&port.name, port.number))
                .collect::<Vec<_>>(),
        ),
        env: list(&environment::of_app(validated, service)),
        env_from: list(&service.env_from),
        resources: resources(&service.resources),
        readiness_probe: check(
            Some(probes.readiness.as_ref().unwrap_or(&connect)),
            Check::Readiness,
        ),
        liveness_probe: check(probes.liveness.as_ref(), Check::Liveness),
        startup_probe: check(probes.startup.as_ref(), Check::Startup),
        lifecycle: service.pre_stop_delay.map(|delay| Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction {
                    seconds: i64::try_from(delay.as_secs_ceil()).unwrap_or(i64::MAX),
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        security_context: Some(security::app(&service.security)),
        // The last lines of a crashed app show in the pod's status.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(volumes::mounts_of_app(service)),
        ..Default::default()
    }
}

pub(super) fn container_port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    }
}

/// In the spelling that the API server stores.
pub(super) fn resources(resources: &Resources) -> Option<ResourceRequirements> {
    let canonical = |quantities: &std::collections::BTreeMap<String, trellis_api::Quantity>| {
        (!quantities.is_empty()).then(|| {
            quantities
                .iter()
                .map(|(name, quantity)| (name.clone(), quantity.canonical()))
                .collect()
        })
    };
    (!resources.requests.is_empty() || !resources.limits.is_empty()).then(|| ResourceRequirements {
        requests: canonical(&resources.requests),
        limits: canonical(&resources.limits),
        claims: None,
    })
}

/// An empty list and none are the same to the API server; it stores none.
fn list<T: Clone>(items: &[T]) -> Option<Vec<T>> {
    (!items.is_empty()).then(|| items.to_vec())
}
