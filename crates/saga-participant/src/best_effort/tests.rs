use std::sync::atomic::{AtomicI32, Ordering};

use axum::Router;
use axum::extract::State;
use axum::routing::{delete, get, post};
use http::{HeaderValue, Method};
use tower::ServiceExt as _;
use trellis_testkit::requests::{self, Answer};
use trellis_testkit::wait;

use super::*;

/// A service without a memory: it gives out tickets and takes them back, whoever asks.
#[derive(Clone, Default)]
struct Tickets(Arc<Inner>);

#[derive(Default)]
struct Inner {
    sold: AtomicI32,
    asked: AtomicI32,
    /// Who waits for this goes on when it is told.
    gate: Notify,
}

impl Tickets {
    fn router(&self, limits: Limits) -> Router {
        Router::new()
            .route("/tickets", post(sell))
            .route("/tickets/{id}", delete(take_back))
            .route("/large", post(large))
            .route("/slow", post(slow))
            .route("/panic", post(panic))
            .route("/ill", post(ill))
            .route("/job", post(job))
            .route("/job", get(async || "40 %"))
            .layer(BestEffortLayer::new(limits))
            .with_state(self.clone())
    }

    fn sold(&self) -> i32 {
        self.0.sold.load(Ordering::SeqCst)
    }

    fn asked(&self) -> i32 {
        self.0.asked.load(Ordering::SeqCst)
    }

    fn sell(&self) -> i32 {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        self.0.sold.fetch_add(1, Ordering::SeqCst) + 1
    }
}

async fn sell(State(tickets): State<Tickets>) -> Response {
    let number = tickets.sell().to_string();
    (StatusCode::CREATED, [("x-number", number.clone())], number).into_response()
}

async fn take_back(State(tickets): State<Tickets>) -> StatusCode {
    tickets.0.sold.fetch_sub(1, Ordering::SeqCst);
    StatusCode::NO_CONTENT
}

async fn large(State(tickets): State<Tickets>) -> String {
    tickets.sell();
    "x".repeat(100)
}

async fn slow(State(tickets): State<Tickets>) -> String {
    let number = tickets.sell();
    tickets.0.gate.notified().await;
    number.to_string()
}

async fn panic(State(tickets): State<Tickets>) -> StatusCode {
    tickets.sell();
    panic!("the printer burns")
}

async fn ill(State(tickets): State<Tickets>) -> StatusCode {
    tickets.sell();
    StatusCode::SERVICE_UNAVAILABLE
}

async fn job(State(tickets): State<Tickets>) -> Response {
    tickets.sell();
    (StatusCode::ACCEPTED, [(header::LOCATION, "/job")]).into_response()
}

fn request(method: &str, path: &str, op: &'static str) -> Request {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = path.parse().unwrap();
    for (name, value) in [
        ("idempotency-key", "r1/buy"),
        ("trellis-saga-run", "r1"),
        ("trellis-saga-step", "buy"),
        ("trellis-saga-index", "0"),
        ("trellis-saga-op", op),
        ("trellis-saga-incarnation", "0"),
        ("trellis-saga-attempt", "1"),
        ("trellis-saga-epoch", "1"),
    ] {
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    request
}

async fn act(router: &Router, path: &str) -> Answer {
    requests::send(router, request("POST", path, "action")).await
}

async fn compensate(router: &Router) -> Answer {
    requests::send(router, request("DELETE", "/tickets/r1", "compensation")).await
}

#[tokio::test]
async fn a_duplicate_gets_the_first_answer_with_its_headers_and_the_service_is_not_asked() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits::default());
    let (first, second) = (act(&router, "/tickets").await, act(&router, "/tickets").await);
    for answer in [first, second] {
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (201, "1"));
        assert_eq!(answer.header("x-number"), "1");
    }
    assert_eq!(tickets.asked(), 1);
}

#[tokio::test]
async fn an_action_and_its_compensation_on_another_route_meet_in_one_memory() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits::default());
    act(&router, "/tickets").await;
    for _ in 0..2 {
        assert_eq!(compensate(&router).await.status.as_u16(), 204);
    }
    assert_eq!(tickets.sold(), 0, "taken back once");
    assert_eq!(act(&router, "/tickets").await.status.as_u16(), 201, "a late copy");
    assert_eq!(tickets.sold(), 0);
}

#[tokio::test]
async fn a_compensation_that_comes_first_is_not_passed_on_and_its_action_is_refused() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits::default());
    assert_eq!(compensate(&router).await.status.as_u16(), 204);
    let late = act(&router, "/tickets").await;
    assert_eq!(late.status.as_u16(), 409);
    assert!(late.text.contains("was compensated before"), "{}", late.text);
    assert_eq!((tickets.sold(), tickets.asked()), (0, 0));
}

#[tokio::test]
async fn a_request_that_comes_from_no_saga_is_done_each_time_and_one_with_some_headers_not_at_all() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits::default());
    for _ in 0..2 {
        requests::post(&router, "/tickets", "").await;
    }
    assert_eq!(tickets.sold(), 2);
    let mut partial = request("POST", "/tickets", "action");
    partial.headers_mut().remove("trellis-saga-incarnation");
    let refused = requests::send(&router, partial).await;
    assert_eq!((refused.status.as_u16(), tickets.sold()), (400, 2));
}

#[tokio::test]
async fn a_copy_waits_for_the_one_that_is_under_way() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits::default());
    let ask = || {
        let router = router.clone();
        tokio::spawn(async move { act(&router, "/slow").await.text })
    };
    let both = [ask(), ask()];
    wait::until("the service works", async || tickets.asked() == 1).await;
    tickets.0.gate.notify_one();
    for asked in both {
        assert_eq!(asked.await.unwrap(), "1");
    }
    assert_eq!(tickets.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_waits_too_long_is_to_ask_again() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits::default());
    let first = tokio::spawn({
        let router = router.clone();
        async move { act(&router, "/slow").await }
    });
    wait::until("the service works", async || tickets.asked() == 1).await;
    let second = act(&router, "/slow").await;
    assert_eq!((second.status.as_u16(), second.header("retry-after")), (425, "1"));
    assert_eq!(second.json()["type"], "urn:trellis:problem:saga-under-way");
    tickets.0.gate.notify_one();
    assert_eq!(first.await.unwrap().status.as_u16(), 200);
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_end_the_work() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits::default());
    let first = tokio::spawn(router.clone().oneshot(request("POST", "/slow", "action")));
    wait::until("the service works", async || tickets.asked() == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    tickets.0.gate.notify_one();
    assert_eq!(act(&router, "/slow").await.text, "1");
    assert_eq!(tickets.asked(), 1);
}

#[tokio::test]
async fn after_a_panic_or_a_5xx_the_service_is_asked_again_and_so_is_its_compensation() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits::default());
    let panicked = tokio::spawn(router.clone().oneshot(request("POST", "/panic", "action"))).await;
    assert!(
        panicked.unwrap_err().is_panic(),
        "whoever guards against panics sees it"
    );
    assert_eq!(act(&router, "/ill").await.status.as_u16(), 503);
    assert_eq!(act(&router, "/ill").await.status.as_u16(), 503);
    assert_eq!(tickets.asked(), 3);
    compensate(&router).await;
    assert_eq!(tickets.sold(), 2, "what was done in between is known to nobody");
    assert_eq!(act(&router, "/tickets").await.status.as_u16(), 409, "a late copy");
}

#[tokio::test(start_paused = true)]
async fn work_that_takes_too_long_is_dropped_and_tried_again() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits::default());
    for asked in 1..=2 {
        let given_up = act(&router, "/slow").await;
        assert_eq!((given_up.status.as_u16(), tickets.asked()), (503, asked));
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_the_same_500_for_all_and_can_be_compensated() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits {
        answer_bytes: 99,
        ..Limits::default()
    });
    for _ in 0..2 {
        let answer = act(&router, "/large").await;
        assert_eq!(answer.status.as_u16(), 500);
        assert!(answer.text.contains("more than 99 bytes"), "{}", answer.text);
    }
    assert_eq!((tickets.asked(), tickets.sold()), (1, 1));
    compensate(&router).await;
    assert_eq!(tickets.sold(), 0);
}

#[tokio::test]
async fn the_question_how_far_a_202_is_is_passed_on() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits::default());
    for _ in 0..2 {
        let pending = act(&router, "/job").await;
        assert_eq!(
            (pending.status.as_u16(), pending.header("location")),
            (202, "/job")
        );
    }
    let answer = requests::send(&router, request("GET", "/job", "action")).await;
    assert_eq!((answer.text.as_str(), tickets.asked()), ("40 %", 1));
}

#[tokio::test]
async fn a_call_that_could_not_be_remembered_is_not_done() {
    let tickets = Tickets::default();
    let router = tickets.router(Limits {
        calls: 0,
        ..Limits::default()
    });
    let refused = act(&router, "/tickets").await;
    assert_eq!((refused.status.as_u16(), tickets.asked()), (429, 0));
    assert_eq!(refused.header("retry-after"), "1");
}

#[test]
fn clones_of_a_layer_are_equal_and_others_are_not() {
    let layer = BestEffortLayer::new(Limits::default());
    assert_eq!(layer, layer.clone());
    assert_ne!(layer, BestEffortLayer::new(Limits::default()));
}
