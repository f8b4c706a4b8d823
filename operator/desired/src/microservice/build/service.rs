//! The Services: one with an address of its own, and a headless one, whose DNS name has an address per pod and is the
//! floor of endpoint discovery when the operator is away.
//!
//! A proxied port leads to the sidecar's port *by name*, looked up in each pod's own template.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use trellis_api::names::{headless_service, target_port};

use super::metadata;
use crate::microservice::{
    ports::MeshPort,
    validated::{Role, Validated},
};

/// None if nothing listens: a Service has at least one port.
pub(super) fn build(validated: &Validated) -> Vec<Service> {
    let ports: Vec<(&MeshPort, Option<u16>)> = match &validated.role {
        Role::Service(service) => service.ports.iter().map(|port| (port, None)).collect(),
        Role::Gateway(gateway) => gateway
            .listeners
            .iter()
            .map(|listener| (&listener.port, listener.node_port))
            .collect(),
    };
    if ports.is_empty() {
        return Vec::new();
    }
    let on_nodes = ports.iter().any(|(_, node_port)| node_port.is_some());
    let main = Service {
        metadata: metadata::child(validated, &validated.key.name),
        spec: Some(ServiceSpec {
            type_: Some(if on_nodes { "NodePort" } else { "ClusterIP" }.to_owned()),
            selector: Some(metadata::selector(&validated.key.name)),
            ports: Some(
                ports
                    .iter()
                    .map(|(port, node_port)| service_port(port, *node_port))
                    .collect(),
            ),
            ..Default::default()
        }),
        status: None,
    };
    let headless = Service {
        metadata: metadata::child(validated, headless_service(&validated.key.name)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            selector: Some(metadata::selector(&validated.key.name)),
            ports: Some(ports.iter().map(|(port, _)| service_port(port, None)).collect()),
            ..Default::default()
        }),
        status: None,
    };
    vec![main, headless]
}

fn service_port(port: &MeshPort, node_port: Option<u16>) -> ServicePort {
    let target = match port.proxy_port {
        Some(_) => target_port(&port.name),
        None => port.name.clone(),
    };
    ServicePort {
        name: Some(port.name.clone()),
        port: i32::from(port.number),
        target_port: Some(IntOrString::String(target)),
        protocol: Some("TCP".to_owned()),
        app_protocol: port.protocol.app_protocol().map(str::to_owned),
        node_port: node_port.map(i32::from),
    }
}
