//! The two timeouts: of the request, outermost but for the fallback, and of the try, innermost but for the breaker.
//!
//! The first leaves the request's [`Deadline`] in its extensions, for all that waits on the way. The second tells the next
//! hop what is left. Whoever drops the future (a caller that is gone, a deadline that passed) ends the work below it.

use std::{
    future::Future,
    task::{Context, Poll},
};

use http::Request;
use tokio::time;
use tower::{Layer, Service};

use super::{Call, CallerEnd, Deadline, Elapsed, Settings, TryEnd, wire};
use crate::drive::{self, BoxFuture};

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
    S: Service<Request<B>, Response: 'static, Error: From<Elapsed> + 'static, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<Result<S::Response, S::Error>>;

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
            return Box::pin(self.inner.call(request));
        };
        request.extensions_mut().insert(deadline);
        Box::pin(before(deadline, Elapsed::Request, self.inner.call(request)))
    }
}

impl<S, B> Service<Request<B>> for TryTimeoutService<S>
where
    S: Service<Request<B>, Response: 'static, Error: From<Elapsed> + 'static, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<Result<S::Response, S::Error>>;

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
            return Box::pin(self.inner.call(request));
        };
        let telling = left.is_some_and(|left| self.settings.is_telling(left));
        request.extensions_mut().insert(TryEnd { at: end, telling });
        let end = Deadline::at(end);
        let elapsed = match deadline {
            Some(deadline) if deadline <= end => Elapsed::Request,
            _ => Elapsed::Try,
        };
        Box::pin(before(end, elapsed, self.inner.call(request)))
    }
}

/// The answer, unless the deadline comes first.
async fn before<T, E: From<Elapsed>>(
    deadline: Deadline,
    elapsed: Elapsed,
    answered: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    // An answer that is there already is better than none, but time that is up begins nothing.
    if deadline.remaining(drive::now()).is_zero() {
        return Err(elapsed.into());
    }
    time::timeout_at(deadline.moment().into(), answered)
        .await
        .unwrap_or_else(|_| Err(elapsed.into()))
}
