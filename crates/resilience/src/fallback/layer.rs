//! The fallback around a stack.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service, ServiceExt};

use super::{Otherwise, Settings};
use crate::{
    deadline::{Call, wire},
    drive::{self, BoxFuture, Classify},
    retry::replay::{LIMIT, Replay, ReplayBody},
};

/// Makes [`FallbackService`].
#[derive(Debug, Clone)]
pub struct FallbackLayer<C, F> {
    settings: Arc<Settings<F>>,
    classify: C,
}

/// Answers what the stack below failed at.
#[derive(Debug, Clone)]
pub struct FallbackService<C, F, S> {
    policy: FallbackLayer<C, F>,
    inner: S,
}

/// Marks an answer of the fallback, in its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fell;

impl<C, F> FallbackLayer<C, F> {
    /// A layer with this policy.
    pub fn new(settings: Settings<F>, classify: C) -> Self {
        Self {
            settings: Arc::new(settings),
            classify,
        }
    }
}

impl<C: Clone, F: Clone, S> Layer<S> for FallbackLayer<C, F> {
    type Service = FallbackService<C, F, S>;

    fn layer(&self, inner: S) -> Self::Service {
        let policy = self.clone();
        FallbackService { policy, inner }
    }
}

impl<C, F, S, B, R> Service<Request<B>> for FallbackService<C, F, S>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>, Error: Send, Future: Send + 'static>,
    F: Service<Request<ReplayBody<B>>, Response = Response<R>, Error = S::Error, Future: Send>,
    F: Clone + Send + Sync + 'static,
    C: Classify<Response<R>, S::Error> + Clone + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    R: From<Bytes> + Send,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let policy = self.policy.clone();
        let arrived = drive::now();
        let (head, body) = request.into_parts();
        let call = Call::of(&head.headers);
        let other = match &policy.settings.with {
            Otherwise::Static(_) => None,
            Otherwise::Service(service) => Some((service.clone(), head.clone())),
        };
        let (body, replay) = Replay::new(body, if other.is_some() { LIMIT } else { 0 });
        let answered = self.inner.call(Request::from_parts(head, body));
        Box::pin(async move {
            let result = answered.await;
            if !policy.settings.answers(&policy.classify.outcome(result.as_ref())) {
                return result;
            }
            let mut answered = match (&policy.settings.with, other) {
                // To gRPC it would be no answer at all.
                (Otherwise::Static(_), _) if call == Call::Grpc => return result,
                (Otherwise::Static(answer), _) => answer.response(),
                (_, Some((service, mut head))) if replay.is_repeatable() => {
                    drop(result);
                    // The caller has waited already.
                    if let Some(callers) = wire::read(&head.headers) {
                        let waited = drive::now().saturating_duration_since(arrived);
                        wire::write(&mut head.headers, call, Some(callers.saturating_sub(waited)));
                    }
                    service.oneshot(Request::from_parts(head, replay.again())).await?
                }
                // Too much of the body has gone to send it to another.
                _ => return result,
            };
            answered.extensions_mut().insert(Fell);
            Ok(answered)
        })
    }
}
