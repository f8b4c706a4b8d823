//! One address of a cluster, with its connections and its load.
//!
//! An endpoint that cannot be connected to, or whose proxy cannot connect to its app, is left out for a while when there are others ([`Endpoint::is_suspect`]), so
//! that a pod that vanished costs one request a second, not every one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures::FutureExt as _;
use http::Extensions;
use trellis_proxy_config::Protocol;
use trellis_resilience::{
    breaker::{
        self, Phase,
        layer::{Permit, SharedBreaker},
    },
    deadline::TryEnd,
};

use crate::{
    body::{Request, Response},
    failure,
    load::{Claim, Load},
    pool::{Cause, Pool, SendError},
};

/// First time for which an endpoint that refused a connection is left out; doubled each time after.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// One address of a cluster.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    load: Load,
    pool: Pool,
    connecting: Connecting,
    /// None: there is none for this cluster.
    breaker: ArcSwapOption<SharedBreaker>,
}

/// What is remembered of failed connections.
#[derive(Debug)]
struct Connecting {
    epoch: Instant,
    failures: AtomicU32,
    /// Milliseconds after `epoch`.
    paused_until: AtomicU64,
}

impl Endpoint {
    /// An endpoint without connections.
    pub(crate) fn new(address: SocketAddr, protocol: Protocol, idle: Duration) -> Self {
        Self {
            address,
            load: Load::default(),
            pool: Pool::new(address, protocol, idle),
            connecting: Connecting::new(Instant::now()),
            breaker: ArcSwapOption::empty(),
        }
    }

    /// Takes new settings of its circuit breaker; None: it has none.
    pub(crate) fn set_breaker(&self, settings: Option<&breaker::Settings>) {
        match (&*self.breaker.load(), settings) {
            (Some(breaker), Some(settings)) => breaker.reconfigure(settings.clone()),
            (None, Some(settings)) => {
                let address = self.address;
                let breaker = SharedBreaker::new(settings.clone(), move |transition| {
                    let transition = transition.as_str();
                    tracing::info!(upstream = %address, transition, "circuit breaker of an endpoint");
                });
                self.breaker.store(Some(Arc::new(breaker)));
            }
            (_, None) => self.breaker.store(None),
        }
    }

    /// Asks its circuit breaker for leave to try a request with these extensions; None: it has none.
    pub(crate) fn permit(&self, extensions: &Extensions) -> Result<Option<Permit>, breaker::Refused> {
        let breaker = self.breaker.load();
        let Some(breaker) = &*breaker else {
            return Ok(None);
        };
        let end = extensions.get::<TryEnd>().copied();
        breaker.acquire().map(|permit| Some(permit.until(end)))
    }

    /// What its circuit breaker does now; None: it has none.
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.breaker.load().as_ref().map(|breaker| breaker.phase())
    }

    /// Sends a request and waits for the head of the response.
    pub(crate) fn send(&self, request: Request) -> impl Future<Output = Result<Response, SendError>> + Send {
        self.pool.send(request).inspect(|sent| match sent {
            Err(SendError::Unsent(_, Cause::Connect(_))) => self.connecting.failed(Instant::now()),
            Ok(response) if failure::is_undelivered(response.headers()) => {
                self.connecting.failed(Instant::now())
            }
            _ => self.connecting.succeeded(),
        })
    }

    /// Counts a request in.
    pub(crate) fn claim(&self) -> Claim {
        self.load.claim()
    }

    /// The higher, the less a new request should go here.
    pub(crate) fn cost(&self) -> usize {
        self.load.cost()
    }

    /// Whether the last connection failed a short time ago.
    pub(crate) fn is_suspect(&self) -> bool {
        self.connecting.has_failed() && self.connecting.is_paused(Instant::now())
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn sweep(&self) {
        self.pool.sweep();
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl Endpoint {
    /// The cluster has this address no more: nothing is kept for a next request.
    pub(crate) fn retire(&self) {
        self.pool.close();
    }
}

impl Connecting {
    fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            failures: AtomicU32::new(0),
            paused_until: AtomicU64::new(0),
        }
    }

    fn failed(&self, now: Instant) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(8);
        let pause = (FIRST_PAUSE * 2_u32.pow(failures)).min(LONGEST_PAUSE);
        self.paused_until
            .store(self.millis(now + pause), Ordering::Relaxed);
    }

    fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.paused_until.store(0, Ordering::Relaxed);
        }
    }

    /// Cheaper than to ask for the time first.
    fn has_failed(&self) -> bool {
        self.failures.load(Ordering::Relaxed) != 0
    }

    fn is_paused(&self, now: Instant) -> bool {
        let until = self.paused_until.load(Ordering::Relaxed);
        until != 0 && self.millis(now) < until
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_with_the_first_success() {
        let start = Instant::now();
        let connecting = Connecting::new(start);
        assert!(!connecting.is_paused(start));
        connecting.failed(start);
        assert!(connecting.is_paused(start + Duration::from_millis(499)));
        assert!(!connecting.is_paused(start + Duration::from_millis(500)));
        connecting.failed(start);
        assert!(connecting.is_paused(start + Duration::from_millis(999)));
        for _ in 0..20 {
            connecting.failed(start);
        }
        assert!(!connecting.is_paused(start + LONGEST_PAUSE));
        connecting.failed(start);
        connecting.succeeded();
        assert!(!connecting.is_paused(start));
    }
}
