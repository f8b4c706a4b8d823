//! Rate limits: what a listener lets in, decided before anything is forwarded.
//!
//! ```text
//! request -> which limits apply? (route, when) -> whose counters? (counters) -> all have room? -> charged, forwarded
//!                                                                                 |
//!                                                                                 no: charged nowhere, 429
//! ```
//!
//! Counters outlive documents: a limit of the same policy, name and route goes on with what it has counted, by its new rates.
//! A condition that cannot be evaluated (a header that is not there) does not hold, and a counter without a value limits
//! nobody: whoever wants to limit requests without a header says so in `when`.

mod answer;
mod compiled;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, OnceLock, atomic::Ordering},
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use nix::time::{ClockId, clock_gettime};
use tower::Service;
use trellis_rate::{Decision, Moment};
use trellis_resilience::drive::BoxFuture;

pub(crate) use self::compiled::{Limits, Tallies};
use crate::{
    body::{Request, Response},
    failure::Failure,
    forwarded::Client,
    snapshot::Listener,
};

/// Lets in what the limits of the listener's document have room for.
#[derive(Debug, Clone)]
pub(crate) struct Limited<S> {
    listener: Arc<ArcSwap<Listener>>,
    inner: S,
}

/// Makes the layer.
pub(crate) fn layer<S>(
    listener: &Arc<ArcSwap<Listener>>,
) -> impl tower::Layer<S, Service = Limited<S>> + Clone + use<S> {
    let listener = Arc::clone(listener);
    tower::layer::layer_fn(move |inner| Limited {
        listener: Arc::clone(&listener),
        inner,
    })
}

impl<S> Service<Request> for Limited<S>
where
    S: Service<Request, Response = Response, Error = Failure, Future = BoxFuture<Result<Response, Failure>>>,
{
    type Response = Response;
    type Error = Failure;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> S::Future {
        let listener = self.listener.load();
        if listener.limits.is_empty() {
            return self.inner.call(request);
        }
        let limits = Arc::clone(&listener.limits);
        drop(listener);
        let client = request.extensions().get::<Client>();
        let client = client.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |client| client.address);
        let decision = limits.decide(&request, client, now());
        count(&limits, &decision);
        if !decision.is_admitted() {
            let failure = answer::refusal(&limits, &decision);
            return Box::pin(std::future::ready(Err(failure)));
        }
        let told = answer::headers(&limits, &decision);
        let answered = self.inner.call(request);
        Box::pin(async move {
            let mut response = answered.await?;
            response.headers_mut().extend(told);
            // What is under way is under way until the end of the body.
            for permit in decision.into_permits() {
                response = response.map(|body| body.permitted(permit));
            }
            Ok(response)
        })
    }
}

fn count(limits: &Limits, decision: &Decision) {
    for reading in decision.refusals() {
        limits
            .tallies(reading.member)
            .refused
            .fetch_add(1, Ordering::Relaxed);
    }
    for reading in decision.would_reject() {
        limits
            .tallies(reading.member)
            .in_shadow
            .fetch_add(1, Ordering::Relaxed);
    }
}

/// Now, on a clock that never goes back and goes on while the machine sleeps.
pub(crate) fn now() -> Moment {
    static ORIGIN: OnceLock<u64> = OnceLock::new();
    // The clock is there on every Linux that runs this.
    let nanos = || {
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
            seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or_default()
        })
    };
    let now = nanos();
    Moment::from_nanos(now - (*ORIGIN.get_or_init(|| now)).min(now))
}
