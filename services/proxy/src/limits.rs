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
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use futures::future::Either;
use smallvec::SmallVec;
use tokio::time::Instant;
use tower::Service;
pub(crate) use trellis_quota_stream::clock::now;
use trellis_rate::{Decision, Permit};
use trellis_resilience::drive::BoxFuture;

pub(crate) use self::compiled::{Leased, Limits, Tallies};
use self::{
    answer::Headers,
    compiled::{Charges, Parts},
};
use crate::{
    body::{Request, Response},
    failure::Failure,
    forwarded::Client,
    quota::FIRST_ANSWER,
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
    S: Service<Request, Response = Response, Error = Failure, Future: Send + Unpin + 'static>
        + Clone
        + Send
        + 'static,
{
    type Response = Response;
    type Error = Failure;
    type Future = Either<S::Future, BoxFuture<Result<Response, Failure>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let listener = self.listener.load();
        if listener.limits.is_empty() {
            return Either::Left(self.inner.call(request));
        }
        let limits = Arc::clone(&listener.limits);
        drop(listener);
        let client = request.extensions().get::<Client>();
        let client = client.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |client| client.address);
        let charges = limits.charges(&request, client);
        let growing = if charges.new_parts().is_empty() {
            match try_once(&limits, &charges, true) {
                Tried::Refused(_, growing) => growing,
                Tried::Decided(decision) => {
                    return Either::Right(match admitted(&limits, decision) {
                        Ok((permits, told)) => Box::pin(answer(self.inner.call(request), permits, told)),
                        Err(failure) => Box::pin(std::future::ready(Err(failure))),
                    });
                }
            }
        } else {
            Parts::new()
        };
        // The one that is ready is the one that is called.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Either::Right(Box::pin(async move {
            let decision = try_on(&limits, &charges, growing).await;
            let (permits, told) = admitted(&limits, decision)?;
            answer(inner.call(request), permits, told).await
        }))
    }
}

/// What came of looking at the limits once.
enum Tried {
    Decided(Decision),
    /// There is no room, but there may be in a moment.
    Refused(Decision, Parts),
}

fn try_once(limits: &Limits, charges: &Charges, is_first: bool) -> Tried {
    let now = now();
    let decision = limits.decide(charges, now, is_first);
    let growing = limits.growing(charges, &decision, now);
    if growing.is_empty() {
        Tried::Decided(decision)
    } else {
        Tried::Refused(decision, growing)
    }
}

/// Decides when the first answers for new parts of shared limits are there, and again as parts grow. `growing` are those for lack of
/// which it was refused before; none: nothing was decided yet.
async fn try_on(limits: &Limits, charges: &Charges, mut growing: Parts) -> Decision {
    for part in charges.new_parts() {
        part.first_answer().await;
    }
    let mut is_first = growing.is_empty();
    let by = Instant::now() + FIRST_ANSWER;
    loop {
        for part in growing {
            part.grown(by).await;
        }
        match try_once(limits, charges, is_first) {
            Tried::Refused(_, more) if Instant::now() < by => growing = more,
            Tried::Decided(decision) | Tried::Refused(decision, _) => return decision,
        }
        is_first = false;
    }
}

/// Places of requests that are counted while they are under way.
type Permits = SmallVec<[Permit; 1]>;

/// What becomes of the request; if it is let in, with what its answer is to tell.
fn admitted(limits: &Limits, decision: Decision) -> Result<(Permits, Headers), Failure> {
    count(limits, &decision);
    if decision.is_admitted() {
        let told = answer::headers(limits, &decision);
        Ok((decision.into_permits().collect(), told))
    } else {
        Err(answer::refusal(limits, &decision))
    }
}

async fn answer(
    answered: impl Future<Output = Result<Response, Failure>>,
    permits: Permits,
    told: Headers,
) -> Result<Response, Failure> {
    let mut response = answered.await?;
    for (name, value) in told {
        // In place of what another proxy, or the app, has told of its own.
        response.headers_mut().insert(name, value);
    }
    // What is under way is under way until the end of the body.
    for permit in permits {
        response = response.map(|body| body.permitted(permit));
    }
    Ok(response)
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
