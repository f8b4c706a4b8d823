//! How many connections callers may hold on a port, and what becomes of those who cannot be read.
//!
//! Beyond the bound nobody is refused: who comes then waits in the kernel's backlog until a connection ends, as with
//! HAProxy's `maxconn`. A connection that is closed at once may already carry a request, and its caller could not know
//! that nobody has seen it; who waits for too long gives up by its own timeout, and knows. A burst passes unseen. The
//! backlog has a bound of its own: beyond it handshakes are not answered, and callers go elsewhere.
//!
//! What this does not protect against: callers that take all places and keep them busy. Idle ones lose theirs (see
//! [`crate::connection`]).

use std::{sync::Arc, time::Instant};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    direction::Direction,
    metrics::{BadHead, Connections, PortLabels},
    occasionally::Occasionally,
};

/// The places of a port.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    most: usize,
    labels: PortLabels,
    port: u16,
    open: Gauge,
    connections: Connections,
    full: Occasionally,
    refused: Occasionally,
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Admission {
    /// A port with `most` places.
    pub(crate) fn new(most: usize, direction: Direction, port: u16, connections: &Connections) -> Arc<Self> {
        let labels = PortLabels::new(direction, port);
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(most)),
            most,
            labels,
            port,
            open: connections.open(&labels),
            connections: connections.clone(),
            full: Occasionally::default(),
            refused: Occasionally::default(),
        })
    }

    /// Waits until a place is free, and keeps it.
    pub(crate) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(permit);
        }
        self.connections.full(&self.labels);
        if let Some(kept_back) = self.full.due(Instant::now()) {
            let (port, most) = (self.port, self.most);
            tracing::warn!(
                port,
                most,
                kept_back,
                "all places are taken; callers wait until a connection ends"
            );
        }
        // The semaphore is never closed.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Takes a place; one too many without a permit.
    pub(crate) fn occupy(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>) -> Place {
        self.open.inc();
        Place {
            admission: Arc::clone(self),
            _permit: permit,
        }
    }
}

impl Place {
    /// The caller sent something that is no head of a request, and was answered with an empty body.
    pub(crate) fn refused(&self, reason: BadHead, error: &hyper::Error, peer: std::net::SocketAddr) {
        let Admission {
            connections,
            labels,
            refused,
            port,
            ..
        } = &*self.admission;
        connections.refused(labels, reason);
        if let Some(kept_back) = refused.due(Instant::now()) {
            let (error, reason): (&dyn std::error::Error, _) = (error, reason.as_str());
            tracing::debug!(port, %peer, reason, error, kept_back, "refused what could not be read");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.open.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use prometheus_client::registry::Registry;

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn who_comes_when_all_places_are_taken_waits_for_one() {
        let metrics = Metrics::register(&mut Registry::default());
        let admission = Admission::new(1, Direction::Inbound, 15100, metrics.connections());
        let first = admission.occupy(admission.free().await);
        let mut waits = pin!(admission.free());
        assert!(futures::poll!(waits.as_mut()).is_pending());
        let beyond = admission.occupy(None);
        assert_eq!(admission.open.get(), 2);
        drop(beyond);
        assert!(futures::poll!(waits.as_mut()).is_pending());
        drop(first);
        assert!(waits.await.is_some());
        assert_eq!(admission.open.get(), 0);
    }
}
