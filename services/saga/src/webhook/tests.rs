//! Receivers that fail, hang and lead elsewhere.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use trellis_saga_core::event::{CallId, Op, What};
use trellis_saga_core::{Definition, canonical};
use trellis_saga_engine::id::Partition;
use trellis_saga_engine::store::{Revision, RevisionId};

use super::*;

/// What a receiver got, and how often it fails before it takes something.
#[derive(Default)]
struct Received {
    fails: usize,
    tried: AtomicUsize,
    events: Mutex<Vec<(String, Value)>>,
}

type Receiver = Arc<Received>;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

async fn take(State(received): State<Receiver>, headers: HeaderMap, body: String) -> Response {
    if received.tried.fetch_add(1, Ordering::SeqCst) < received.fails {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let content_type = headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    let event = serde_json::from_str(&body).unwrap();
    received.events.lock().unwrap().push((content_type, event));
    StatusCode::NO_CONTENT.into_response()
}

async fn receiver(fails: usize) -> (Receiver, String) {
    let received = Arc::new(Received {
        fails,
        ..Received::default()
    });
    let routes = Router::new()
        .route("/stuck", post(take))
        .route("/hangs", post(async || std::future::pending::<()>().await))
        .route("/elsewhere", post(async || Redirect::temporary("/stuck")))
        .with_state(Arc::clone(&received));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, routes).await });
    (received, address)
}

fn saga(url: &str) -> Compiled {
    let definition: Definition = serde_json::from_value(json!({
        "apiVersion": "saga.trellis.dev/v1", "namespace": "shop", "name": "place-order",
        "input": {"schema": {"type": "object", "properties": {"card": {"type": "string"}}}},
        "onStuck": {"event": true, "webhook": url}, "retention": {"completed": 1, "compensated": 1},
        "steps": [{"name": "pay", "after": [], "kind": "Pivot", "action": {
            "call": {"microservice": "payment", "method": "POST", "path": "/"}, "timeout": 1000,
            "retry": {"initial": 1, "factor": 1.0, "maxInterval": 1, "jitter": 0, "retryOn": []},
        }}],
    }))
    .unwrap();
    let revision = Revision {
        namespace: "shop".to_owned(),
        saga: "place-order".to_owned(),
        revision: "7c1e".to_owned(),
        definition: canonical::text(&definition),
        is_current: true,
    };
    Compiled::new(RevisionId(1), &revision).unwrap()
}

fn cause(detail: &str) -> Cause {
    Cause {
        at: Time(1_700_000_000_000),
        what: What::PivotUnknown,
        call: Some(CallId {
            step: 0,
            item: 0,
            op: Op::Action,
            incarnation: 0,
        }),
        attempts: 5,
        detail: detail.into(),
    }
}

fn run(n: u128) -> RunId {
    RunId::new(1_700_000_000_000, n << 6, Partition(0))
}

/// Webhooks that are in a hurry, and what they count.
struct Stage {
    webhooks: Webhooks,
    registry: Registry,
}

impl Stage {
    fn new(refuses: Refuses) -> Self {
        let mut registry = Registry::default();
        let metrics = metrics::Metrics::register(&mut registry).webhooks();
        let terms = Terms {
            answer: Duration::from_millis(200),
            pause: (Duration::from_millis(5), Duration::from_millis(20)),
            give_up: Duration::from_millis(500),
            refuses,
        };
        let webhooks = Webhooks::new(terms, metrics);
        Self { webhooks, registry }
    }

    fn counted(&self, outcome: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let of = |line: &&str| line.starts_with("trellis_saga_webhooks_total") && line.contains(outcome);
        let line = text.lines().find(of);
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(DEADLINE, wait)
            .await
            .unwrap_or_else(|_| panic!("{what}"));
    }
}

#[tokio::test]
async fn it_is_told_again_until_it_is_taken_and_under_the_same_id() {
    let stage = Stage::new(Refuses::Nothing);
    let (received, address) = receiver(3).await;
    let saga = saga(&format!("{address}/stuck"));
    let causes = [cause("503 Service Unavailable")];
    stage.webhooks.stuck(&saga, run(1), &causes);
    // Twice, as when its partition is read anew meanwhile.
    stage.webhooks.stuck(&saga, run(1), &causes);
    stage
        .until("it is delivered", || stage.counted("delivered") == 1)
        .await;
    assert_eq!((stage.counted("retry"), stage.counted("lost")), (3, 0));
    // By another replica, which has taken the run over; and when there is more to say.
    let other = Stage::new(Refuses::Nothing);
    other.webhooks.stuck(&saga, run(1), &causes);
    other
        .until("the other has told it too", || other.counted("delivered") == 1)
        .await;
    other.webhooks.stuck(&saga, run(1), &[cause("503"), cause("504")]);
    other
        .until("there is news", || other.counted("delivered") == 2)
        .await;
    let events = received.events.lock().unwrap();
    let ids: Vec<_> = events.iter().map(|(_, event)| event["id"].clone()).collect();
    let (first, news) = (format!("{}-1", run(1)), format!("{}-2", run(1)));
    assert_eq!(ids, [&*first, &*first, &*news]);
    let (content_type, event) = &events[0];
    assert_eq!(content_type, "application/cloudevents+json; charset=utf-8");
    assert_eq!(
        *event,
        json!({
            "specversion": "1.0", "type": "dev.trellis.saga.run.stuck", "id": first, "subject": run(1).to_string(),
            "source": "/namespaces/shop/sagas/place-order", "time": "2023-11-14T22:13:20Z",
            "datacontenttype": "application/json",
            "data": {
                "namespace": "shop", "saga": "place-order", "run": run(1).to_string(), "revision": "7c1e",
                "causes": [{
                    "at": "2023-11-14T22:13:20Z", "what": "PivotUnknown", "step": "pay", "index": 0, "op": "action",
                    "attempts": 5, "detail": "503 Service Unavailable",
                }],
                "fix": format!("trellis saga show {}", run(1)),
            },
        })
    );
}

#[tokio::test]
async fn one_that_hangs_delays_nobody_and_is_given_up() {
    let stage = Stage::new(Refuses::Nothing);
    let (received, address) = receiver(0).await;
    let (hangs, fine) = (
        saga(&format!("{address}/hangs")),
        saga(&format!("{address}/stuck")),
    );
    for n in 0..50 {
        stage.webhooks.stuck(&hangs, run(n), &[cause("")]);
    }
    for n in 50..100 {
        stage.webhooks.stuck(&fine, run(n), &[cause("")]);
    }
    stage
        .until("the others are told", || stage.counted("delivered") == 50)
        .await;
    stage
        .until("the rest is given up", || stage.counted("lost") == 50)
        .await;
    assert_eq!(received.events.lock().unwrap().len(), 50);
    assert!(stage.webhooks.waiting().events.is_empty());
}

#[tokio::test]
async fn it_goes_nowhere_else() {
    let (received, address) = receiver(0).await;
    let stage = Stage::new(Refuses::Nothing);
    stage
        .webhooks
        .stuck(&saga(&format!("{address}/elsewhere")), run(1), &[cause("")]);
    stage
        .until("a redirect is not followed", || stage.counted("lost") == 1)
        .await;
    // Neither by its address nor by a name.
    let stage = Stage::new(Refuses::Own([10, 0, 0, 7].into()));
    let port = address.rsplit(':').next().unwrap();
    for (n, host) in (1_u128..).zip([
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "2130706433",
    ]) {
        stage.webhooks.stuck(
            &saga(&format!("http://{host}:{port}/stuck")),
            run(n),
            &[cause("")],
        );
        stage.until(host, || u128::from(stage.counted("lost")) == n).await;
    }
    assert_eq!(received.tried.load(Ordering::SeqCst), 0);
    for (address, is_refused) in [
        ("10.0.0.7", true),
        ("10.0.0.8", false),
        ("169.254.169.254", true),
        ("fe80::1", true),
        ("::1", true),
        ("2001:db8::1", false),
    ] {
        assert_eq!(
            stage.webhooks.0.terms.refuses.refuses(address.parse().unwrap()),
            is_refused,
            "{address}"
        );
    }
}
