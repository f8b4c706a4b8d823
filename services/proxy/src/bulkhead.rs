//! The bulkhead in front of the app: as many requests at once as its port's settings say, the rest in a queue.
//!
//! It is innermost on the way in: what rate limits refuse takes no place, and who waits does so within the caller's deadline,
//! whose layer is around it. What the app is told of that deadline is what is left after the wait. A listener without one
//! costs a look at its settings.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use tower::Service;
use trellis_resilience::drive::BoxFuture;

use crate::{
    body::{Request, Response},
    deadlines,
    failure::Failure,
    snapshot::Listener,
};

/// Lets in what the bulkhead of the listener's document has room for.
#[derive(Debug, Clone)]
pub(crate) struct Bounded<S> {
    listener: Arc<ArcSwap<Listener>>,
    inner: S,
}

/// Makes the layer.
pub(crate) fn layer<S>(
    listener: &Arc<ArcSwap<Listener>>,
) -> impl tower::Layer<S, Service = Bounded<S>> + Clone + use<S> {
    let listener = Arc::clone(listener);
    tower::layer::layer_fn(move |inner| Bounded {
        listener: Arc::clone(&listener),
        inner,
    })
}

impl<S> Service<Request> for Bounded<S>
where
    S: Service<Request, Response = Response, Error = Failure, Future = BoxFuture<Result<Response, Failure>>>
        + Clone
        + Send
        + 'static,
{
    type Response = Response;
    type Error = Failure;
    type Future = BoxFuture<Result<Response, Failure>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Some(bulkhead) = self.listener.load().bulkhead.clone() else {
            return self.inner.call(request);
        };
        // The one that is ready is the one that is called.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            // What ends the wait is its own bound, or the layer of deadlines around it.
            let place = bulkhead.enter(None).await?;
            deadlines::tell(&mut request);
            let response = inner.call(request).await?;
            // Under way until the end of the body.
            Ok(response.map(|body| body.keeping(place)))
        })
    }
}
