//! The routes of a gateway: which Microservice serves which path.
//!
//! Every Microservice of the namespaces that a gateway serves offers its declared routes and, unless its exposure is
//! `Internal`, `/{name}`. Of two equal paths with a common method a declared one wins over one by service, and otherwise
//! the one of the older Microservice: so that nobody takes over the path of what already runs.
//!
//! A Microservice whose spec has faults keeps the routes that it had, which are in the gateway's live document.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use trellis_api::{
    Microservice,
    microservice::{Exposure, FromNamespaces, Gateway, Protocol},
    names::{headless_service, service_dns},
};
use trellis_proxy_config::{
    Cluster, ClusterName, Document, ListenerKind, Origin, Rewrite, Route, cluster::Dns,
};

use super::{
    Key, path,
    ports::{self, MeshPort},
    validate,
};

/// What a gateway serves.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    /// Ordered by path.
    pub routes: Vec<Route>,
    /// Where they lead.
    pub clusters: BTreeMap<ClusterName, Cluster>,
}

/// A declared route that an older Microservice has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// Place of the route in `spec.routes`.
    pub index: usize,
    /// Its path.
    pub path: String,
    /// Who has it.
    pub winner: Key,
}

#[derive(Debug, Clone)]
struct Candidate {
    owner: Key,
    created: Option<Timestamp>,
    /// Place in `spec.routes`; None for a route by service.
    index: Option<usize>,
    route: Route,
    cluster: Cluster,
}

/// The routes of a gateway in `namespace`.
pub(super) fn table(
    namespace: &str,
    gateway: &Gateway,
    microservices: &[&Microservice],
    live: Option<&Document>,
) -> Table {
    let candidates = microservices
        .iter()
        .filter(|cr| offers_routes(cr) && serves(gateway, namespace, cr.metadata.namespace.as_deref()))
        .flat_map(|cr| {
            if validate::has_errors(&validate::problems(cr)) {
                kept(cr, live)
            } else {
                candidates(cr)
            }
        })
        .filter(|candidate| gateway.path_by_service() || candidate.route.origin == Origin::Declared)
        .collect();
    let (accepted, _) = accept(candidates);
    let declared: BTreeSet<String> = accepted
        .iter()
        .filter(|candidate| candidate.route.origin == Origin::Declared)
        .map(|candidate| candidate.route.path.clone())
        .collect();
    let mut table = Table::default();
    for candidate in accepted {
        // A request for a method that the declared route lacks gets 405, not another service's answer.
        if candidate.route.origin == Origin::ByService && declared.contains(&candidate.route.path) {
            continue;
        }
        table
            .clusters
            .insert(candidate.route.cluster.clone(), candidate.cluster);
        table.routes.push(candidate.route);
    }
    table
        .routes
        .sort_by(|a, b| (&a.path, a.origin, &a.name).cmp(&(&b.path, b.origin, &b.name)));
    table
}

/// Whether a gateway serves the namespace of `cr`, and which declared routes of `cr` it lost there.
pub(super) fn declared(cr: &Microservice, microservices: &[&Microservice]) -> (bool, Vec<Lost>) {
    let own = Key::of(cr);
    let gateways: Vec<(&str, &Gateway)> = microservices
        .iter()
        .filter_map(|other| Some((other.metadata.namespace.as_deref()?, other.spec.gateway.as_ref()?)))
        .filter(|(namespace, gateway)| serves(gateway, namespace, Some(&own.namespace)))
        .collect();
    let wanted: BTreeSet<String> = cr
        .spec
        .routes
        .iter()
        .map(|route| path::normalise(&route.path))
        .collect();
    let mut lost: Vec<Lost> = Vec::new();
    let rivals: Vec<&Microservice> = microservices
        .iter()
        .copied()
        .filter(|other| Key::of(other) != own && offers_routes(other))
        .filter(|other| {
            let mut paths = other.spec.routes.iter().map(|route| path::normalise(&route.path));
            paths.any(|path| wanted.contains(&path)) && !validate::has_errors(&validate::problems(other))
        })
        .collect();
    for (namespace, gateway) in &gateways {
        let others = rivals
            .iter()
            .filter(|other| serves(gateway, namespace, other.metadata.namespace.as_deref()));
        let equal = others
            .copied()
            .chain([cr])
            .flat_map(candidates)
            .filter(|candidate| {
                candidate.route.origin == Origin::Declared && wanted.contains(&candidate.route.path)
            })
            .collect();
        for (candidate, winner) in accept(equal).1 {
            if let (true, Some(index)) = (candidate.owner == own, candidate.index) {
                lost.push(Lost {
                    index,
                    path: candidate.route.path,
                    winner,
                });
            }
        }
    }
    lost.sort_by_key(|lost| lost.index);
    lost.dedup_by_key(|lost| lost.index);
    (!gateways.is_empty(), lost)
}

/// The cluster of a port, which the sidecars behind it serve.
pub(super) fn cluster(key: &Key, port: &MeshPort) -> Option<(ClusterName, Cluster)> {
    let name = ClusterName {
        namespace: key.namespace.clone(),
        microservice: key.name.clone(),
        port: port.name.clone(),
    };
    let dns = Dns {
        name: service_dns(&headless_service(&key.name), &key.namespace),
        port: port.proxy_port?,
    };
    let cluster = Cluster::new(ports::proxy_protocol(port.protocol)?, Some(dns));
    Some((name, cluster))
}

/// The port that HTTP callers mean who name none.
pub(super) fn http_port(ports: &[MeshPort]) -> Option<&MeshPort> {
    ports::first_of(ports, &[Protocol::Http, Protocol::H2c])
}

/// Whether a gateway in `gateway_namespace` serves Microservices of `namespace`.
pub(super) fn serves(gateway: &Gateway, gateway_namespace: &str, namespace: Option<&str>) -> bool {
    match gateway.from_namespaces() {
        FromNamespaces::Same => namespace == Some(gateway_namespace),
        FromNamespaces::All => true,
    }
}

fn offers_routes(cr: &Microservice) -> bool {
    cr.spec.gateway.is_none() && cr.metadata.deletion_timestamp.is_none()
}

fn candidates(cr: &Microservice) -> Vec<Candidate> {
    let owner = Key::of(cr);
    let ports = ports::of(cr);
    let candidate =
        |index: Option<usize>, port: &MeshPort, name: String, path: String, methods: Vec<String>| {
            let (cluster_name, cluster) = cluster(&owner, port)?;
            let (origin, rewrite) = match index {
                Some(_) => (Origin::Declared, Rewrite::None),
                None => (Origin::ByService, Rewrite::StripPrefix),
            };
            Some(Candidate {
                owner: owner.clone(),
                created: created(cr),
                index,
                route: Route {
                    name,
                    origin,
                    path,
                    methods,
                    rewrite,
                    cluster: cluster_name,
                },
                cluster,
            })
        };
    let mut candidates = Vec::new();
    // A faulty Microservice keeps its routes, but a path that no proxy takes would spoil the whole document.
    let routes = cr
        .spec
        .routes
        .iter()
        .enumerate()
        .filter(|(_, route)| path::fault(&route.path).is_none());
    for (index, route) in routes {
        let port = match &route.port {
            Some(name) => ports.iter().find(|port| port.name == *name),
            None => ports::first_of(&ports, &[Protocol::Http, Protocol::H2c, Protocol::Grpc]),
        };
        candidates.extend(port.and_then(|port| {
            candidate(
                Some(index),
                port,
                format!("{}/{}/{}", owner.namespace, owner.name, route.name),
                path::normalise(&route.path),
                route
                    .methods
                    .iter()
                    .map(|method| method.as_ref().to_owned())
                    .collect(),
            )
        }));
    }
    if cr.spec.exposure.unwrap_or_default() == Exposure::Gateway {
        candidates.extend(http_port(&ports).and_then(|port| {
            candidate(
                None,
                port,
                format!("{}/{}", owner.namespace, owner.name),
                format!("/{}", owner.name),
                Vec::new(),
            )
        }));
    }
    candidates
}

/// The routes that a Microservice has in the live document. An operator of an earlier release may have written a path
/// there that no proxy takes.
fn kept(cr: &Microservice, live: Option<&Document>) -> Vec<Candidate> {
    let owner = Key::of(cr);
    let Some(config) = live.map(|document| &document.config) else {
        return Vec::new();
    };
    let mut seen = BTreeSet::new();
    config
        .listeners
        .iter()
        .filter_map(|listener| match &listener.kind {
            ListenerKind::Gateway { routes } => Some(routes),
            ListenerKind::Inbound(_) => None,
        })
        .flatten()
        .filter(|route| {
            let mut parts = route.name.split('/');
            parts.next() == Some(&owner.namespace) && parts.next() == Some(&owner.name)
        })
        .filter(|route| seen.insert(route.name.clone()))
        .filter_map(|route| {
            Some(Candidate {
                owner: owner.clone(),
                created: created(cr),
                index: None,
                cluster: config.clusters.get(&route.cluster)?.clone(),
                route: Route {
                    path: trellis_proxy_config::path::canonical(&route.path).ok()?,
                    ..route.clone()
                },
            })
        })
        .collect()
}

fn created(cr: &Microservice) -> Option<Timestamp> {
    cr.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Shares paths out: declared routes first, then the older Microservice, then by name. The losers come with the owner of
/// what they lost to.
fn accept(mut candidates: Vec<Candidate>) -> (Vec<Candidate>, Vec<(Candidate, Key)>) {
    candidates.sort_by(|a, b| {
        let rank = |c: &Candidate| (c.route.origin, c.created.unwrap_or(Timestamp::MAX));
        rank(a)
            .cmp(&rank(b))
            .then_with(|| (&a.owner, a.index).cmp(&(&b.owner, b.index)))
    });
    let mut by_path: BTreeMap<(Origin, String), Vec<usize>> = BTreeMap::new();
    let mut accepted: Vec<Candidate> = Vec::new();
    let mut lost = Vec::new();
    for candidate in candidates {
        let equal = by_path
            .entry((candidate.route.origin, candidate.route.path.clone()))
            .or_default();
        let winner = equal
            .iter()
            .filter_map(|index| accepted.get(*index))
            .find(|other| other.route.shares_a_method_with(&candidate.route))
            .map(|other| other.owner.clone());
        match winner {
            Some(winner) => lost.push((candidate, winner)),
            None => {
                equal.push(accepted.len());
                accepted.push(candidate);
            }
        }
    }
    (accepted, lost)
}
