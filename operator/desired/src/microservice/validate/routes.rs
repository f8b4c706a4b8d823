//! `spec.routes`.

use std::collections::BTreeMap;

use trellis_api::{MicroserviceSpec, microservice::Route};
use trellis_proxy_config::route::methods_overlap;

use super::{Problems, ports::check_name};
use crate::microservice::path;
use crate::syntax;

const MOST: usize = 64;

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    if spec.routes.len() > MOST {
        problems.error(
            "spec.routes",
            format!("{} routes are more than {MOST}: remove some", spec.routes.len()),
        );
    }
    let mut names = BTreeMap::new();
    for (i, route) in spec.routes.iter().enumerate() {
        let at = format!("spec.routes[{i}]");
        if !syntax::is_dns_label(&route.name, 1..=syntax::LABEL_MAX) {
            problems.error(
                format!("{at}.name"),
                format!(
                    "{:?} cannot name a route: use at most {} characters of a-z, 0-9 and '-', start and end with a \
                     letter or digit",
                    route.name,
                    syntax::LABEL_MAX
                ),
            );
        }
        if let Some(first) = names.insert(&route.name, i) {
            problems.error(
                format!("{at}.name"),
                format!(
                    "{:?} is the name of spec.routes[{first}] too: give each route its own",
                    route.name
                ),
            );
        }
        check_path(&format!("{at}.path"), &route.path, problems);
        check_methods(&at, route, problems);
        check_port(&format!("{at}.port"), route, spec, problems);
        let equal = spec.routes[..i].iter().position(|other| {
            path::normalise(&other.path) == path::normalise(&route.path)
                && methods_overlap(&other.methods, &route.methods)
        });
        if let Some(first) = equal {
            problems.error(
                format!("{at}.path"),
                format!(
                    "{:?} is the path of spec.routes[{first}] too, with a common method (a trailing slash and \
                     needless escapes make no difference): change one, or share the methods out",
                    route.path
                ),
            );
        }
    }
}

fn check_path(field: &str, path: &str, problems: &mut Problems) {
    if path.len() > 1024 {
        problems.error(
            field,
            format!("{} characters are more than 1024: shorten the path", path.len()),
        );
    }
    if let Some(fault) = path::fault(path) {
        problems.error(field, format!("{path:?} {fault}"));
    }
}

fn check_methods(at: &str, route: &Route, problems: &mut Problems) {
    for (j, method) in route.methods.iter().enumerate() {
        if route.methods[..j].contains(method) {
            problems.error(
                format!("{at}.methods[{j}]"),
                format!("{} is listed twice: remove one", method.as_ref()),
            );
        }
    }
}

fn check_port(field: &str, route: &Route, spec: &MicroserviceSpec, problems: &mut Problems) {
    // A gateway with routes has its own fault.
    if spec.gateway.is_some() {
        return;
    }
    let Some(name) = &route.port else {
        if !spec.ports.iter().any(|port| port.protocol().is_proxied()) {
            problems.error(
                field,
                "there is no port for the route to go to: add one with protocol HTTP, H2C or GRPC to spec.ports",
            );
        }
        return;
    };
    check_name(field, name, problems);
    match spec.ports.iter().find(|port| port.name == *name) {
        None => problems.error(
            field,
            format!(
                "there is no port {name:?}: use one of spec.ports ({})",
                spec.ports
                    .iter()
                    .map(|port| port.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        ),
        Some(port) if !port.protocol().is_proxied() => problems.error(
            field,
            format!(
                "port {name:?} speaks TCP, which gateways cannot route by path: use an HTTP, H2C or GRPC port"
            ),
        ),
        Some(_) => {}
    }
}
