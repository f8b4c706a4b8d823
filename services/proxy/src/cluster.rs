//! A cluster while the proxy runs: its current endpoints.
//!
//! A cluster outlives documents as long as its own part of them stays the same, and an endpoint outlives changes of the
//! endpoint list as long as its address stays: connections and load survive every unrelated change.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{sync::watch, time::timeout};
use trellis_proxy_config::{Cluster as Settings, ClusterName, Protocol, cluster::Dns};
use trellis_resilience::breaker;

use crate::{balance, endpoint::Endpoint, policies::Policies, pool};

/// How long an address counts after it has left. A pod that ends leaves at once, but sends what it still has: its drain
/// and the last requests of its callers take less. Short enough that no other pod has the address meanwhile.
const LEAVING: Duration = Duration::from_secs(15);
/// Longest wait of a request for the first word about endpoints.
const FIRST_ENDPOINTS: Duration = Duration::from_secs(2);

/// A named group of endpoints.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// `namespace/microservice/port`, or the app's own port.
    pub(crate) name: Arc<str>,
    protocol: Protocol,
    dns: Option<Dns>,
    idle: Duration,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// None of the app in the same pod.
    policies: Option<Policies>,
    /// For endpoints to come.
    breaker: ArcSwapOption<breaker::Settings>,
    /// Addresses that have left, and when.
    left: ArcSwap<Vec<(IpAddr, Instant)>>,
    /// Held while `endpoints` is replaced.
    replacing: Mutex<()>,
    /// Whether anyone has named the endpoints yet.
    known: watch::Sender<bool>,
}

impl Cluster {
    /// A cluster of other pods; endpoints come later.
    pub(crate) fn new(name: &str, settings: &Settings) -> Self {
        let mut cluster = Self::with_idle(name, settings.protocol, settings.dns.clone(), pool::MESH_IDLE);
        cluster.policies = Some(Policies::new(&cluster.name, &settings.policy));
        cluster
            .breaker
            .store(settings.policy.breaker.clone().map(Arc::new));
        cluster
    }

    /// The app in the same pod: one endpoint for ever.
    pub(crate) fn app(name: &str, port: u16, protocol: Protocol) -> Self {
        let cluster = Self::with_idle(name, protocol, None, pool::APP_IDLE);
        cluster.replace(&[SocketAddr::from(([127, 0, 0, 1], port))]);
        cluster
    }

    fn with_idle(name: &str, protocol: Protocol, dns: Option<Dns>, idle: Duration) -> Self {
        Self {
            name: name.into(),
            protocol,
            dns,
            idle,
            endpoints: ArcSwap::default(),
            policies: None,
            breaker: ArcSwapOption::empty(),
            left: ArcSwap::default(),
            replacing: Mutex::default(),
            known: watch::Sender::new(false),
        }
    }

    /// What is spoken to the endpoints.
    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether a document means this cluster, whatever its policies are.
    pub(crate) fn is(&self, settings: &Settings) -> bool {
        self.protocol == settings.protocol && self.dns == settings.dns
    }

    /// What stands around its requests; None of the app in the same pod.
    pub(crate) fn policies(&self) -> Option<&Policies> {
        self.policies.as_ref()
    }

    /// Takes new settings of its policies; `other` finds the cluster that answers instead.
    pub(crate) fn set_policies<'a>(
        &self,
        settings: &Settings,
        other: impl FnOnce(&ClusterName) -> Option<&'a Arc<Self>>,
    ) {
        // Not between the moment in which new endpoints have taken theirs and the one in which they are in use.
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(policies) = &self.policies {
            policies.set(settings, other);
        }
        let breaker = settings.policy.breaker.as_ref();
        for endpoint in self.endpoints.load().iter() {
            endpoint.set_breaker(breaker);
        }
        self.breaker.store(breaker.cloned().map(Arc::new));
    }

    /// Every endpoint, as it is now.
    pub(crate) fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// Floor of discovery.
    pub(crate) fn dns(&self) -> Option<&Dns> {
        self.dns.as_ref()
    }

    /// Replaces the endpoints. Those that stay keep their connections.
    pub(crate) fn replace(&self, addresses: &[SocketAddr]) {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.endpoints.load();
        let after: Vec<Arc<Endpoint>> = addresses
            .iter()
            .map(|address| {
                before
                    .iter()
                    .find(|endpoint| endpoint.address == *address)
                    .map_or_else(
                        || {
                            let endpoint = Endpoint::new(*address, self.protocol, self.idle);
                            endpoint.set_breaker(self.breaker.load().as_deref());
                            Arc::new(endpoint)
                        },
                        Arc::clone,
                    )
            })
            .collect();
        let now = Instant::now();
        let mut left: Vec<(IpAddr, Instant)> = self.left.load().to_vec();
        left.retain(|(_, at)| now.duration_since(*at) < LEAVING);
        for gone in before
            .iter()
            .filter(|endpoint| !addresses.contains(&endpoint.address))
        {
            gone.retire();
            left.push((gone.address.ip(), now));
        }
        self.left.store(Arc::new(left));
        self.endpoints.store(Arc::new(after));
        self.known.send_replace(true);
    }

    /// Whether someone has named the endpoints.
    pub(crate) fn is_known(&self) -> bool {
        *self.known.borrow()
    }

    /// Waits until someone has named the endpoints, but not for long: in a proxy that has just started, and in a cluster
    /// that has just been added, they are milliseconds behind the document.
    pub(crate) async fn known(&self) {
        let mut known = self.known.subscribe();
        // Not in time: what happens to a cluster without endpoints happens.
        let _ = timeout(FIRST_ENDPOINTS, known.wait_for(|known| *known)).await;
    }

    /// An endpoint for a request that was not sent to any of `tried`.
    pub(crate) fn choose(&self, tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        balance::choose(&self.endpoints.load(), tried).map(Arc::clone)
    }

    /// Whether there is an endpoint besides `this` that is not among `tried`.
    pub(crate) fn has_other_than(&self, tried: &[SocketAddr], this: SocketAddr) -> bool {
        self.endpoints
            .load()
            .iter()
            .any(|endpoint| endpoint.address != this && !tried.contains(&endpoint.address))
    }

    /// Whether requests from `address` come from an endpoint: one of now, or one that is just leaving.
    pub(crate) fn is_at(&self, address: IpAddr, now: Instant) -> bool {
        self.endpoints
            .load()
            .iter()
            .any(|endpoint| endpoint.address.ip() == address)
            || self
                .left
                .load()
                .iter()
                .any(|(left, at)| *left == address && now.saturating_duration_since(*at) < LEAVING)
    }

    /// Addresses now.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.endpoints
            .load()
            .iter()
            .map(|endpoint| endpoint.address)
            .collect()
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn sweep(&self) {
        for endpoint in self.endpoints.load().iter() {
            endpoint.sweep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_the_first_word_about_endpoints_but_not_for_long() {
        let cluster = Cluster::new("shop/user/http", &Settings::new(Protocol::Http1, None));
        let start = tokio::time::Instant::now();
        cluster.known().await;
        assert_eq!(start.elapsed(), FIRST_ENDPOINTS);
        let (_, told) = tokio::join!(cluster.known(), async { cluster.replace(&[]) });
        assert_eq!((start.elapsed(), told), (FIRST_ENDPOINTS, ()));
    }

    #[test]
    fn an_endpoint_that_leaves_is_known_for_a_moment() {
        let cluster = Cluster::new("shop/gateway/http", &Settings::new(Protocol::Http1, None));
        let [one, other]: [SocketAddr; 2] = [([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into()];
        cluster.replace(&[one]);
        let is_at = |address: SocketAddr, after| cluster.is_at(address.ip(), Instant::now() + after);
        assert!(is_at(one, 10 * LEAVING) && !is_at(other, Duration::ZERO));
        cluster.replace(&[other]);
        assert!(is_at(other, 10 * LEAVING) && is_at(one, Duration::ZERO));
        assert!(!is_at(one, LEAVING));
    }

    #[test]
    fn an_endpoint_that_stays_is_the_same_object() {
        let cluster = Cluster::new("shop/user/http", &Settings::new(Protocol::Http1, None));
        let addresses: Vec<SocketAddr> = (1..=3)
            .map(|port| SocketAddr::from(([10, 0, 0, 1], port)))
            .collect();
        cluster.replace(&addresses[..2]);
        let stays = cluster.choose(&addresses[..1]).unwrap();
        cluster.replace(&addresses[1..]);
        assert!(Arc::ptr_eq(&stays, &cluster.choose(&addresses[2..]).unwrap()));
        assert_eq!(cluster.addresses(), addresses[1..]);
    }
}
