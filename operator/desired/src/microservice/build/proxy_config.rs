//! The proxy's boot document, in a ConfigMap that is updated in place.
//!
//! **Order.** A document that asks for the same as the live one keeps its version, so nothing is written. Another gets
//! the highest resourceVersion of its inputs, and at least one more than the live one.
//!
//! **While pods roll** the document serves the old pods and the new. What only old pods use (an inbound listener whose
//! app port changed, a dependency that the new spec no longer has) stays in it until the roll is over.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use trellis_api::names::{KEY_PROXY_CONFIG, proxy_config_map};
use trellis_proxy_config::{
    API_VERSION, Cluster, ClusterName, Config, Document, Fallback, Identity, Inbound, Listener, ListenerKind,
    OutboundRoute, Quota, Role as ProxyRole, Stream,
};

use super::metadata;
use crate::microservice::{
    ports,
    validated::{GatewayRole, Role, ServiceRole, Validated},
};

pub(super) fn build(validated: &Validated, template_digest: &str) -> ConfigMap {
    let document = document(validated, template_digest);
    // Plain data with string keys always serialises; an empty text would be a document that no proxy takes.
    let text = serde_json::to_string_pretty(&document).unwrap_or_default();
    ConfigMap {
        metadata: metadata::child(validated, proxy_config_map(&validated.key.name)),
        data: Some(BTreeMap::from([(KEY_PROXY_CONFIG.to_owned(), text + "\n")])),
        ..Default::default()
    }
}

fn document(validated: &Validated, template_digest: &str) -> Document {
    let mut config = config(validated);
    let live = validated.document.live.as_ref();
    let settled =
        validated.live.settled && validated.live.template_digest.as_deref() == Some(template_digest);
    if let Some(live) = live
        && !settled
        && live.config.role == config.role
    {
        keep_what_old_pods_use(&mut config, &live.config);
    }
    let mut document = Document::new(validated.document.newest_input, config);
    if let Some(live) = live {
        let same = live.api_version == API_VERSION && live.digest == document.digest;
        document.version = if same {
            live.version
        } else {
            document.version.max(live.version.saturating_add(1))
        };
    }
    document
}

fn config(validated: &Validated) -> Config {
    let (role, listeners, outbound, gateways, clusters) = match &validated.role {
        Role::Service(service) => {
            let (outbound, mut clusters) = outbound(service);
            let gateways = service.gateways.keys().cloned().collect();
            for (name, cluster) in &service.gateways {
                clusters.entry(name.clone()).or_insert_with(|| cluster.clone());
            }
            (ProxyRole::Sidecar, inbound(service), outbound, gateways, clusters)
        }
        Role::Gateway(gateway) => (
            ProxyRole::Gateway,
            gateway_listeners(gateway),
            Vec::new(),
            Vec::new(),
            gateway.clusters.clone(),
        ),
    };
    Config {
        role,
        identity: Identity {
            namespace: validated.key.namespace.clone(),
            microservice: validated.key.name.clone(),
        },
        stream: Some(Stream {
            address: validated.proxy.stream_address.clone(),
        }),
        listeners,
        outbound,
        gateways,
        limits: validated.limits.clone(),
        quota: quota(validated),
        clusters,
    }
}

/// None if there is nothing to lease: then a change of the address changes no document.
fn quota(validated: &Validated) -> Option<Quota> {
    let leased = validated.limits.iter().any(|limit| limit.lease.is_some());
    leased.then(|| Quota {
        address: validated.proxy.quota_address.clone(),
    })
}

fn inbound(service: &ServiceRole) -> Vec<Listener> {
    service
        .ports
        .iter()
        .filter_map(|port| {
            Some(Listener {
                name: port.name.clone(),
                port: port.proxy_port?,
                kind: ListenerKind::Inbound(Inbound {
                    app_port: port.number,
                    protocol: ports::proxy_protocol(port.protocol)?,
                    bulkhead: port.bulkhead.clone(),
                }),
            })
        })
        .collect()
}

fn outbound(service: &ServiceRole) -> (Vec<OutboundRoute>, BTreeMap<ClusterName, Cluster>) {
    let targets = service
        .dependencies
        .iter()
        .filter_map(|dependency| dependency.mesh.as_ref())
        .chain(&service.participants);
    let (mut routes, mut clusters) = (Vec::new(), BTreeMap::new());
    for target in targets {
        routes.push(target.route.clone());
        // Of entries that mean the same port the first one's policy holds.
        clusters
            .entry(target.route.cluster.clone())
            .or_insert_with(|| target.cluster.clone());
    }
    (routes, clusters)
}

fn gateway_listeners(gateway: &GatewayRole) -> Vec<Listener> {
    gateway
        .listeners
        .iter()
        .filter_map(|listener| {
            Some(Listener {
                name: listener.port.name.clone(),
                port: listener.port.proxy_port?,
                kind: ListenerKind::Gateway {
                    routes: gateway.routes.clone(),
                },
            })
        })
        .collect()
}

/// Adds the listeners and outbound routes of `live` that `config` has no longer.
fn keep_what_old_pods_use(config: &mut Config, live: &Config) {
    let taken: BTreeSet<u16> = config.listeners.iter().map(|listener| listener.port).collect();
    let routes = config.listeners.iter().find_map(|listener| match &listener.kind {
        ListenerKind::Gateway { routes } => Some(routes.clone()),
        ListenerKind::Inbound(_) => None,
    });
    for listener in live
        .listeners
        .iter()
        .filter(|listener| !taken.contains(&listener.port))
    {
        let mut listener = listener.clone();
        // A gateway's old listener serves what the new ones serve: its routes may lead to what is gone.
        if let (ListenerKind::Gateway { routes: kept }, Some(routes)) = (&mut listener.kind, &routes) {
            kept.clone_from(routes);
        }
        config.listeners.push(listener);
    }
    let hosts: BTreeSet<String> = config
        .outbound
        .iter()
        .flat_map(|route| route.hosts.clone())
        .collect();
    for route in &live.outbound {
        if let Some(cluster) = live.clusters.get(&route.cluster)
            && route.hosts.iter().all(|host| !hosts.contains(host))
        {
            config
                .clusters
                .entry(route.cluster.clone())
                .or_insert_with(|| cluster.clone());
            config.outbound.push(route.clone());
        }
    }
    // A cluster that is kept may have a stand-in that is not.
    let names: BTreeSet<ClusterName> = config.clusters.keys().cloned().collect();
    for cluster in config.clusters.values_mut() {
        if let Some(Fallback::Cluster(other)) = &cluster.fallback
            && !names.contains(other)
        {
            cluster.fallback = None;
        }
    }
}
