//! How long the caller of a request still waits: kept on the way in, and told on the way out.
//!
//! ```text
//! caller --trellis-deadline-ms--> inbound --> app --> outbound --trellis-deadline-ms--> next
//!                                    |                    ^
//!                                    +---- by trace id ---+
//! ```
//!
//! An app that hands the header on is believed. Most do not, but hand on `traceparent`; so what a request may still take is
//! remembered by its trace for as long as the app works on it, and no request of that trace gets more. If several are
//! under way, the one that has longest counts: another's hurry is not theirs. A little is kept back, so that the app still has
//! time to answer what it asked in vain, or its proxy for the fallback. A gRPC call that says nothing of time may be a stream
//! and is left alone.
//!
//! What this does not reach: an app that hands on neither.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tower::Service;
use trellis_resilience::{
    deadline::{Call, CallerEnd, Elapsed, wire},
    drive::BoxFuture,
};

use crate::{
    body::{Request, Response},
    failure::Failure,
    trace::{Trace, TraceId},
};

/// What is kept back of what is left: a twentieth, and no more than this.
const KEPT_BACK: u32 = 20;
const MOST_KEPT_BACK: Duration = Duration::from_millis(100);

/// What requests that the app works on may still take, by trace id; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deadlines(Arc<Mutex<HashMap<TraceId, Waiting>>>);

#[derive(Debug)]
struct Waiting {
    /// None: one of them has no deadline.
    until: Option<Instant>,
    requests: usize,
}

/// A request that the app works on.
#[derive(Debug)]
struct Noted {
    deadlines: Deadlines,
    trace_id: TraceId,
}

/// Ends requests to the app when their callers have stopped waiting.
#[derive(Debug, Clone)]
pub(crate) struct Within<S> {
    deadlines: Deadlines,
    inner: S,
}

impl Deadlines {
    /// A layer around what sends to the app.
    pub(crate) fn layer<S>(&self) -> impl tower::Layer<S, Service = Within<S>> + Clone + use<S> {
        let deadlines = self.clone();
        tower::layer::layer_fn(move |inner| Within {
            deadlines: deadlines.clone(),
            inner,
        })
    }

    /// Bounds a request of the app by what its own caller has left.
    pub(crate) fn bound(&self, request: &mut Request) {
        let Some(trace_id) = request.extensions().get::<Trace>().map(Trace::trace_id) else {
            return;
        };
        let Some(until) = self.lock().get(&trace_id).and_then(|waiting| waiting.until) else {
            return;
        };
        let left = until.saturating_duration_since(Instant::now());
        let left = left - (left / KEPT_BACK).min(MOST_KEPT_BACK);
        let headers = request.headers_mut();
        let (call, own) = (Call::of(headers), wire::read(headers));
        if own.map_or(call == Call::Http, |own| left < own) {
            wire::write(headers, call, Some(left));
        }
    }

    fn note(&self, trace_id: TraceId, until: Option<Instant>) -> Noted {
        let mut waiting = self.lock();
        let of_trace = waiting.entry(trace_id).or_insert(Waiting { until, requests: 0 });
        of_trace.until = of_trace.until.zip(until).map(|(one, other)| one.max(other));
        of_trace.requests += 1;
        Noted {
            deadlines: self.clone(),
            trace_id,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TraceId, Waiting>> {
        // Nothing is left half-changed by a panic under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut waiting = self.deadlines.lock();
        if let Some(of_trace) = waiting.get_mut(&self.trace_id) {
            of_trace.requests -= 1;
            if of_trace.requests == 0 {
                waiting.remove(&self.trace_id);
            }
        }
    }
}

impl<S> Service<Request> for Within<S>
where
    S: Service<Request, Response = Response, Error = Failure, Future = BoxFuture<Result<Response, Failure>>>,
{
    type Response = Response;
    type Error = Failure;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> S::Future {
        let until = wire::read(request.headers()).and_then(|left| Instant::now().checked_add(left));
        let trace_id = request.extensions().get::<Trace>().map(Trace::trace_id);
        let noted = trace_id.map(|trace_id| self.deadlines.note(trace_id, until));
        let Some(until) = until else {
            let answered = self.inner.call(request);
            return Box::pin(async move {
                let _noted = noted;
                answered.await
            });
        };
        request.extensions_mut().insert(CallerEnd(until));
        tell(&mut request);
        let answered = self.inner.call(request);
        Box::pin(async move {
            let _noted = noted;
            let answered = tokio::time::timeout_at(until.into(), answered).await;
            answered.unwrap_or_else(|_| Err(Elapsed::Request.into()))
        })
    }
}

/// Tells the app how long its caller still waits.
pub(crate) fn tell(request: &mut Request) {
    if let Some(CallerEnd(end)) = request.extensions().get().copied() {
        let left = end.saturating_duration_since(Instant::now());
        let headers = request.headers_mut();
        wire::write(headers, Call::of(headers), Some(left));
    }
}

/// Takes away what a stranger says about its deadline in our own words.
pub(crate) fn forget(request: &mut Request) {
    request.headers_mut().remove(wire::DEADLINE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_requests_of_a_trace_the_one_that_has_longest_counts_until_all_are_done() {
        let (deadlines, trace) = (Deadlines::default(), TraceId::of(7));
        let now = Instant::now();
        let until = |deadlines: &Deadlines| deadlines.lock().get(&trace).and_then(|waiting| waiting.until);
        let long = deadlines.note(trace, Some(now + Duration::from_secs(2)));
        let short = deadlines.note(trace, Some(now + Duration::from_secs(1)));
        assert_eq!(until(&deadlines), Some(now + Duration::from_secs(2)));
        let without = deadlines.note(trace, None);
        assert_eq!(until(&deadlines), None, "one of them has no deadline");
        drop((long, without));
        assert!(!deadlines.lock().is_empty());
        drop(short);
        assert!(deadlines.lock().is_empty());
    }
}
