//! The gateways in front of a Microservice: whose word about callers its sidecar takes.
//!
//! A gateway replaces what callers from outside say about themselves by what it knows; nobody else in the mesh is known to
//! do so. A gateway is believed if it
//!
//! - may send requests here: it serves the namespace, by the name of the Microservice or by a route that it declares;
//! - and is of the same namespace, or of one that the operator was told to trust. Any tenant can write a gateway that
//!   serves all namespaces; such a gateway's requests are served like everybody's.
//!
//! What this does not protect against: whoever may create pods in a namespace with a believed gateway. A pod with the
//! gateway's labels has an address of its cluster.

use std::collections::{BTreeMap, BTreeSet};

use trellis_api::{Microservice, microservice::Exposure};
use trellis_proxy_config::{Cluster, ClusterName, Document};

use super::{Key, ports, routes, validate};

/// A cluster for each gateway that serves `cr` and is believed.
pub(super) fn resolve(
    cr: &Microservice,
    others: &[&Microservice],
    live: Option<&Document>,
    trusted_namespaces: &BTreeSet<String>,
) -> BTreeMap<ClusterName, Cluster> {
    let own = Key::of(cr);
    let by_name = cr.spec.exposure.unwrap_or_default() == Exposure::Gateway
        && routes::http_port(&ports::of(cr)).is_some();
    others
        .iter()
        .filter_map(|other| {
            let gateway = other.spec.gateway.as_ref()?;
            let key = Key::of(other);
            if key.namespace != own.namespace && !trusted_namespaces.contains(&key.namespace) {
                return None;
            }
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
