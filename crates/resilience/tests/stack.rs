//! All policies around one service, in the order of the contract, on a clock that the tests move.

#![allow(clippy::unwrap_used)]

use std::{
    convert::Infallible,
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tokio::time::{self, Instant};
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
    percent::Percent,
    retry::{
        self, Condition, Decision, Kept,
        layer::{RetryLayer, SharedBudget},
        pushback,
        replay::ReplayBody,
    },
};

type Body = UnsyncBoxBody<Bytes, Infallible>;
/// Bodies differ from layer to layer; these tests need only what is in them.
struct Collected(Bytes);
type Stack = BoxCloneSyncService<Request<Full<Bytes>>, Response<Collected>, Failure>;
type Other = BoxCloneSyncService<Request<ReplayBody<Full<Bytes>>>, Response<Collected>, Failure>;

#[derive(Debug, PartialEq)]
enum Failure {
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

fn classify<B>(result: Result<&Response<B>, &Failure>) -> Outcome {
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
enum Trouble {
    None,
    Refuse,
    Hang,
    Status(u16),
    /// 503 first, then well.
    FailOnce,
}

/// A try's body and `trellis-deadline-ms`.
type Seen = (Bytes, Option<String>);

/// A service with its trouble, and what it saw.
#[derive(Clone)]
struct Backend {
    trouble: Arc<Mutex<Trouble>>,
    tries: Arc<AtomicU32>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Backend {
    fn new(trouble: Trouble) -> Self {
        Self {
            trouble: Arc::new(Mutex::new(trouble)),
            tries: Arc::default(),
            seen: Arc::default(),
        }
    }

    fn becomes(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap() = trouble;
    }

    fn tries(&self) -> u32 {
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

struct Policies {
    fallback: fallback::Settings<Other>,
    deadline: deadline::Settings,
    bulkhead: SharedBulkhead,
    retry: retry::Settings,
    budget: SharedBudget,
    breaker: SharedBreaker,
    transitions: Arc<Mutex<Vec<Transition>>>,
    decisions: Arc<Mutex<Vec<Decision>>>,
}

impl Policies {
    fn new() -> Self {
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

    fn around(&self, backend: &Backend) -> Stack {
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

fn nothing() -> StaticAnswer {
    StaticAnswer {
        status: StatusCode::OK,
        content_type: HeaderValue::from_static("application/json"),
        body: Bytes::from_static(b"[]"),
    }
}

fn get() -> Request<Full<Bytes>> {
    Request::new(Full::default())
}

fn put(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body.into()));
    *request.method_mut() = Method::PUT;
    request
}

async fn status(stack: &Stack, request: Request<Full<Bytes>>) -> Result<u16, Failure> {
    let response = stack.clone().oneshot(request).await?;
    Ok(response.status().as_u16())
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[tokio::test(start_paused = true)]
async fn a_service_that_refuses_opens_the_breaker_after_five_tries_and_one_probe_closes_it() {
    let policies = Policies::new();
    let backend = Backend::new(Trouble::Refuse);
    let stack = policies.around(&backend);
    // Two tries each.
    assert_eq!(status(&stack, get()).await, Err(Failure::Connect));
    assert_eq!(status(&stack, get()).await, Err(Failure::Connect));
    let open = Err(Failure::Refused(Refusal::BreakerOpen));
    assert_eq!(status(&stack, get()).await, open, "the second try is refused");
    assert_eq!(backend.tries(), 5);
    for _ in 0..100 {
        assert_eq!(status(&stack, get()).await, open);
    }
    assert_eq!(backend.tries(), 5, "open calls nobody");

    time::advance(seconds(61)).await;
    backend.becomes(Trouble::Hang);
    let probe = tokio::spawn({
        let stack = stack.clone();
        async move { status(&stack, get()).await }
    });
    tokio::task::yield_now().await;
    for _ in 0..100 {
        assert_eq!(status(&stack, get()).await, open);
    }
    assert_eq!(backend.tries(), 6, "one probe");
    // Its caller goes away; the next one is asked instead.
    probe.abort();
    assert!(probe.await.unwrap_err().is_cancelled());
    backend.becomes(Trouble::None);
    assert_eq!(status(&stack, get()).await, Ok(200));
    assert_eq!(status(&stack, get()).await, Ok(200));
    assert_eq!(
        *policies.transitions.lock().unwrap(),
        [Transition::OpenedByFailures, Transition::Closed]
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_is_left_at_the_deadline_and_the_next_hop_was_told_of_it() {
    let mut policies = Policies::new();
    policies.deadline = deadline::Settings {
        total: Some(seconds(2)),
        per_try: Some(Duration::from_millis(500)),
    };
    policies.retry.on = vec![Condition::Timeout];
    policies.retry.attempts = NonZeroU32::new(10).unwrap();
    let backend = Backend::new(Trouble::Hang);
    let stack = policies.around(&backend);
    let start = Instant::now();
    let result = status(&stack, get()).await;
    assert_eq!(result, Err(Failure::Elapsed(Elapsed::Request)));
    assert_eq!(start.elapsed(), seconds(2));
    assert!((3..=4).contains(&backend.tries()), "{} tries", backend.tries());

    backend.becomes(Trouble::None);
    let mut request = get();
    request
        .headers_mut()
        .insert(wire::DEADLINE, HeaderValue::from_static("200"));
    assert_eq!(status(&stack, request).await, Ok(200));
    assert_eq!(status(&stack, get()).await, Ok(200));
    let told: Vec<_> = backend
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|seen| seen.1.clone())
        .collect();
    assert_eq!(told, [Some("200".to_owned()), Some("500".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_stream_has_no_deadline_unless_its_caller_gave_one() {
    let policies = Policies::new();
    let backend = Backend::new(Trouble::Hang);
    let stack = policies.around(&backend);
    let grpc = |timeout: Option<&'static str>| {
        let mut request = put("");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(timeout) = timeout {
            headers.insert(wire::GRPC_TIMEOUT, HeaderValue::from_static(timeout));
        }
        request
    };
    let hour = time::timeout(seconds(3600), status(&stack, grpc(None))).await;
    assert!(hour.is_err(), "it ended: {hour:?}");
    let start = Instant::now();
    let result = status(&stack, grpc(Some("3S"))).await;
    assert_eq!(result, Err(Failure::Elapsed(Elapsed::Request)));
    assert_eq!(start.elapsed(), seconds(3));
}

#[tokio::test(start_paused = true)]
async fn a_body_is_sent_again_whole_and_one_that_is_too_long_once() {
    let policies = Policies::new();
    let backend = Backend::new(Trouble::FailOnce);
    let stack = policies.around(&backend);
    assert_eq!(status(&stack, put("the body")).await, Ok(200));
    let bodies: Vec<_> = backend
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|seen| seen.0.clone())
        .collect();
    assert_eq!(bodies, ["the body", "the body"]);

    let backend = Backend::new(Trouble::FailOnce);
    let stack = policies.around(&backend);
    assert_eq!(status(&stack, put(vec![0; 64 * 1024 + 1])).await, Ok(503));
    assert_eq!(backend.tries(), 1);
    let last = policies.decisions.lock().unwrap().last().copied();
    assert_eq!(last, Some(Decision::Keep(Kept::Body)));
}

#[tokio::test(start_paused = true)]
async fn retries_never_exceed_the_budget() {
    let mut policies = Policies::new();
    policies.retry.on = vec![Condition::ServerError];
    policies.retry.attempts = NonZeroU32::new(4).unwrap();
    policies.budget = SharedBudget::new(budget::Settings {
        percent: Percent::new(20).unwrap(),
        min_per_second: 0,
        ..budget::Settings::default()
    });
    policies.breaker = SharedBreaker::new(
        breaker::Settings {
            consecutive_failures: NonZeroU32::MAX,
            failure_rate: None,
            ..breaker::Settings::default()
        },
        drop,
    );
    let backend = Backend::new(Trouble::Status(500));
    let stack = policies.around(&backend);
    for request in 1..=200_u32 {
        assert_eq!(status(&stack, get()).await, Ok(500));
        let retries = backend.tries() - request;
        assert!(retries * 5 <= request, "{retries} retries of {request} requests");
    }
    assert_eq!(backend.tries(), 240);
}

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_refuses_at_once_and_those_who_wait_no_longer_than_their_deadline() {
    let mut policies = Policies::new();
    policies.bulkhead = SharedBulkhead::new(bulkhead::Settings {
        max_concurrent: NonZeroU32::new(1).unwrap(),
        max_waiting: 1,
        max_wait: seconds(5),
    });
    policies.deadline.total = Some(seconds(2));
    let backend = Backend::new(Trouble::Hang);
    let stack = policies.around(&backend);
    let spawn = || {
        let stack = stack.clone();
        tokio::spawn(async move { status(&stack, get()).await })
    };
    let inside = spawn();
    tokio::task::yield_now().await;
    time::advance(seconds(1)).await;
    let waiting = spawn();
    tokio::task::yield_now().await;
    assert_eq!(policies.bulkhead.load(), (1, 1));
    let full = Err(Failure::Refused(Refusal::BulkheadFull));
    assert_eq!(status(&stack, get()).await, full);
    let start = Instant::now();
    assert!(inside.await.unwrap().is_err());
    backend.becomes(Trouble::None);
    assert_eq!(start.elapsed(), seconds(1), "left at its deadline");
    // Its place went to the one that waited, which hangs as well and has a second left.
    assert_eq!(waiting.await.unwrap(), Err(Failure::Elapsed(Elapsed::Request)));
    assert_eq!(start.elapsed(), seconds(2));
    assert_eq!(policies.bulkhead.load(), (0, 0));
    assert_eq!(status(&stack, get()).await, Ok(200));
}

#[tokio::test(start_paused = true)]
async fn the_fallback_answers_what_the_policies_refuse_and_what_takes_too_long() {
    let mut policies = Policies::new();
    policies.fallback = fallback::Settings::new(Otherwise::Static(nothing()));
    policies.deadline.total = Some(seconds(1));
    let backend = Backend::new(Trouble::Hang);
    let stack = policies.around(&backend);
    let response = stack.clone().oneshot(get()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(response.body().0, "[]");
    backend.becomes(Trouble::Refuse);
    for _ in 0..20 {
        assert_eq!(stack.clone().oneshot(get()).await.unwrap().body().0, "[]");
    }
    assert!(backend.tries() <= 6, "the breaker opened all the same");
    let opened = policies.transitions.lock().unwrap().clone();
    assert_eq!(opened, [Transition::OpenedByFailures]);
}

#[tokio::test(start_paused = true)]
async fn another_service_gets_the_whole_request_instead() {
    let other = service_fn(|request: Request<ReplayBody<Full<Bytes>>>| async {
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let text = format!("{method} {}", String::from_utf8_lossy(&body));
        Ok::<_, Failure>(Response::new(Collected(Bytes::from(text))))
    });
    let mut policies = Policies::new();
    policies.fallback = fallback::Settings::new(Otherwise::Service(Other::new(other)));
    let backend = Backend::new(Trouble::Status(503));
    let stack = policies.around(&backend);
    let response = stack.clone().oneshot(put("the body")).await.unwrap();
    assert_eq!(response.body().0, "PUT the body");
    let long = stack.oneshot(put(vec![0; 64 * 1024 + 1])).await.unwrap();
    assert_eq!(long.status(), 503, "too long to be sent to another");
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_when_just_let_in_gives_the_place_to_the_next() {
    let bulkhead = SharedBulkhead::new(bulkhead::Settings {
        max_concurrent: NonZeroU32::MIN,
        ..bulkhead::Settings::default()
    });
    let first = bulkhead.enter(None).await.unwrap();
    let mut waiting = Box::pin(bulkhead.enter(None));
    let mut next = Box::pin(bulkhead.enter(None));
    for waits in [&mut waiting, &mut next] {
        let polled = waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    drop(first);
    // It has the place and does not know yet.
    drop(waiting);
    let place = next.await.unwrap();
    assert_eq!(bulkhead.load(), (1, 0));
    drop(place);
    assert_eq!(bulkhead.load(), (0, 0));
}

/// Counts who is inside, also those who are torn out of it.
struct Counted(Arc<AtomicU32>);

impl Counted {
    fn new(inside: Arc<AtomicU32>, most: &AtomicU32) -> Self {
        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(inside)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_come_and_go_leave_a_bulkhead_empty_and_never_too_full() {
    let bulkhead = SharedBulkhead::new(bulkhead::Settings {
        max_concurrent: NonZeroU32::new(3).unwrap(),
        max_waiting: 1000,
        max_wait: seconds(30),
    });
    let (inside, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let calls: Vec<_> = (0..400_u64)
        .map(|number| {
            let (bulkhead, inside, most) = (bulkhead.clone(), Arc::clone(&inside), Arc::clone(&most));
            let call = tokio::spawn(async move {
                let _place = bulkhead.enter(None).await.unwrap();
                let _counted = Counted::new(inside, &most);
                for _ in 0..number % 7 {
                    tokio::task::yield_now().await;
                }
            });
            (number, call)
        })
        .collect();
    for (number, call) in calls {
        // A third of the callers goes away, while it waits or just after it was let in.
        if number % 3 == 0 {
            call.abort();
        } else {
            call.await.unwrap();
        }
    }
    time::timeout(seconds(30), async {
        while bulkhead.load() != (0, 0) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a place was lost");
    assert!(most.load(Ordering::SeqCst) <= 3);
}
