//! The proxy beside the app: a native sidecar (KEP-753), an init container that is started again and again.
//!
//! It is up before the app starts and until the app has ended, so the app can call others in its first and last second.

use k8s_openapi::api::core::v1::{Container, ExecAction, Lifecycle, LifecycleHandler};
use trellis_api::{
    Quantity,
    microservice::Resources,
    names::{CONTAINER_PROXY, PORT_PROXY_HEALTH, target_port},
};

use super::{
    app::{container_port, resources},
    environment, probe, security, volumes,
};
use crate::microservice::validated::{ServiceRole, Validated};

/// Name of the port of health and metrics. Longer than a user's port name may be, so they never meet.
pub(super) const PORT_NAME_HEALTH: &str = "trellis-health";
/// Where the image has the binary, which has the verbs that a shell would otherwise run.
const BINARY: &str = "/usr/local/bin/trellis-proxy";

pub(super) fn build(validated: &Validated, service: &ServiceRole) -> Container {
    let inbound = service
        .ports
        .iter()
        .filter_map(|port| Some(container_port(&target_port(&port.name), port.proxy_port?)));
    let quantities = |list: &[(&str, &str)]| {
        list.iter()
            .map(|(name, quantity)| ((*name).to_owned(), Quantity::from(*quantity)))
            .collect()
    };
    Container {
        ports: Some(inbound.chain([health_port()]).collect()),
        restart_policy: Some("Always".to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        resources: resources(&Resources {
            requests: quantities(&[("cpu", "5m"), ("memory", "16Mi")]),
            limits: quantities(&[("memory", "128Mi")]),
        }),
        ..proxy(validated)
    }
}

/// What the proxy's container has in either role.
pub(super) fn proxy(validated: &Validated) -> Container {
    Container {
        name: CONTAINER_PROXY.to_owned(),
        image: Some(validated.proxy.image.clone()),
        args: Some(vec!["run".to_owned()]),
        env: Some(environment::of_proxy(validated)),
        startup_probe: Some(probe::proxy("/startupz", 1, 60)),
        readiness_probe: Some(probe::proxy("/readyz", 2, 3)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                exec: Some(ExecAction {
                    command: Some(vec![BINARY.to_owned(), "drain".to_owned()]),
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        security_context: Some(security::proxy()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(volumes::mounts_of_proxy()),
        ..Default::default()
    }
}

pub(super) fn health_port() -> k8s_openapi::api::core::v1::ContainerPort {
    container_port(PORT_NAME_HEALTH, PORT_PROXY_HEALTH)
}
