//! The Microservices in `dependsOn`, looked up.
//!
//! The pod template takes names from the spec alone, so that it does not change when a dependency comes, goes or has a
//! fault. TCP is the exception: it is not proxied, so the app must know the Service's own name and port; that address is
//! kept while the dependency is missing.

use k8s_openapi::api::apps::v1::Deployment;
use trellis_api::{
    Microservice,
    microservice::{Dependency, Protocol},
    names::{CONTAINER_APP, PORT_OUTBOUND, service_dns},
};
use trellis_proxy_config::{self as proxy, Cluster, ClusterName, Document, OutboundRoute};

use super::{
    Key, dependency, ports, resilience, routes, validate,
    validated::{MeshTarget, ResolvedDependency},
};

/// Port name in the cluster of a dependency that does not exist: any will do, as nothing answers there.
const UNKNOWN_PORT: &str = "http";

/// Looks every entry up.
pub(super) fn resolve(
    cr: &Microservice,
    others: &[&Microservice],
    live_document: Option<&Document>,
    live_deployment: Option<&Deployment>,
) -> Vec<ResolvedDependency> {
    let own = Key::of(cr);
    let mut resolved: Vec<ResolvedDependency> = cr
        .spec
        .depends_on
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            let key = dependency::key(entry, &own.namespace);
            let target = others.iter().copied().find(|other| Key::of(other) == key);
            let hosts = dependency::hosts(entry, &own.namespace);
            let found = find(entry, &key, target);
            let address_variable = dependency::variable(entry, "ADDR");
            let direct = match &found {
                Found::Port { port, .. } if !port.protocol.is_proxied() => Some(format!(
                    "{}:{}",
                    service_dns(&key.name, &key.namespace),
                    port.number
                )),
                Found::Port { .. } => None,
                Found::Missing(_) => live_direct_address(live_deployment, &address_variable, &key),
            };
            let missing = match &found {
                Found::Port { .. } => None,
                Found::Missing(missing) => Some(missing.clone()),
            };
            match direct {
                Some(address) => ResolvedDependency {
                    index,
                    hosts: Vec::new(),
                    variables: vec![(address_variable, address)],
                    mesh: None,
                    missing,
                },
                None => {
                    // The first host is the shortest.
                    let address = format!("{}:{PORT_OUTBOUND}", hosts.first().map_or("", String::as_str));
                    let (name, cluster) = mesh_cluster(entry, &key, &found, live_document, &hosts);
                    ResolvedDependency {
                        index,
                        variables: vec![
                            (dependency::variable(entry, "URL"), format!("http://{address}")),
                            (address_variable, address),
                        ],
                        mesh: Some(MeshTarget {
                            route: OutboundRoute {
                                hosts: hosts.clone(),
                                cluster: name,
                            },
                            cluster,
                        }),
                        hosts,
                        missing,
                    }
                }
            }
        })
        .collect();
    put_policies(cr, &mut resolved);
    resolved
}

/// Looks up what sagas call, for the saga engine. Nothing stands around its calls: it has its own timeouts and tries.
pub(super) fn participants(
    cr: &Microservice,
    entries: &[Dependency],
    others: &[&Microservice],
    live_document: Option<&Document>,
) -> Vec<MeshTarget> {
    let own = Key::of(cr);
    let target = |entry: &Dependency| {
        let key = dependency::key(entry, &own.namespace);
        let hosts = dependency::hosts(entry, &own.namespace);
        let target = others.iter().copied().find(|other| Key::of(other) == key);
        // Sagas mean the first port that speaks HTTP.
        let ports = target.map(ports::of).unwrap_or_default();
        let first = ports::first_of(&ports, &[Protocol::Http, Protocol::H2c]);
        let entry = &Dependency {
            port: entry.port.clone().or_else(|| first.map(|port| port.name.clone())),
            ..entry.clone()
        };
        let found = find(entry, &key, target);
        if matches!(&found, Found::Port { port, .. } if !port.protocol.is_proxied()) {
            return None;
        }
        let (name, mut cluster) = mesh_cluster(entry, &key, &found, live_document, &hosts);
        cluster.policy = resilience::policy_of_engine();
        let route = OutboundRoute { hosts, cluster: name };
        Some(MeshTarget { route, cluster })
    };
    entries.iter().filter_map(target).collect()
}

/// Puts what stands around its calls into the cluster of every dependency.
fn put_policies(cr: &Microservice, resolved: &mut [ResolvedDependency]) {
    let entries = &cr.spec.depends_on;
    let names: Vec<(usize, ClusterName)> = resolved
        .iter()
        .filter_map(|dependency| Some((dependency.index, dependency.mesh.as_ref()?.route.cluster.clone())))
        .collect();
    for dependency in resolved {
        let Some(mesh) = &mut dependency.mesh else {
            continue;
        };
        let settings = resilience::of(cr, &entries[dependency.index]);
        // Nobody stands in for itself.
        let others = names
            .iter()
            .filter(|(_, name)| *name != mesh.route.cluster)
            .map(|(index, name)| (&entries[*index], name));
        mesh.cluster.policy = resilience::policy(&settings);
        mesh.cluster.fallback = resilience::fallback(&settings, others);
    }
}

enum Found {
    Port {
        port: ports::MeshPort,
        /// The target's spec has faults, so what it says is not what runs.
        faulty: bool,
    },
    Missing(String),
}

fn find(entry: &Dependency, key: &Key, target: Option<&Microservice>) -> Found {
    let Some(target) = target else {
        return Found::Missing(format!(
            "there is no Microservice {:?} in namespace {:?}: create it, or correct the entry",
            key.name, key.namespace
        ));
    };
    let ports = ports::of(target);
    let port = match &entry.port {
        Some(name) => ports.iter().find(|port| port.name == *name),
        None => ports.first(),
    };
    match (port, &entry.port) {
        (Some(port), _) => Found::Port {
            port: port.clone(),
            faulty: validate::has_errors(&validate::problems(target)),
        },
        (None, Some(name)) => Found::Missing(format!(
            "{}/{} has no port {name:?} (it has: {}): correct the entry",
            key.namespace,
            key.name,
            if ports.is_empty() {
                "none".to_owned()
            } else {
                ports
                    .iter()
                    .map(|port| port.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            }
        )),
        (None, None) => Found::Missing(format!(
            "{}/{} has no ports, so it cannot be called: give it one, or remove the entry",
            key.namespace, key.name
        )),
    }
}

/// The cluster behind a dependency. One that is missing gets a cluster without endpoints: the sidecar then answers 503,
/// which callers retry, and not 404, which they might take for the dependency's own answer.
fn mesh_cluster(
    entry: &Dependency,
    key: &Key,
    found: &Found,
    live: Option<&Document>,
    hosts: &[String],
) -> (ClusterName, Cluster) {
    let live = || {
        let config = &live?.config;
        let route = config.outbound.iter().find(|route| route.hosts == hosts)?;
        Some((
            route.cluster.clone(),
            config.clusters.get(&route.cluster)?.clone(),
        ))
    };
    let current = |found: &Found| match found {
        Found::Port { port, .. } => routes::cluster(key, port),
        Found::Missing(_) => None,
    };
    let from_live_first = matches!(found, Found::Port { faulty: true, .. });
    let cluster = if from_live_first {
        live().or_else(|| current(found))
    } else {
        current(found)
    };
    cluster.unwrap_or_else(|| {
        (
            ClusterName {
                namespace: key.namespace.clone(),
                microservice: key.name.clone(),
                port: entry.port.clone().unwrap_or_else(|| UNKNOWN_PORT.to_owned()),
            },
            Cluster::new(proxy::Protocol::Http1, None),
        )
    })
}

/// The address that live pods have for a dependency that they reach directly.
fn live_direct_address(deployment: Option<&Deployment>, variable: &str, key: &Key) -> Option<String> {
    let pod = deployment?.spec.as_ref()?.template.spec.as_ref()?;
    pod.containers
        .iter()
        .find(|container| container.name == CONTAINER_APP)?
        .env
        .iter()
        .flatten()
        .find(|live| live.name == variable)?
        .value
        .clone()
        .filter(|value| {
            value
                .strip_prefix(&service_dns(&key.name, &key.namespace))
                .is_some_and(|rest| rest.starts_with(':'))
        })
}
