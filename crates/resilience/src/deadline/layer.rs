//! The two timeouts: of the request, outermost but for the fallback, and of the try, innermost but for the breaker.
//!
//! The first leaves the request's [`Deadline`] in its extensions, for all that waits on the way. The second tells the next
//! hop what is left, and needs a timer only if the try has less than the request. Whoever drops the future (a caller that is
//! gone, a deadline that passed) ends the work below it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::Request;
use pin_project_lite::pin_project;
use tokio::time::{Timeout, timeout_at};
use tower::{Layer, Service};

use super::{Call, CallerEnd, Deadline, Elapsed, Settings, TryEnd, wire};
use crate::drive;

/// Makes [`DeadlineService`].
#[derive(Debug, Clone)]
pub struct DeadlineLayer(pub Settings);

/// Ends requests at their deadline.
#[derive(Debug, Clone)]
pub struct DeadlineService<S> {
    settings: Settings,
    inner: S,
}

/// Makes [`TryTimeoutService`].
#[derive(Debug, Clone)]
pub struct TryTimeoutLayer(pub Settings);

/// Ends tries that take too long.
#[derive(Debug, Clone)]
pub struct TryTimeoutService<S> {
    settings: Settings,
    inner: S,
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let settings = self.0.clone();
        DeadlineService { settings, inner }
    }
}

impl<S> Layer<S> for TryTimeoutLayer {
    type Service = TryTimeoutService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let settings = self.0.clone();
        TryTimeoutService { settings, inner }
    }
}

impl<S, B> Service<Request<B>> for DeadlineService<S>
where
    S: Service<Request<B>, Error: From<Elapsed>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Before<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let headers = request.headers();
        let (call, callers) = (Call::of(headers), wire::read(headers));
        let now = drive::now();
        if let Some(end) = callers.and_then(|left| now.checked_add(left)) {
            request.extensions_mut().insert(CallerEnd(end));
        }
        let Some(deadline) = self.settings.deadline(now, call, callers) else {
            let answered = self.inner.call(request);
            return Before::Unbounded { answered };
        };
        request.extensions_mut().insert(deadline);
        Before::new(now, deadline.moment(), Elapsed::Request, || {
            self.inner.call(request)
        })
    }
}

impl<S, B> Service<Request<B>> for TryTimeoutService<S>
where
    S: Service<Request<B>, Error: From<Elapsed>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Before<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let now = drive::now();
        let deadline = request.extensions().get::<Deadline>().copied();
        let call = Call::of(request.headers());
        let left = self.settings.for_try(call, deadline, now);
        let told = match call {
            Call::Http => left,
            Call::Grpc => {
                let end = request.extensions().get::<CallerEnd>();
                end.map(|CallerEnd(end)| end.saturating_duration_since(now))
            }
        };
        wire::write(request.headers_mut(), call, told);
        let Some(end) = left.and_then(|left| now.checked_add(left)) else {
            let answered = self.inner.call(request);
            return Before::Unbounded { answered };
        };
        let telling = left.is_some_and(|left| self.settings.is_telling(left));
        request.extensions_mut().insert(TryEnd { at: end, telling });
        match deadline {
            // The request's own timer ends it, and it ends the request.
            Some(deadline) if deadline <= Deadline::at(end) && now < end => {
                let answered = self.inner.call(request);
                Before::Unbounded { answered }
            }
            Some(deadline) if deadline <= Deadline::at(end) => Before::Over {
                elapsed: Elapsed::Request,
            },
            _ => Before::new(now, end, Elapsed::Try, || self.inner.call(request)),
        }
    }
}

pin_project! {
    /// The answer, unless the end comes first.
    #[project = BeforeProjection]
    #[derive(Debug)]
    #[allow(missing_docs, reason = "the macro takes no docs of a variant's fields")]
    pub enum Before<F> {
        /// Nothing here ends it.
        Unbounded {
            #[pin]
            answered: F,
        },
        /// A timer ends it.
        Until {
            #[pin]
            answered: Timeout<F>,
            elapsed: Elapsed,
        },
        /// Time was up before it began.
        Over {
            elapsed: Elapsed,
        },
    }
}

impl<F: Future> Before<F> {
    /// Time that is up begins nothing.
    fn new(now: Instant, end: Instant, elapsed: Elapsed, begin: impl FnOnce() -> F) -> Self {
        if end <= now {
            return Self::Over { elapsed };
        }
        let answered = timeout_at(end.into(), begin());
        Self::Until { answered, elapsed }
    }
}

impl<F, T, E> Future for Before<F>
where
    F: Future<Output = Result<T, E>>,
    E: From<Elapsed>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            BeforeProjection::Unbounded { answered } => answered.poll(cx),
            BeforeProjection::Until { answered, elapsed } => {
                Poll::Ready(ready!(answered.poll(cx)).unwrap_or_else(|_| Err((*elapsed).into())))
            }
            BeforeProjection::Over { elapsed } => Poll::Ready(Err((*elapsed).into())),
        }
    }
}
