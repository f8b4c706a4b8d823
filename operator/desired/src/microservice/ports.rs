//! Ports of a Microservice as others see them, and the sidecar's ports behind them.
//!
//! **Why a sidecar's port is not just 15100 + i.** The proxy's document changes at once, in old pods too, while the pod
//! template rolls. If inserting a port renumbered the others, or if a port's number on the app changed in place, pods of
//! the old spec would forward to the wrong port until they are gone. So a triple (name, app port, protocol) keeps its
//! number for as long as the live document has it, and a changed triple gets a new one: during a roll the document
//! serves both, and each pod's Service endpoint is looked up by name in the pod's own template.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use trellis_api::{
    Microservice,
    microservice::{Port, Protocol},
    names::{CONTAINER_APP, CONTAINER_PROXY, PORT_GATEWAY_OFFSET, PORT_INBOUND, target_port},
};
use trellis_proxy_config::{self as proxy, Document, ListenerKind};
use trellis_resilience::bulkhead;

use super::resilience;

/// A port of a Microservice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MeshPort {
    /// Its name.
    pub name: String,
    /// Its number on the Service.
    pub number: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Where the proxy in the pod listens for it; None if it is not proxied.
    pub proxy_port: Option<u16>,
    /// How many requests the app works on at once; None: as many as come.
    pub bulkhead: Option<bulkhead::Settings>,
}

/// The ports of any Microservice, with the sidecar's ports as its status has them, or as they are at first.
pub(crate) fn of(cr: &Microservice) -> Vec<MeshPort> {
    if let Some(gateway) = &cr.spec.gateway {
        return gateway
            .listeners
            .iter()
            .map(|listener| MeshPort {
                name: listener.name.clone(),
                number: listener.port,
                protocol: listener.protocol.unwrap_or_default(),
                proxy_port: listener.port.checked_add(PORT_GATEWAY_OFFSET),
                bulkhead: None,
            })
            .collect();
    }
    let known = cr.status.as_ref().map(|status| &status.inbound_ports);
    let mut ports = assign(&cr.spec.ports, &[]);
    for port in &mut ports {
        if port.proxy_port.is_some()
            && let Some(known) = known.and_then(|known| known.get(&port.name))
        {
            port.proxy_port = Some(*known);
        }
    }
    ports
}

/// The port that a caller means who names none: of the protocols in order, the first of `ports` that speaks it.
pub(crate) fn first_of<'a>(ports: &'a [MeshPort], protocols: &[Protocol]) -> Option<&'a MeshPort> {
    protocols
        .iter()
        .find_map(|protocol| ports.iter().find(|port| port.protocol == *protocol))
}

/// A sidecar's listener that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    name: String,
    app_port: u16,
    /// What the app speaks; None if that is not known.
    protocol: Option<proxy::Protocol>,
    proxy_port: u16,
    /// Whether the live pod template has it, and not only the document.
    in_template: bool,
}

/// Listeners in use: those of the live document, or else of the live pod template.
pub(super) fn known(document: Option<&Document>, deployment: Option<&Deployment>) -> Vec<Known> {
    let template = deployment.map(template_ports).unwrap_or_default();
    let Some(document) = document else {
        return template;
    };
    document
        .config
        .listeners
        .iter()
        .filter_map(|listener| match &listener.kind {
            ListenerKind::Inbound(inbound) => Some(Known {
                name: listener.name.clone(),
                app_port: inbound.app_port,
                protocol: Some(inbound.protocol),
                proxy_port: listener.port,
                in_template: template
                    .iter()
                    .any(|port| port.name == listener.name && port.proxy_port == listener.port),
            }),
            ListenerKind::Gateway { .. } => None,
        })
        .collect()
}

/// The ports of a live pod template, which does not tell what the app speaks.
fn template_ports(deployment: &Deployment) -> Vec<Known> {
    let Some(pod) = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref())
    else {
        return Vec::new();
    };
    let ports_of =
        |containers: &[k8s_openapi::api::core::v1::Container], name: &str| -> BTreeMap<String, u16> {
            containers
                .iter()
                .filter(|container| container.name == name)
                .flat_map(|container| container.ports.iter().flatten())
                .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)))
                .collect()
        };
    let app = ports_of(&pod.containers, CONTAINER_APP);
    let proxy = ports_of(
        pod.init_containers.as_deref().unwrap_or_default(),
        CONTAINER_PROXY,
    );
    app.into_iter()
        .filter_map(|(name, app_port)| {
            Some(Known {
                proxy_port: *proxy.get(&target_port(&name))?,
                name,
                app_port,
                protocol: None,
                in_template: true,
            })
        })
        .collect()
}

/// Gives each proxied port its sidecar's port: the one that it has, else the lowest that is not in use.
pub(super) fn assign(ports: &[Port], known: &[Known]) -> Vec<MeshPort> {
    let mut used: BTreeSet<u16> = known.iter().map(|known| known.proxy_port).collect();
    ports
        .iter()
        .map(|port| {
            let proxy_port = proxy_protocol(port.protocol()).map(|protocol| {
                let same = known
                    .iter()
                    .filter(|known| {
                        known.name == port.name
                            && known.app_port == port.port
                            && known.protocol.is_none_or(|known| known == protocol)
                    })
                    .max_by_key(|known| known.in_template);
                let number = same.map_or_else(|| lowest_free(&used), |known| known.proxy_port);
                used.insert(number);
                number
            });
            MeshPort {
                name: port.name.clone(),
                number: port.port,
                protocol: port.protocol(),
                proxy_port,
                bulkhead: port.bulkhead.as_ref().map(resilience::of_port),
            }
        })
        .collect()
}

fn lowest_free(used: &BTreeSet<u16>) -> u16 {
    (PORT_INBOUND..u16::MAX)
        .find(|number| !used.contains(number))
        .unwrap_or(u16::MAX)
}

/// What the proxy speaks to the app; None if it does not carry the port.
pub(super) const fn proxy_protocol(protocol: Protocol) -> Option<proxy::Protocol> {
    match protocol {
        Protocol::Http => Some(proxy::Protocol::Http1),
        Protocol::H2c => Some(proxy::Protocol::H2c),
        Protocol::Grpc => Some(proxy::Protocol::Grpc),
        Protocol::Tcp => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, number: u16, protocol: Protocol) -> Port {
        Port {
            name: name.to_owned(),
            port: number,
            protocol: Some(protocol),
            bulkhead: None,
        }
    }

    fn in_use(name: &str, app_port: u16, proxy_port: u16) -> Known {
        Known {
            name: name.to_owned(),
            app_port,
            protocol: Some(proxy::Protocol::Http1),
            proxy_port,
            in_template: true,
        }
    }

    fn numbers(ports: &[MeshPort]) -> Vec<Option<u16>> {
        ports.iter().map(|port| port.proxy_port).collect()
    }

    #[test]
    fn at_first_the_proxied_ports_are_numbered_in_order() {
        let ports = [
            port("a", 1, Protocol::Http),
            port("b", 2, Protocol::Tcp),
            port("c", 3, Protocol::Grpc),
        ];
        assert_eq!(numbers(&assign(&ports, &[])), [Some(15100), None, Some(15101)]);
    }

    #[test]
    fn a_port_keeps_its_number_wherever_it_is_moved() {
        let known = [in_use("a", 1, 15100), in_use("b", 2, 15101)];
        let ports = [
            port("c", 3, Protocol::Http),
            port("b", 2, Protocol::Http),
            port("a", 1, Protocol::Http),
        ];
        assert_eq!(
            numbers(&assign(&ports, &known)),
            [Some(15102), Some(15101), Some(15100)]
        );
    }

    #[test]
    fn a_port_whose_app_port_or_protocol_changed_gets_a_new_number() {
        let known = [in_use("a", 1, 15100)];
        assert_eq!(
            numbers(&assign(&[port("a", 9, Protocol::Http)], &known)),
            [Some(15101)]
        );
        assert_eq!(
            numbers(&assign(&[port("a", 1, Protocol::Grpc)], &known)),
            [Some(15101)]
        );
    }

    #[test]
    fn a_lost_document_moves_no_port_whatever_is_spoken_there() {
        let deployment: Deployment =
            serde_json::from_value(serde_json::json!({"spec": {"selector": {}, "template": {"spec": {
                "containers": [{"name": CONTAINER_APP, "ports": [
                    {"name": "http", "containerPort": 8080}, {"name": "grpc", "containerPort": 9000}]}],
                "initContainers": [{"name": CONTAINER_PROXY, "ports": [
                    {"name": "t-http", "containerPort": 15100}, {"name": "t-grpc", "containerPort": 15107}]}],
            }}}}))
            .unwrap();
        let ports = [
            port("grpc", 9000, Protocol::Grpc),
            port("http", 8080, Protocol::Http),
        ];
        assert_eq!(
            numbers(&assign(&ports, &known(None, Some(&deployment)))),
            [Some(15107), Some(15100)]
        );
    }

    #[test]
    fn while_a_name_has_two_listeners_the_one_of_the_live_pods_template_counts() {
        let mut older = in_use("a", 1, 15100);
        older.in_template = false;
        let known = [older, in_use("a", 1, 15103)];
        assert_eq!(
            numbers(&assign(&[port("a", 1, Protocol::Http)], &known)),
            [Some(15103)]
        );
    }
}
