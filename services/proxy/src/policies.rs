//! What stands around the requests to a cluster: the policies of its document, in the order that
//! [`trellis_resilience`] sets.
//!
//! ```text
//! fallback -> deadline -> bulkhead -> retry -> end of the try -> breaker -> balance ([`crate::forward`])
//! ```
//!
//! What policies remember (failures in a row, retries of the last seconds, who is in) belongs to the cluster and outlives
//! documents: new settings are taken in by what is there, and a request ends under the settings that it began under.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use futures::{FutureExt as _, future::Either};
use http::{HeaderMap, HeaderValue, StatusCode};
use tower::{
    Layer as _, Service, ServiceBuilder, ServiceExt as _,
    util::{BoxCloneSyncService, option_layer},
};
use trellis_proxy_config::{self as config, Cluster as Settings};
use trellis_resilience::{
    breaker::{
        self, Phase, Transition,
        layer::{BreakerLayer, SharedBreaker},
    },
    bulkhead::{
        self,
        layer::{BulkheadLayer, PlacedBody, SharedBulkhead},
    },
    deadline::{
        Elapsed,
        layer::{DeadlineLayer, TryTimeoutLayer},
    },
    drive::BoxFuture,
    fallback::{
        self, Otherwise,
        layer::{FallbackLayer, Fell},
    },
    outcome::{Answer, GrpcCode, Outcome, Refusal},
    policy::Policy,
    retry::{
        Decision, Kept,
        layer::{Attempt, RetryLayer, SharedBudget},
        pushback,
        replay::ReplayBody,
    },
};

use crate::{
    body::{Body, Request, Response},
    cluster::Cluster,
    failure::{self, Failure, MadeHere, Reason},
    forward,
};

/// The policies of a cluster, with what they remember.
#[derive(Debug)]
pub(crate) struct Policies {
    cluster: Arc<str>,
    breaker: SharedBreaker,
    budget: SharedBudget,
    bulkhead: SharedBulkhead,
    counts: Arc<Counts>,
    active: ArcSwap<Active>,
}

/// How often what happened; for metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Tries after the first.
    pub(crate) retries: AtomicU64,
    /// Tries that were worth it and for which there was no budget.
    pub(crate) out_of_budget: AtomicU64,
    /// Answers of the fallback.
    pub(crate) fallbacks: AtomicU64,
    /// Openings of the breaker, by either signal or a probe that failed.
    pub(crate) openings: AtomicU64,
}

/// The layers, by the settings in use.
#[derive(Debug)]
struct Active {
    deadline: DeadlineLayer,
    bulkhead: BulkheadLayer,
    retry: RetryLayer<Classifier>,
    try_timeout: TryTimeoutLayer,
    breaker: Option<BreakerLayer<Classifier>>,
    fallback: Option<FallbackLayer<Classifier, Other>>,
}

/// Reads what happened.
type Classifier = fn(Result<&Response, &Failure>) -> Outcome;

/// What answers instead.
type Other = BoxCloneSyncService<http::Request<ReplayBody<Body>>, Response, Failure>;

/// The innermost service: one try.
pub(crate) trait Try:
    Service<
        http::Request<ReplayBody<Body>>,
        Response = Response,
        Error = Failure,
        Future = BoxFuture<Result<Response, Failure>>,
    > + Clone
    + Send
    + 'static
{
}

/// One to an endpoint of a cluster.
#[derive(Debug, Clone)]
struct Balance(Arc<Cluster>);

impl Policies {
    /// Policies of a cluster of this name. The fallback comes with [`Policies::set`], when its cluster is there.
    pub(crate) fn new(cluster: &Arc<str>, policy: &Policy) -> Self {
        let counts = Arc::new(Counts::default());
        let breaker = {
            let (cluster, counts) = (Arc::clone(cluster), Arc::clone(&counts));
            let settings = policy.breaker.clone().unwrap_or_default();
            SharedBreaker::new(settings, move |transition| {
                tell(&cluster, transition);
                if transition != Transition::Closed {
                    counts.openings.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let budget = SharedBudget::new(policy.budget.clone());
        let bulkhead = SharedBulkhead::new(policy.bulkhead.clone());
        let active = Active::new(policy, None, &breaker, &budget, &bulkhead, &counts);
        Self {
            cluster: Arc::clone(cluster),
            breaker,
            budget,
            bulkhead,
            counts,
            active: ArcSwap::from_pointee(active),
        }
    }

    /// Takes new settings; `other` finds the cluster that answers instead.
    pub(crate) fn set<'a>(
        &self,
        settings: &Settings,
        other: impl FnOnce(&config::ClusterName) -> Option<&'a Arc<Cluster>>,
    ) {
        let policy = &settings.policy;
        let fallback = settings.fallback.as_ref().and_then(|fallback| match fallback {
            config::Fallback::Static(answer) => always(answer),
            config::Fallback::Cluster(name) => {
                other(name).map(|cluster| Otherwise::Service(instead(cluster)))
            }
        });
        if let Some(breaker) = &policy.breaker {
            self.breaker.reconfigure(breaker.clone());
        }
        self.budget.reconfigure(policy.budget.clone());
        self.bulkhead.reconfigure(policy.bulkhead.clone());
        self.active.store(Arc::new(Active::new(
            policy,
            fallback,
            &self.breaker,
            &self.budget,
            &self.bulkhead,
            &self.counts,
        )));
    }

    /// Sends a request by way of the policies.
    pub(crate) fn send(
        &self,
        cluster: &Arc<Cluster>,
        request: Request,
    ) -> impl Future<Output = Result<Response, Failure>> + Send + use<> {
        self.around(Balance(Arc::clone(cluster)), request)
    }

    /// A request by way of the policies to what makes one try.
    pub(crate) fn around<S: Try>(
        &self,
        innermost: S,
        request: Request,
    ) -> impl Future<Output = Result<Response, Failure>> + Send + use<S> {
        let active = self.active.load();
        let breaker = self.phase().filter(|phase| *phase != Phase::Closed);
        let stack = active.around(innermost);
        let sent = match &active.fallback {
            None => Either::Left(stack.oneshot(request)),
            Some(fallback) => {
                let stack = ServiceBuilder::new()
                    .map_request(|request: http::Request<ReplayBody<Body>>| request.map(Body::from))
                    .service(stack);
                Either::Right(Box::pin(fallback.layer(stack).oneshot(request)))
            }
        };
        let (cluster, counts) = (Arc::clone(&self.cluster), Arc::clone(&self.counts));
        sent.map(move |mut sent| {
            if let Ok(response) = &mut sent {
                if response.extensions().get::<Fell>().is_some() {
                    counts.fallbacks.fetch_add(1, Ordering::Relaxed);
                    if failure::is_marked(response.headers(), Reason::Fallback) {
                        response.extensions_mut().insert(MadeHere(Reason::Fallback));
                    }
                }
                if let Some(breaker) = breaker {
                    response.extensions_mut().insert(breaker);
                }
            }
            sent.map_err(|mut failure| {
                failure.breaker = breaker;
                failure.of(&cluster)
            })
        })
    }

    /// The same without the fallback: what answers instead of another cluster must not go round in circles.
    async fn send_plainly(&self, cluster: &Arc<Cluster>, request: Request) -> Result<Response, Failure> {
        let stack = self.active.load_full().around(Balance(Arc::clone(cluster)));
        let sent = stack.oneshot(request).await;
        sent.map_err(|failure| failure.of(&self.cluster))
    }

    /// What the breaker does now; None: there is none.
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.active.load().breaker.is_some().then(|| self.breaker.phase())
    }

    /// How many requests are under way, and how many wait.
    pub(crate) fn load(&self) -> (u32, usize) {
        self.bulkhead.load()
    }

    /// How often what happened.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Active {
    fn new(
        policy: &Policy,
        fallback: Option<Otherwise<Other>>,
        breaker: &SharedBreaker,
        budget: &SharedBudget,
        bulkhead: &SharedBulkhead,
        counts: &Arc<Counts>,
    ) -> Self {
        let classify: Classifier = outcome;
        let counts = Arc::clone(counts);
        let retry = RetryLayer::new(policy.retry.clone(), budget.clone(), classify, move |decision| {
            match decision {
                Decision::Again(_) => counts.retries.fetch_add(1, Ordering::Relaxed),
                Decision::Keep(Kept::Budget) => counts.out_of_budget.fetch_add(1, Ordering::Relaxed),
                Decision::Keep(_) => 0,
            };
        });
        Self {
            deadline: DeadlineLayer(policy.deadline.clone()),
            bulkhead: BulkheadLayer(bulkhead.clone()),
            retry,
            try_timeout: TryTimeoutLayer(policy.deadline.clone()),
            breaker: policy
                .breaker
                .is_some()
                .then(|| BreakerLayer::new(breaker.clone(), classify)),
            fallback: fallback.map(|other| FallbackLayer::new(fallback::Settings::new(other), classify)),
        }
    }

    fn around<S: Try>(
        &self,
        innermost: S,
    ) -> impl Service<Request, Response = Response, Error = Failure, Future: Send> + Clone + Send + use<S>
    {
        ServiceBuilder::new()
            .layer(self.deadline.clone())
            .map_response(placed as fn(http::Response<PlacedBody<Body>>) -> Response)
            .layer(self.bulkhead.clone())
            .layer(self.retry.clone())
            .layer(self.try_timeout.clone())
            .layer(option_layer(self.breaker.clone()))
            .service(innermost)
    }
}

impl<S> Try for S where
    S: Service<
            http::Request<ReplayBody<Body>>,
            Response = Response,
            Error = Failure,
            Future = BoxFuture<Result<Response, Failure>>,
        > + Clone
        + Send
        + 'static
{
}

impl Service<http::Request<ReplayBody<Body>>> for Balance {
    type Response = Response;
    type Error = Failure;
    type Future = BoxFuture<Result<Response, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<ReplayBody<Body>>) -> Self::Future {
        let cluster = Arc::clone(&self.0);
        let again = request.extensions().get::<Attempt>().copied();
        let again = again.filter(|Attempt(number)| *number > 1);
        let sent = forward::send(cluster, request.map(Body::from));
        Box::pin(sent.map(move |mut sent| {
            match (&mut sent, again) {
                (Ok(response), Some(again)) => {
                    response.extensions_mut().insert(again);
                }
                (Err(failure), again) => failure.again = again,
                (Ok(_), None) => {}
            }
            sent
        }))
    }
}

/// An answer that is always the same.
fn always(answer: &config::StaticAnswer) -> Option<Otherwise<Other>> {
    // Validation has found what cannot be in a head.
    let status = StatusCode::from_u16(answer.status).ok()?;
    let content_type = HeaderValue::from_str(&answer.content_type).ok()?;
    let body = bytes::Bytes::from(answer.body.clone());
    let mut headers = HeaderMap::new();
    failure::mark(&mut headers, Reason::Fallback);
    Some(Otherwise::Static(fallback::StaticAnswer {
        status,
        content_type,
        body,
        headers,
    }))
}

/// What another cluster answers, as long as there is one.
fn instead(cluster: &Arc<Cluster>) -> Other {
    // Weak: two clusters may stand in for each other.
    let cluster = Arc::downgrade(cluster);
    BoxCloneSyncService::new(tower::service_fn(
        move |request: http::Request<ReplayBody<Body>>| {
            let cluster = Weak::upgrade(&cluster);
            async move {
                let gone = || Failure::new(Reason::NoEndpoints, "the service that answers instead is gone");
                let cluster = cluster.ok_or_else(gone)?;
                let policies = cluster.policies().ok_or_else(gone)?;
                policies.send_plainly(&cluster, request.map(Body::from)).await
            }
        },
    ))
}

fn tell(cluster: &str, transition: Transition) {
    let what = transition.as_str();
    if transition == Transition::Closed {
        tracing::info!(cluster, transition = what, "circuit breaker closed");
    } else {
        tracing::warn!(cluster, transition = what, "circuit breaker opened");
    }
}

fn placed(response: http::Response<PlacedBody<Body>>) -> Response {
    response.map(|placed| {
        let (body, place) = placed.into_parts();
        match place {
            Some(place) => body.keeping(place),
            None => body,
        }
    })
}

/// What became of a request, in the words of the policies.
pub(crate) fn outcome(result: Result<&Response, &Failure>) -> Outcome {
    match result {
        // The proxy at the other end looks at the same deadline and may be the first to say so.
        Ok(response) if failure::is_marked(response.headers(), Reason::DeadlineExceeded) => Outcome::Timeout,
        Ok(response) => Outcome::Answered(answer(response)),
        Err(failure) => match failure.reason {
            Reason::ConnectFailed | Reason::ConnectTimeout => Outcome::ConnectFailed,
            Reason::UpstreamClosed => Outcome::Broken,
            Reason::DeadlineExceeded | Reason::TryTimeout => Outcome::Timeout,
            Reason::NoEndpoints => Outcome::Refused(Refusal::NoEndpoints),
            Reason::BreakerOpen => Outcome::Refused(Refusal::BreakerOpen),
            Reason::BulkheadFull => Outcome::Refused(Refusal::BulkheadFull),
            Reason::BulkheadTimeout => Outcome::Refused(Refusal::BulkheadTimeout),
            Reason::NoRoute
            | Reason::MethodNotAllowed
            | Reason::BadRequest
            | Reason::AmbiguousPath
            | Reason::HeadersTooLarge
            | Reason::UriTooLong
            | Reason::GrpcToHttp1
            | Reason::CallerAborted
            | Reason::Fallback
            | Reason::RateLimited => Outcome::OfCaller,
        },
    }
}

fn answer(response: &Response) -> Answer {
    let (status, headers) = (response.status(), response.headers());
    let grpc = grpc_code(headers);
    // Only an answer that is no success may ask for a pause.
    let failed =
        status.is_client_error() || status.is_server_error() || grpc.is_some_and(|code| code != GrpcCode::Ok);
    let pushback = if failed {
        pushback::read(headers, SystemTime::now())
    } else {
        None
    };
    Answer {
        status,
        grpc,
        pushback,
    }
}

fn grpc_code(headers: &HeaderMap) -> Option<GrpcCode> {
    let number = headers.get(failure::GRPC_STATUS)?.to_str().ok()?.parse().ok()?;
    Some(GrpcCode::from_number(number))
}

impl From<breaker::Refused> for Failure {
    fn from(refused: breaker::Refused) -> Self {
        let mut failure = Self::new(Reason::BreakerOpen, refused.to_string());
        failure.retry_after = Some(refused.retry_after());
        failure
    }
}

impl From<bulkhead::Refused> for Failure {
    fn from(refused: bulkhead::Refused) -> Self {
        let reason = match refused {
            bulkhead::Refused::Full => Reason::BulkheadFull,
            bulkhead::Refused::Timeout => Reason::BulkheadTimeout,
        };
        Self::new(reason, refused.to_string())
    }
}

impl From<Elapsed> for Failure {
    fn from(elapsed: Elapsed) -> Self {
        let reason = match elapsed {
            Elapsed::Request => Reason::DeadlineExceeded,
            Elapsed::Try => Reason::TryTimeout,
        };
        Self::new(reason, elapsed.to_string())
    }
}
