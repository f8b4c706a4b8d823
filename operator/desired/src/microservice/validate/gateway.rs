//! `spec.gateway`.

use std::{collections::BTreeMap, ops::RangeInclusive};

use trellis_api::{
    MicroserviceSpec,
    microservice::{GatewayListener, Protocol},
    names::{PORT_GATEWAY_OFFSET, RESERVED_PORTS},
};

use super::{Problems, ports::check_name};

/// Above are, with the offset, the ports that the kernel gives to connections (`net.ipv4.ip_local_port_range`).
const PORTS: RangeInclusive<u16> = 1..=22767;
/// The API server's default `--service-node-port-range`.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
const MOST: usize = 8;

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    let Some(gateway) = &spec.gateway else {
        return;
    };
    if gateway.listeners.is_empty() || gateway.listeners.len() > MOST {
        problems.error(
            "spec.gateway.listeners",
            format!(
                "{} listeners: a gateway has 1 to {MOST}, for example {{name: http, port: 80}}",
                gateway.listeners.len()
            ),
        );
    }
    let mut names = BTreeMap::new();
    let mut ports = BTreeMap::new();
    let mut node_ports = BTreeMap::new();
    for (i, listener) in gateway.listeners.iter().enumerate() {
        let at = format!("spec.gateway.listeners[{i}]");
        check_listener(&at, listener, problems);
        let twice = [
            ("name", listener.name.clone(), names.insert(&listener.name, i)),
            ("port", listener.port.to_string(), ports.insert(listener.port, i)),
            (
                "nodePort",
                listener.node_port.unwrap_or_default().to_string(),
                listener.node_port.and_then(|port| node_ports.insert(port, i)),
            ),
        ];
        for (field, value, first) in twice {
            if let Some(first) = first {
                problems.error(
                    format!("{at}.{field}"),
                    format!(
                        "{value} is the {field} of spec.gateway.listeners[{first}] too: give each its own"
                    ),
                );
            }
        }
    }
}

fn check_listener(at: &str, listener: &GatewayListener, problems: &mut Problems) {
    check_name(&format!("{at}.name"), &listener.name, problems);
    if !PORTS.contains(&listener.port) {
        problems.error(
            format!("{at}.port"),
            format!(
                "{} is out of range: use {} to {}",
                listener.port,
                PORTS.start(),
                PORTS.end()
            ),
        );
    } else if RESERVED_PORTS.contains(&(listener.port + PORT_GATEWAY_OFFSET)) {
        problems.error(
            format!("{at}.port"),
            format!(
                "the pods would listen on {}, which belongs to the proxy itself: use a port outside {} to {}",
                listener.port + PORT_GATEWAY_OFFSET,
                RESERVED_PORTS.start() - PORT_GATEWAY_OFFSET,
                RESERVED_PORTS.end() - PORT_GATEWAY_OFFSET
            ),
        );
    }
    if listener.protocol == Some(Protocol::Tcp) {
        problems.error(
            format!("{at}.protocol"),
            "TCP cannot be routed by path: set it to HTTP, H2C or GRPC",
        );
    }
    if let Some(port) = listener.node_port
        && !NODE_PORTS.contains(&port)
    {
        problems.error(
            format!("{at}.nodePort"),
            format!(
                "{port} is out of range: use {} to {}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            ),
        );
    }
}
