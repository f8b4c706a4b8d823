//! The breaker around a service, and the handle by which a balancer asks those of its endpoints.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use http::Request;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{Breaker, Pass, Phase, Refused, Settings, Transition};
use crate::{
    deadline::TryEnd,
    drive::{self, Classify},
    outcome::Verdict,
};

/// A breaker that is shared by all requests to a dependency, or to an endpoint.
///
/// The clock is read under the lock: what one thread sees never goes back behind what another has recorded.
#[derive(Clone)]
pub struct SharedBreaker(Arc<Shared>);

struct Shared {
    breaker: Mutex<Breaker>,
    observe: Box<dyn Fn(Transition) + Send + Sync>,
}

/// Leave to try. Dropped without a result, the try has failed if its time was up, and has said nothing otherwise.
#[derive(Debug)]
#[must_use = "a permit that is dropped has said nothing"]
pub struct Permit {
    breaker: SharedBreaker,
    pass: Option<Pass>,
    end: Option<TryEnd>,
}

/// This try decides whether a half-open breaker closes: it goes to one place, once. In its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe;

/// Makes [`BreakerService`].
#[derive(Debug, Clone)]
pub struct BreakerLayer<C> {
    breaker: SharedBreaker,
    classify: C,
}

/// Asks the breaker before every try and tells it what became of it.
#[derive(Debug, Clone)]
pub struct BreakerService<C, S> {
    breaker: SharedBreaker,
    classify: C,
    inner: S,
}

impl SharedBreaker {
    /// A closed breaker; `observe` is told of every transition, after it.
    pub fn new(settings: Settings, observe: impl Fn(Transition) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            breaker: Mutex::new(Breaker::new(settings)),
            observe: Box::new(observe),
        }))
    }

    /// Asks for leave to try.
    ///
    /// # Errors
    /// As [`Breaker::acquire`].
    pub fn acquire(&self) -> Result<Permit, Refused> {
        let pass = self.lock().acquire(drive::now())?;
        Ok(Permit {
            breaker: self.clone(),
            pass: Some(pass),
            end: None,
        })
    }

    /// What it does now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.lock().phase(drive::now())
    }

    /// Takes new settings, as [`Breaker::reconfigure`].
    pub fn reconfigure(&self, settings: Settings) {
        self.lock().reconfigure(settings);
    }

    fn record(&self, pass: Pass, verdict: Verdict) {
        let transition = self.lock().record(pass, verdict, drive::now());
        if let Some(transition) = transition {
            (self.0.observe)(transition);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        // Every transition is an assignment; a panic leaves no half of one.
        self.0.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedBreaker").field(&*self.lock()).finish()
    }
}

impl Permit {
    /// Says when the try ends, so that dropping it then counts as a timeout.
    pub const fn until(mut self, end: Option<TryEnd>) -> Self {
        self.end = end;
        self
    }

    /// Whether the try decides if the breaker closes.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.pass.as_ref().is_some_and(Pass::is_probe)
    }

    /// Gives it back with what became of the try.
    pub fn record(mut self, verdict: Verdict) {
        if let Some(pass) = self.pass.take() {
            self.breaker.record(pass, verdict);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            let verdict = self.end.map_or(Verdict::Unknown, |end| end.verdict(drive::now()));
            self.breaker.record(pass, verdict);
        }
    }
}

impl<C> BreakerLayer<C> {
    /// A layer around what `breaker` watches.
    pub const fn new(breaker: SharedBreaker, classify: C) -> Self {
        Self { breaker, classify }
    }
}

impl<C: Clone, S> Layer<S> for BreakerLayer<C> {
    type Service = BreakerService<C, S>;

    fn layer(&self, inner: S) -> Self::Service {
        BreakerService {
            breaker: self.breaker.clone(),
            classify: self.classify.clone(),
            inner,
        }
    }
}

impl<C, S, B> Service<Request<B>> for BreakerService<C, S>
where
    S: Service<Request<B>, Error: From<Refused>>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Tried<C, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let end = request.extensions().get::<TryEnd>().copied();
        let permit = match self.breaker.acquire() {
            Ok(permit) => permit.until(end),
            Err(refused) => return Tried::Refused { refused },
        };
        if permit.is_probe() {
            request.extensions_mut().insert(Probe);
        }
        Tried::Going {
            answered: self.inner.call(request),
            permit: Some(permit),
            end,
            classify: self.classify.clone(),
        }
    }
}

pin_project! {
    /// A try that the breaker is told of.
    #[project = TriedProjection]
    #[derive(Debug)]
    #[allow(missing_docs, reason = "the macro takes no docs of a variant's fields")]
    pub enum Tried<C, F> {
        /// It is under way.
        Going {
            #[pin]
            answered: F,
            permit: Option<Permit>,
            end: Option<TryEnd>,
            classify: C,
        },
        /// It must not be made.
        Refused {
            refused: Refused,
        },
    }
}

impl<C, F, T, E> Future for Tried<C, F>
where
    F: Future<Output = Result<T, E>>,
    C: Classify<T, E>,
    E: From<Refused>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            TriedProjection::Refused { refused } => Poll::Ready(Err((*refused).into())),
            TriedProjection::Going {
                answered,
                permit,
                end,
                classify,
            } => {
                let result = ready!(answered.poll(cx));
                if let Some(permit) = permit.take() {
                    permit.record(TryEnd::judge(*end, &classify.outcome(result.as_ref())));
                }
                Poll::Ready(result)
            }
        }
    }
}
