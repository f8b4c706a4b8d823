//! Retries around a service of HTTP.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use tokio::time;
use tower::{Layer, Service, ServiceExt};

use super::{
    Decision, Settings, Tried,
    replay::{LIMIT, Replay, ReplayBody},
};
use crate::{
    budget::{self, Budget},
    deadline::Deadline,
    drive::{self, BoxFuture, Classify},
};

/// A budget that is shared by all requests to a dependency.
#[derive(Debug, Clone)]
pub struct SharedBudget(Arc<Mutex<Budget>>);

/// Which try of its request this is, from 1. In the extensions of every try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt(pub u32);

/// Is told of every decision.
type Observe = Arc<dyn Fn(Decision) + Send + Sync>;

/// Makes [`RetryService`].
#[derive(Clone)]
pub struct RetryLayer<C> {
    settings: Arc<Settings>,
    budget: SharedBudget,
    classify: C,
    observe: Observe,
}

/// Tries again what is worth it.
#[derive(Clone)]
pub struct RetryService<C, S> {
    policy: RetryLayer<C>,
    inner: S,
}

impl SharedBudget {
    /// A budget that has seen no request.
    #[must_use]
    pub fn new(settings: budget::Settings) -> Self {
        Self(Arc::new(Mutex::new(Budget::new(settings))))
    }

    /// Takes new settings, as [`Budget::reconfigure`].
    pub fn reconfigure(&self, settings: budget::Settings) {
        self.with(|budget| budget.reconfigure(settings));
    }

    fn with<T>(&self, step: impl FnOnce(&mut Budget) -> T) -> T {
        // A panic under this lock leaves counts that are at worst one too many.
        step(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<C> RetryLayer<C> {
    /// A layer with this policy; `observe` is told of the decision after every try.
    pub fn new(
        settings: Settings,
        budget: SharedBudget,
        classify: C,
        observe: impl Fn(Decision) + Send + Sync + 'static,
    ) -> Self {
        Self {
            settings: Arc::new(settings),
            budget,
            classify,
            observe: Arc::new(observe),
        }
    }
}

impl<C> fmt::Debug for RetryLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("settings", &self.settings)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

impl<C, S: fmt::Debug> fmt::Debug for RetryService<C, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryService")
            .field("policy", &self.policy)
            .field("inner", &self.inner)
            .finish()
    }
}

impl<C: Clone, S> Layer<S> for RetryLayer<C> {
    type Service = RetryService<C, S>;

    fn layer(&self, inner: S) -> Self::Service {
        let policy = self.clone();
        RetryService { policy, inner }
    }
}

impl<C, S, B> Service<Request<B>> for RetryService<C, S>
where
    S: Service<Request<ReplayBody<B>>, Response: Send, Error: Send, Future: Send> + Clone + Send + 'static,
    C: Classify<S::Response, S::Error> + Clone + Send + Sync + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready goes; its clone is asked again next time.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let policy = self.policy.clone();
        policy.budget.with(|budget| budget.request(drive::now()));
        let (mut head, body) = request.into_parts();
        let (method, deadline) = (head.method.clone(), head.extensions.get::<Deadline>().copied());
        let limit = if policy.settings.attempts.get() > 1 {
            LIMIT
        } else {
            0
        };
        let (mut body, replay) = Replay::new(body, limit);
        let mut attempts = 0;
        Box::pin(async move {
            loop {
                attempts += 1;
                // The last try takes the head along.
                let mut next = if attempts < policy.settings.attempts.get() {
                    head.clone()
                } else {
                    mem::replace(&mut head, Request::new(()).into_parts().0)
                };
                next.extensions.insert(Attempt(attempts));
                let result = inner.call(Request::from_parts(next, body)).await;
                let tried = Tried {
                    attempts,
                    method: &method,
                    repeatable: replay.is_repeatable(),
                    outcome: policy.classify.outcome(result.as_ref()),
                    left: deadline.map(|deadline| deadline.remaining(drive::now())),
                };
                let decision = policy.settings.decide(tried, rand::random(), || {
                    policy.budget.with(|budget| budget.withdraw(drive::now()))
                });
                (policy.observe)(decision);
                let Decision::Again(pause) = decision else {
                    return result;
                };
                // What came is let go of before the pause, with the connection that it holds.
                drop(result);
                time::sleep(pause).await;
                body = replay.again();
                inner.ready().await?;
            }
        })
    }
}
