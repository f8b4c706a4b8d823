//! Turns failures into answers, cleans what crosses the proxy, and says goodbye while draining.
//!
//! The layer between the telemetry, which sees every answer, and everything that may fail.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, Version, header::CONNECTION};
use tower::Service;
use trellis_chassis::drain;

use crate::{
    body::{Request, Response},
    direction::Direction,
    failure::{self, Failure},
    forward::is_grpc,
    hygiene,
};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Answer<S> {
    direction: Direction,
    draining: Option<drain::Watch>,
    inner: S,
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
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A stack that is not ready keeps callers waiting; one that failed says so on the next call.
        self.inner.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let grpc = is_grpc(request.headers());
        let http1 = request.version() < Version::HTTP_2;
        let from_app = self.direction == Direction::Inbound;
        hygiene::clean_request(&mut request);
        let draining = self.draining.clone().filter(|_| http1);
        let answered = self.inner.call(request);
        Box::pin(async move {
            let mut response = match answered.await {
                Ok(mut response) => {
                    hygiene::clean_response(&mut response);
                    if from_app {
                        failure::remove_marks(response.headers_mut());
                    }
                    response
                }
                Err(failure) => failure.into_response(grpc),
            };
            let switched = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
            if !switched && draining.is_some_and(|draining| draining.is_draining()) {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}
