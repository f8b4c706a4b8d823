//! DNS of the headless Services: endpoints without an operator.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::lookup_host, time::timeout};
use trellis_proxy_config::{ClusterName, cluster::Dns};

use crate::{configuration::Configuration, discovery::Origin};

/// How often names are asked again; the cluster's DNS caches for 5 to 30 s.
const INTERVAL: Duration = Duration::from_secs(5);
/// The resolver's own limit is 5 s a server and try.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks about every cluster whose endpoints nobody knows better, now and again and again.
pub(crate) async fn resolve(configuration: Arc<Configuration>) {
    let mut versions = configuration.versions();
    loop {
        for (cluster, dns) in wanted(&configuration) {
            let addresses = lookup(&dns).await;
            // The stream may have come meanwhile.
            if !addresses.is_empty() && configuration.discovery.wants_dns(&cluster, Instant::now()) {
                configuration.endpoints(&cluster, Origin::Dns, addresses);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            // A new document may have new clusters.
            _ = versions.changed() => {}
        }
    }
}

fn wanted(configuration: &Configuration) -> Vec<(ClusterName, Dns)> {
    let now = Instant::now();
    let Some(snapshot) = configuration.snapshot.load_full() else {
        return Vec::new();
    };
    let clusters = snapshot.clusters.iter();
    clusters
        .filter(|(name, _)| configuration.discovery.wants_dns(name, now))
        .filter_map(|(name, cluster)| Some((name.clone(), cluster.dns()?.clone())))
        .collect()
}

async fn lookup(dns: &Dns) -> Vec<SocketAddr> {
    // A dot at the end: the name is complete, so the search list of the pod is not tried first.
    let name = if dns.name.contains('.') && !dns.name.ends_with('.') {
        format!("{}.", dns.name)
    } else {
        dns.name.clone()
    };
    match timeout(TIMEOUT, lookup_host((name.as_str(), dns.port))).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "failed to resolve");
            Vec::new()
        }
        Err(_) => {
            tracing::debug!(name, "failed to resolve in time");
            Vec::new()
        }
    }
}
