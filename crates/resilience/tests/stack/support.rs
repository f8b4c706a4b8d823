//! A service with its trouble, and the policies around it.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};
use trellis_resilience::{
    breaker::{
        self, Transition,
        layer::{BreakerLayer, SharedBreaker},
    },
    budget,
    bulkhead::{
        self,
        layer::{BulkheadLayer, PlacedBody, SharedBulkhead},
    },
    deadline::{
        self, Elapsed,
        layer::{DeadlineLayer, TryTimeoutLayer},
        wire,
    },
    fallback::{self, Otherwise, StaticAnswer, layer::FallbackLayer},
    outcome::{Answer, Outcome, Refusal},
    retry::{
        self, Decision,
        layer::{RetryLayer, SharedBudget},
        pushback,
        replay::ReplayBody,
    },
};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;
/// Bodies differ from layer to layer; these tests need only what is in them.
pub(crate) struct Collected(pub(crate) Bytes);
pub(crate) type Stack = BoxCloneSyncService<Request<Full<Bytes>>, Response<Collected>, Failure>;
pub(crate) type Other = BoxCloneSyncService<Request<ReplayBody<Full<Bytes>>>, Response<Collected>, Failure>;

#[derive(Debug, PartialEq)]
pub(crate) enum Failure {
    Connect,
    Elapsed(Elapsed),
    Refused(Refusal),
}

impl From<Elapsed> for Failure {
    fn from(elapsed: Elapsed) -> Self {
        Self::Elapsed(elapsed)
    }
}

impl From<breaker::Refused> for Failure {
    fn from(refused: breaker::Refused) -> Self {
        Self::Refused(refused.into())
    }
}

impl From<bulkhead::Refused> for Failure {
    fn from(refused: bulkhead::Refused) -> Self {
        Self::Refused(refused.into())
    }
}

impl From<Bytes> for Collected {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

pub(crate) fn classify<B>(result: Result<&Response<B>, &Failure>) -> Outcome {
    match result {
        Ok(response) => Outcome::Answered(Answer {
            status: response.status(),
            grpc: None,
            pushback: pushback::read(response.headers(), std::time::SystemTime::now()),
        }),
        Err(Failure::Connect) => Outcome::ConnectFailed,
        Err(Failure::Elapsed(_)) => Outcome::Timeout,
        Err(Failure::Refused(refusal)) => Outcome::Refused(*refusal),
    }
}

/// What the service does.
#[derive(Clone, Copy)]
pub(crate) enum Trouble {
    None,
    Refuse,
    Hang,
    Status(u16),
    /// 503 first, then well.
    FailOnce,
}

/// A try's body and `trellis-deadline-ms`.
pub(crate) type Seen = (Bytes, Option<String>);

/// A service with its trouble, and what it saw.
#[derive(Clone)]
pub(crate) struct Backend {
    trouble: Arc<Mutex<Trouble>>,
    tries: Arc<AtomicU32>,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
}

impl Backend {
    pub(crate) fn new(trouble: Trouble) -> Self {
        Self {
            trouble: Arc::new(Mutex::new(trouble)),
            tries: Arc::default(),
            seen: Arc::default(),
        }
    }

    pub(crate) fn becomes(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap() = trouble;
    }

    pub(crate) fn tries(&self) -> u32 {
        self.tries.load(Ordering::SeqCst)
    }

    async fn answer<B>(self, request: Request<B>) -> Result<Response<Body>, Failure>
    where
        B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
    {
        let number = self.tries.fetch_add(1, Ordering::SeqCst) + 1;
        let trouble = *self.trouble.lock().unwrap();
        let status = match trouble {
            Trouble::Refuse => return Err(Failure::Connect),
            Trouble::Hang => std::future::pending().await,
            Trouble::Status(status) => status,
            Trouble::FailOnce if number == 1 => 503,
            Trouble::None | Trouble::FailOnce => 200,
        };
        let deadline = request.headers().get(wire::DEADLINE);
        let deadline = deadline.map(|value| value.to_str().unwrap().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        self.seen.lock().unwrap().push((body, deadline));
        let mut response = Response::new(Full::new(Bytes::from_static(b"well")).boxed_unsync());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(response)
    }
}

pub(crate) struct Policies {
    pub(crate) fallback: fallback::Settings<Other>,
    pub(crate) deadline: deadline::Settings,
    pub(crate) bulkhead: SharedBulkhead,
    pub(crate) retry: retry::Settings,
    pub(crate) budget: SharedBudget,
    pub(crate) breaker: SharedBreaker,
    pub(crate) transitions: Arc<Mutex<Vec<Transition>>>,
    pub(crate) decisions: Arc<Mutex<Vec<Decision>>>,
}

impl Policies {
    pub(crate) fn new() -> Self {
        let transitions = Arc::<Mutex<Vec<_>>>::default();
        let seen = Arc::clone(&transitions);
        Self {
            fallback: fallback::Settings {
                on: Vec::new(),
                with: Otherwise::Static(nothing()),
            },
            deadline: deadline::Settings::default(),
            bulkhead: SharedBulkhead::new(bulkhead::Settings::default()),
            retry: retry::Settings::default(),
            budget: SharedBudget::new(budget::Settings::default()),
            breaker: SharedBreaker::new(breaker::Settings::default(), move |transition| {
                seen.lock().unwrap().push(transition);
            }),
            transitions,
            decisions: Arc::default(),
        }
    }

    pub(crate) fn around(&self, backend: &Backend) -> Stack {
        let backend = backend.clone();
        let decisions = Arc::clone(&self.decisions);
        let stack = ServiceBuilder::new()
            .layer(FallbackLayer::new(self.fallback.clone(), classify::<Collected>))
            .map_future(collected)
            .layer(DeadlineLayer(self.deadline.clone()))
            .layer(BulkheadLayer(self.bulkhead.clone()))
            .layer(RetryLayer::new(
                self.retry.clone(),
                self.budget.clone(),
                classify::<Body>,
                move |decision| decisions.lock().unwrap().push(decision),
            ))
            .layer(TryTimeoutLayer(self.deadline.clone()))
            .layer(BreakerLayer::new(self.breaker.clone(), classify::<Body>))
            .service(service_fn(move |request| backend.clone().answer(request)));
        Stack::new(stack)
    }
}

async fn collected(
    answered: impl Future<Output = Result<Response<PlacedBody<Body>>, Failure>>,
) -> Result<Response<Collected>, Failure> {
    let (head, body) = answered.await?.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Ok(Response::from_parts(head, Collected(bytes)))
}

pub(crate) fn nothing() -> StaticAnswer {
    StaticAnswer {
        status: StatusCode::OK,
        content_type: HeaderValue::from_static("application/json"),
        body: Bytes::from_static(b"[]"),
        headers: http::HeaderMap::new(),
    }
}

pub(crate) fn get() -> Request<Full<Bytes>> {
    Request::new(Full::default())
}

pub(crate) fn put(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body.into()));
    *request.method_mut() = Method::PUT;
    request
}

pub(crate) async fn status(stack: &Stack, request: Request<Full<Bytes>>) -> Result<u16, Failure> {
    let response = stack.clone().oneshot(request).await?;
    Ok(response.status().as_u16())
}

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
