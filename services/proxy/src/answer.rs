//! Turns failures into answers, cleans what crosses the proxy, and says goodbye while draining.
//!
//! The layer between the telemetry, which sees every answer, and everything that may fail.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Version, header::CONNECTION};
use tower::Service;
use trellis_chassis::drain;
use trellis_resilience::deadline::Call;

use crate::{
    body::{Request, Response},
    direction::Direction,
    failure::{self, Failure},
    hygiene,
};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Answer<S> {
    direction: Direction,
    draining: Option<drain::Watch>,
    inner: S,
}

/// What is done to an answer.
pub(crate) struct Answering<F> {
    answered: F,
    grpc: bool,
    from_app: bool,
    /// None if the caller is told otherwise, or not at all.
    draining: Option<drain::Watch>,
}

/// Makes the layer. `draining` is none where callers need not be told.
pub(crate) fn layer<S>(
    direction: Direction,
    draining: Option<drain::Watch>,
) -> impl tower::Layer<S, Service = Answer<S>> + Clone {
    tower::layer::layer_fn(move |inner| Answer {
        direction,
        draining: draining.clone(),
        inner,
    })
}

impl<S> Service<Request> for Answer<S>
where
    S: Service<Request, Response = Response, Error = Failure>,
    S::Future: Unpin,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A stack that is not ready keeps callers waiting; one that failed says so on the next call.
        self.inner.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let grpc = Call::of(request.headers()) == Call::Grpc;
        let http1 = request.version() < Version::HTTP_2;
        hygiene::clean_request(&mut request);
        Answering {
            answered: self.inner.call(request),
            grpc,
            from_app: self.direction == Direction::Inbound,
            draining: self.draining.clone().filter(|_| http1),
        }
    }
}

impl<F: Future<Output = Result<Response, Failure>> + Unpin> Future for Answering<F> {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = match ready!(Pin::new(&mut self.answered).poll(cx)) {
            Ok(mut response) => {
                hygiene::clean_response(&mut response);
                if self.from_app {
                    failure::remove_marks(response.headers_mut());
                }
                response
            }
            Err(failure) => failure.into_response(self.grpc),
        };
        let switched = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
        let draining = self.draining.as_ref().is_some_and(drain::Watch::is_draining);
        if draining && !switched {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response))
    }
}
