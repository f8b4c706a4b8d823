//! The columns of `kubectl get`, and what else of the status is not a condition.

use k8s_openapi::api::apps::v1::Deployment;
use kube::Resource;
use trellis_api::{MicroserviceStatus, microservice::Child, names::LABEL_MICROSERVICE};

use super::rollout::Rollout;
use crate::{
    microservice::{
        routes,
        validated::{GatewayRole, Role, ServiceRole, Validated},
    },
    resources::{Applied, Resources},
};

/// Hexadecimal digits of an image's digest that are shown.
const DIGEST_SHOWN: usize = 12;

/// A status without conditions.
pub(super) fn fill(
    validated: &Validated,
    resources: &Resources<Applied>,
    rollout: &Rollout,
) -> MicroserviceStatus {
    MicroserviceStatus {
        problems: validated.warnings.clone(),
        image: Some(match &validated.role {
            Role::Service(service) => short_image(&service.image),
            Role::Gateway(_) => "(gateway)".to_owned(),
        }),
        url: match &validated.role {
            Role::Service(service) => service_url(validated, service),
            Role::Gateway(gateway) => gateway_url(validated, gateway),
        },
        replicas: Some(rollout.replicas),
        available_replicas: Some(rollout.available),
        replica_summary: Some(format!("{}/{}", rollout.available, rollout.wanted)),
        inbound_ports: match &validated.role {
            Role::Service(service) => service
                .ports
                .iter()
                .filter_map(|port| Some((port.name.clone(), port.proxy_port?)))
                .collect(),
            Role::Gateway(_) => Default::default(),
        },
        selector: Some(format!("{LABEL_MICROSERVICE}={}", validated.key.name)),
        children: children(resources),
        ..Default::default()
    }
}

/// The last element of an image's path with its tag; of a digest only the start.
fn short_image(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once("@sha256:") {
        Some((name, digest)) => format!("{name}@{}", digest.chars().take(DIGEST_SHOWN).collect::<String>()),
        None => last.to_owned(),
    }
}

fn service_url(validated: &Validated, service: &ServiceRole) -> Option<String> {
    let port = routes::http_port(&service.ports)?;
    Some(cluster_url(validated, port.number))
}

/// The node port at the declared host, never a guess; else the address inside the cluster.
fn gateway_url(validated: &Validated, gateway: &GatewayRole) -> Option<String> {
    let on_nodes = gateway.host.as_ref().and_then(|host| {
        let port = gateway.listeners.iter().find_map(|listener| listener.node_port)?;
        Some(format!("http://{host}:{port}"))
    });
    on_nodes.or_else(|| Some(cluster_url(validated, gateway.listeners.first()?.port.number)))
}

fn cluster_url(validated: &Validated, port: u16) -> String {
    format!("http://{}.{}:{port}", validated.key.name, validated.key.namespace)
}

fn children(resources: &Resources<Applied>) -> Vec<Child> {
    let Resources {
        service_account,
        proxy_config,
        services,
        handover: _,
        deployment,
        autoscaler,
        disruption_budget,
        stage: _,
    } = resources;
    let mut children = vec![
        child::<Deployment>(deployment),
        child(service_account),
        child(proxy_config),
    ];
    children.extend(services.iter().map(child));
    children.extend(autoscaler.iter().map(child));
    children.extend(disruption_budget.iter().map(child));
    children.sort();
    children
}

fn child<K: Resource<DynamicType = ()>>(object: &K) -> Child {
    Child {
        kind: K::kind(&()).into_owned(),
        name: object.meta().name.clone().unwrap_or_default(),
    }
}
