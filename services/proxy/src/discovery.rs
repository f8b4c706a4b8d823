//! What is known of endpoints, and from whom.
//!
//! | from | used |
//! |---|---|
//! | stream | always, from the moment it comes |
//! | last good (the stream's, before a restart) | until the stream or DNS says something |
//! | DNS of the headless Service | if the stream never named the cluster's endpoints, or is away for longer than [`STALE`] |
//!
//! DNS that answers nothing replaces nothing: old endpoints may still be there, none surely is not.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;
use trellis_proxy_config::ClusterName;

/// How long the stream may be away before DNS knows better. An operator that rolls is back within seconds.
pub(crate) const STALE: Duration = Duration::from_secs(10);

/// Who named the endpoints of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Origin {
    /// The copy on disk.
    LastGood,
    /// The headless Service.
    Dns,
    /// The operator.
    Stream,
}

/// Endpoints of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// Who named them.
    pub(crate) origin: Origin,
    /// Sorted.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// What is known of endpoints.
#[derive(Debug)]
pub(crate) struct Discovery(Mutex<State>);

#[derive(Debug)]
struct State {
    clusters: BTreeMap<ClusterName, Known>,
    stream: Stream,
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Up,
    AwaySince(Instant),
}

impl Discovery {
    /// Nothing is known, and the stream is away.
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(State {
            clusters: BTreeMap::new(),
            stream: Stream::AwaySince(now),
        }))
    }

    /// Notes endpoints. True if that changed the addresses.
    pub(crate) fn note(&self, cluster: &ClusterName, origin: Origin, mut addresses: Vec<SocketAddr>) -> bool {
        addresses.sort();
        addresses.dedup();
        let mut state = self.lock();
        let before = state.clusters.insert(
            cluster.clone(),
            Known {
                origin,
                addresses: addresses.clone(),
            },
        );
        before.is_none_or(|before| before.addresses != addresses)
    }

    /// Addresses of a cluster, if anyone has named them.
    pub(crate) fn addresses(&self, cluster: &ClusterName) -> Option<Vec<SocketAddr>> {
        let state = self.lock();
        state.clusters.get(cluster).map(|known| known.addresses.clone())
    }

    /// Everything known.
    pub(crate) fn all(&self) -> BTreeMap<ClusterName, Known> {
        self.lock().clusters.clone()
    }

    /// Forgets clusters that `keep` does not want.
    pub(crate) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.lock().clusters.retain(|name, _| keep(name));
    }

    /// The stream has come.
    pub(crate) fn stream_up(&self) {
        self.lock().stream = Stream::Up;
    }

    /// The stream has gone.
    pub(crate) fn stream_away(&self, now: Instant) {
        let mut state = self.lock();
        if matches!(state.stream, Stream::Up) {
            state.stream = Stream::AwaySince(now);
        }
    }

    /// Whether the stream is up.
    pub(crate) fn is_stream_up(&self) -> bool {
        matches!(self.lock().stream, Stream::Up)
    }

    /// Whether DNS is to be asked about a cluster.
    pub(crate) fn wants_dns(&self, cluster: &ClusterName, now: Instant) -> bool {
        let state = self.lock();
        let stale = match state.stream {
            Stream::Up => false,
            Stream::AwaySince(since) => now.saturating_duration_since(since) > STALE,
        };
        match state.clusters.get(cluster).map(|known| known.origin) {
            None | Some(Origin::Dns) => true,
            Some(Origin::Stream | Origin::LastGood) => stale,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterName {
        "shop/user/http".parse().unwrap()
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 15100))
    }

    #[test]
    fn dns_is_asked_until_the_stream_speaks_and_again_when_it_is_long_away() {
        let start = Instant::now();
        let discovery = Discovery::new(start);
        assert!(discovery.wants_dns(&cluster(), start));
        discovery.note(&cluster(), Origin::Dns, vec![address(1)]);
        assert!(discovery.wants_dns(&cluster(), start));

        discovery.stream_up();
        discovery.note(&cluster(), Origin::Stream, vec![address(2)]);
        assert!(!discovery.wants_dns(&cluster(), start + 10 * STALE));
        discovery.stream_away(start);
        discovery.stream_away(start + STALE);
        assert!(!discovery.wants_dns(&cluster(), start + STALE));
        assert!(discovery.wants_dns(&cluster(), start + STALE + Duration::from_secs(1)));
    }

    #[test]
    fn the_copy_on_disk_is_used_before_dns() {
        let start = Instant::now();
        let discovery = Discovery::new(start);
        assert!(discovery.note(
            &cluster(),
            Origin::LastGood,
            vec![address(2), address(1), address(2)]
        ));
        assert_eq!(discovery.addresses(&cluster()).unwrap(), [address(1), address(2)]);
        assert!(!discovery.wants_dns(&cluster(), start));
        assert!(
            !discovery.note(&cluster(), Origin::Stream, vec![address(1), address(2)]),
            "nothing has changed"
        );
    }
}
