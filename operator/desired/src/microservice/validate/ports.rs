//! `spec.ports`.

use std::collections::BTreeMap;

use trellis_api::{
    MicroserviceSpec,
    microservice::{Port, PortBulkhead},
    names::{MAX_PORTS, RESERVED_PORTS, TARGET_PORT_PREFIX},
};

use super::Problems;
use crate::microservice::resilience;
use crate::syntax;

/// Most requests at a port at once, or waiting.
const MOST_AT_ONCE: u32 = 1_000_000;

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    if spec.ports.len() > MAX_PORTS {
        problems.error(
            "spec.ports",
            format!(
                "{} ports are more than {MAX_PORTS}: remove some",
                spec.ports.len()
            ),
        );
    }
    let mut names = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    for (i, port) in spec.ports.iter().enumerate() {
        let field = format!("spec.ports[{i}].name");
        check_name(&field, &port.name, problems);
        if port.name.starts_with(TARGET_PORT_PREFIX) {
            problems.error(
                &field,
                format!(
                    "{:?} starts with {TARGET_PORT_PREFIX}, which names the sidecar's ports: choose another name",
                    port.name
                ),
            );
        }
        if let Some(first) = names.insert(&port.name, i) {
            problems.error(
                &field,
                format!(
                    "{:?} is the name of spec.ports[{first}] too: give each port its own",
                    port.name
                ),
            );
        }
        let field = format!("spec.ports[{i}].port");
        if port.port == 0 {
            problems.error(&field, "0 is no port: use 1 to 65535");
        }
        if RESERVED_PORTS.contains(&port.port) {
            problems.error(
                &field,
                format!(
                    "ports {}-{} belong to the sidecar: let the app listen on another port than {}",
                    RESERVED_PORTS.start(),
                    RESERVED_PORTS.end(),
                    port.port
                ),
            );
        }
        if let Some(bulkhead) = &port.bulkhead {
            check_bulkhead(&format!("spec.ports[{i}].bulkhead"), port, bulkhead, problems);
        }
        if let Some(first) = numbers.insert(port.port, i) {
            problems.error(
                &field,
                format!(
                    "{} is the number of spec.ports[{first}] too: give each port its own",
                    port.port
                ),
            );
        }
    }
}

fn check_bulkhead(field: &str, port: &Port, bulkhead: &PortBulkhead, problems: &mut Problems) {
    if !port.protocol().is_proxied() {
        problems.error(
            field,
            "a TCP port is not proxied, so nothing can wait in front of it: remove bulkhead, or say what is spoken in protocol",
        );
    }
    for (name, given, least) in [
        ("maxConcurrent", bulkhead.max_concurrent, 1),
        ("maxQueue", bulkhead.max_queue.unwrap_or_default(), 0),
    ] {
        if !(least..=MOST_AT_ONCE).contains(&given) {
            let message = format!("{given} is out of range: use {least} to {MOST_AT_ONCE}");
            problems.error(format!("{field}.{name}"), message);
        }
    }
    for fault in resilience::of_port(bulkhead).faults() {
        let name = fault.field.trim_start_matches("bulkhead.");
        problems.error(format!("{field}.{name}"), fault.message);
    }
}

/// The form of a port's name, here and where a port is referred to.
pub(super) fn check_name(field: &str, name: &str, problems: &mut Problems) {
    if !syntax::is_port_name(name) {
        problems.error(
            field,
            format!(
                "{name:?} cannot name a port: use at most {} characters of a-z, 0-9 and single dashes, start with a \
                 letter and end with a letter or digit",
                syntax::PORT_NAME_MAX
            ),
        );
    }
}
