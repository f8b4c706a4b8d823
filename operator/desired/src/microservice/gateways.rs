//! The gateways in front of a Microservice: whose word about callers its sidecar takes.
//!
//! A gateway replaces what callers from outside say about themselves by what it knows; nobody else in the mesh is known to
//! do so. Only a gateway that may send requests here is believed: one that serves the namespace, by the name of the
//! Microservice or by a route that it declares.

use std::collections::BTreeMap;

use trellis_api::{Microservice, microservice::Exposure};
use trellis_proxy_config::{Cluster, ClusterName, Document};

use super::{Key, ports, routes, validate};

/// A cluster for each gateway that serves `cr`.
pub(super) fn resolve(
    cr: &Microservice,
    others: &[&Microservice],
    live: Option<&Document>,
) -> BTreeMap<ClusterName, Cluster> {
    let own = Key::of(cr);
    let by_name = cr.spec.exposure.unwrap_or_default() == Exposure::Gateway
        && routes::http_port(&ports::of(cr)).is_some();
    others
        .iter()
        .filter_map(|other| {
            let gateway = other.spec.gateway.as_ref()?;
            let key = Key::of(other);
            let offered = !cr.spec.routes.is_empty() || by_name && gateway.path_by_service();
            if !offered || !routes::serves(gateway, &key.namespace, Some(&own.namespace)) {
                return None;
            }
            if validate::has_errors(&validate::problems(other)) {
                return kept(&key, live);
            }
            // Every port of a pod has the pod's address, so any will do.
            routes::cluster(&key, ports::of(other).first()?)
        })
        .collect()
}

/// The cluster that a gateway has in the live document: one whose spec has faults goes on with what it had.
fn kept(gateway: &Key, live: Option<&Document>) -> Option<(ClusterName, Cluster)> {
    let config = &live?.config;
    let name = config
        .gateways
        .iter()
        .find(|name| name.namespace == gateway.namespace && name.microservice == gateway.name)?;
    Some((name.clone(), config.clusters.get(name)?.clone()))
}
