//! The whole service in this process, beside a user service and a saga engine made for the test and a real PostgreSQL.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get as on_get, post as on_post};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use trellis_chassis::config::{self, Environment};
use trellis_chassis::readiness::Readiness;
use trellis_testkit::postgres::TestDatabase;
use trellis_testkit::requests::{Answer, get, post, send};
use trellis_testkit::{openapi, wait};

use super::*;

/// Knows `ada` and `bob`; can be told to be ill. It counts the questions and keeps the last trace.
#[derive(Clone, Default)]
struct Users {
    ill: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    traceparent: Arc<std::sync::Mutex<String>>,
}

/// Notes what is started, by saga and key; can be told to be ill. What it does to orders, the tests do.
#[derive(Clone, Default)]
struct Engine {
    ill: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    started: Arc<std::sync::Mutex<BTreeMap<(String, String), Value>>>,
}

struct Shop {
    router: Router,
    database: TestDatabase,
    readiness: Readiness,
    users: Users,
    engine: Engine,
}

impl Engine {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/v1/namespaces/shop/sagas/{saga}/runs", on_post(start))
            .with_state(self.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        address
    }

    /// Sagas and keys of what was started.
    fn started(&self) -> Vec<(String, String)> {
        self.started.lock().unwrap().keys().cloned().collect()
    }
}

async fn start(
    State(engine): State<Engine>,
    Path(saga): Path<String>,
    headers: HeaderMap,
    axum::Json(body): axum::Json<Value>,
) -> StatusCode {
    engine.asked.fetch_add(1, Ordering::Relaxed);
    assert_eq!(headers["authorization"], "Bearer of-order");
    if engine.ill.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    let mut started = engine.started.lock().unwrap();
    let before = started.insert((saga, key), body["input"].clone());
    assert!(before.is_none_or(|before| before == body["input"]));
    StatusCode::CREATED
}

impl Users {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/users/{username}", on_get(answer))
            .with_state(self.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        address
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn answer(State(users): State<Users>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    users.asked.fetch_add(1, Ordering::Relaxed);
    let traceparent = headers
        .get("traceparent")
        .map_or("", |value| value.to_str().unwrap());
    traceparent.clone_into(&mut users.traceparent.lock().unwrap());
    match name.as_str() {
        _ if users.ill.load(Ordering::Relaxed) => {
            (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "3")]).into_response()
        }
        "slow" => std::future::pending().await,
        "ada" | "bob" => axum::Json(json!({"username": name})).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

impl Shop {
    async fn start(database: TestDatabase) -> Self {
        let users = Users::default();
        let user_url = format!("http://{}", users.start().await);
        Self::with_user_url(database, users, &user_url).await
    }

    async fn with_user_url(database: TestDatabase, users: Users, user_url: &str) -> Self {
        let engine = Engine::default();
        let engine_url = format!("http://{}", engine.start().await);
        database.write("token", "of-order\n");
        let root = database.binding_root().display().to_string();
        let token = format!("{root}/db/token");
        let env = Environment::from_pairs([
            ("SERVICE_BINDING_ROOT", root.as_str()),
            ("USER_URL", user_url),
            ("TRELLIS_SAGA_URL", &engine_url),
            ("SAGA_TOKEN", &token),
            ("POD_NAMESPACE", "shop"),
        ]);
        let config = config::load(env, crate::config::read).unwrap();
        let mut process = Process::default();
        let router = build(config, &mut process);
        let router = server::app("order", router, &mut process);
        Self {
            router,
            database,
            readiness: process.readiness,
            users,
            engine,
        }
    }

    async fn ready() -> Self {
        let shop = Self::start(TestDatabase::create().await).await;
        shop.wait().await;
        shop
    }

    async fn wait(&self) {
        wait::until("the service is ready", async || self.readiness.is_ready()).await;
    }

    async fn post(&self, body: impl Into<String>) -> Answer {
        post(&self.router, "/orders/", body).await
    }

    async fn get(&self, path: &str) -> Answer {
        get(&self.router, path).await
    }

    /// As the saga engine does a step of an order, in a run that is named after it.
    async fn step(&self, order_id: i64, step: &str) -> u16 {
        let request = http::Request::post(format!("/orders/{order_id}/{step}"))
            .header("idempotency-key", format!("{order_id}/{step}"))
            .header("trellis-saga-run", order_id)
            .header("trellis-saga-step", step)
            .header("trellis-saga-index", 0)
            .header("trellis-saga-op", "action")
            .header("trellis-saga-incarnation", 0)
            .header("trellis-saga-attempt", 1)
            .header("trellis-saga-epoch", 1);
        let answer = send(&self.router, request.body(String::new().into()).unwrap()).await;
        answer.status.as_u16()
    }

    /// What has become of an order.
    async fn status(&self, order_id: i64) -> String {
        let order = self.get(&format!("/orders/{order_id}")).await.json();
        order["status"].as_str().unwrap().to_owned()
    }

    /// Ids of the stored orders.
    async fn stored(&self) -> Vec<i64> {
        let page = self.get("/orders/?limit=100").await.json();
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|order| order["order_id"].as_i64().unwrap())
            .collect()
    }
}

#[test]
fn the_openapi_document_says_what_is_routed() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    openapi::assert_covers(&document, routes().declared());
    openapi::assert_references_resolve(&document);
}

#[tokio::test]
async fn an_order_is_created_once_and_read_back_exactly() {
    let shop = Shop::ready().await;
    let body = r#"{"order_id":7,"username":"ada","amount":19.99,"lines":[{"sku":"tea","quantity":2},{"sku":"cup","quantity":1}]}"#;
    let pending = body.replace("]}", r#"],"status":"Pending"}"#);
    let created = shop.post(body).await;
    assert_eq!(
        (created.status.as_u16(), created.header("location")),
        (202, "/orders/7"),
        "{}",
        created.text
    );
    assert_eq!(created.text, pending);
    let again = shop.post(body).await;
    assert_eq!((again.status.as_u16(), &again.text), (200, &pending));
    let other = shop.post(body.replace("19.99", "20")).await;
    assert_eq!(other.status.as_u16(), 409);
    for path in ["/orders/7", "/orders/7/"] {
        let read = shop.get(path).await;
        assert_eq!((read.status.as_u16(), &read.text), (200, &pending));
    }
    assert_eq!(shop.stored().await, [7]);
}

#[tokio::test]
async fn an_order_without_an_id_gets_one() {
    let shop = Shop::ready().await;
    let body = r#"{"username":"ada","amount":"5"}"#;
    let (one, two) = (shop.post(body).await, shop.post(body).await);
    assert_eq!((one.status.as_u16(), two.status.as_u16()), (202, 202));
    let id = one.json()["order_id"].as_i64().unwrap();
    assert_ne!(Some(id), two.json()["order_id"].as_i64());
    assert_eq!(one.header("location"), format!("/orders/{id}"));
    assert_eq!(shop.get(&format!("/orders/{id}")).await.text, one.text);
}

#[tokio::test]
async fn an_unknown_user_is_a_422_and_nothing_is_stored() {
    let shop = Shop::ready().await;
    let answer = shop
        .post(r#"{"order_id":1,"username":"nobody","amount":1}"#)
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.fields()),
        (422, vec!["username".to_owned()])
    );
    assert_eq!(shop.get("/orders/1").await.status.as_u16(), 404);
    assert!(shop.stored().await.is_empty());
}

#[tokio::test]
async fn without_the_user_service_new_orders_are_refused_and_old_ones_answered() {
    let shop = Shop::ready().await;
    let old = r#"{"order_id":1,"username":"ada","amount":1.00}"#;
    shop.post(old).await;
    shop.users.ill.store(true, Ordering::Relaxed);
    let asked = shop.users.asked();

    let fresh = shop.post(r#"{"order_id":2,"username":"ada","amount":1}"#).await;
    assert_eq!(
        (fresh.status.as_u16(), fresh.header("retry-after")),
        (503, "3"),
        "{}",
        fresh.text
    );
    assert_eq!(shop.stored().await, [1]);
    assert_eq!(shop.users.asked(), asked + 1);

    let replay = shop.post(old).await;
    assert_eq!(
        (replay.status.as_u16(), replay.json()["amount"].as_f64()),
        (200, Some(1.0))
    );
    assert_eq!(shop.post(old.replace("ada", "bob")).await.status.as_u16(), 409);
    assert_eq!(shop.users.asked(), asked + 1, "a stored order needs no question");

    shop.users.ill.store(false, Ordering::Relaxed);
    assert_eq!(
        shop.post(r#"{"order_id":2,"username":"ada","amount":1}"#)
            .await
            .status
            .as_u16(),
        202
    );
}

#[tokio::test]
async fn a_slow_or_absent_user_service_is_a_503_within_the_deadline() {
    let shop = Shop::ready().await;
    let started = Instant::now();
    let slow = shop.post(r#"{"order_id":1,"username":"slow","amount":1}"#).await;
    assert_eq!((slow.status.as_u16(), slow.header("retry-after")), (503, "1"));
    assert!(started.elapsed() >= USER_DEADLINE && started.elapsed() < 2 * USER_DEADLINE);
    assert!(shop.stored().await.is_empty());

    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let alone = Shop::with_user_url(shop.database, Users::default(), &format!("http://{closed}")).await;
    alone.wait().await;
    let absent = alone.post(r#"{"order_id":1,"username":"ada","amount":1}"#).await;
    assert_eq!((absent.status.as_u16(), absent.header("retry-after")), (503, "1"));
    assert!(alone.stored().await.is_empty());
}

#[tokio::test]
async fn of_many_at_once_one_creates_and_the_others_replay() {
    let shop = Arc::new(Shop::ready().await);
    let body = r#"{"order_id":9,"username":"ada","amount":1,"lines":[{"sku":"tea","quantity":2}]}"#;
    let posts: Vec<_> = (0..20)
        .map(|_| {
            let shop = Arc::clone(&shop);
            tokio::spawn(async move { shop.post(body).await.status.as_u16() })
        })
        .collect();
    let mut statuses = Vec::new();
    for status in posts {
        statuses.push(status.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses[19], 202);
    assert!(statuses[..19].iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(shop.stored().await, [9]);
}

#[tokio::test]
async fn bad_bodies_name_their_fields_and_nobody_is_asked() {
    let shop = Shop::ready().await;
    for (body, status, fields) in [
        (
            r#"{"username":"Ada","amount":0.001,"order_id":0}"#,
            422,
            vec!["order_id", "username", "amount"],
        ),
        (
            r#"{"username":"ada","amount":1,"lines":[{"sku":"tea","quantity":0}]}"#,
            422,
            vec!["lines[0].quantity"],
        ),
        (
            r#"{"username":"ada","amount":1,"lines":[{"sku":"tea"}]}"#,
            422,
            vec!["lines[0].quantity"],
        ),
        (
            r#"{"username":"ada","amount":1,"order_id":1.5}"#,
            422,
            vec!["order_id"],
        ),
        (r#"{"username":"ada","amount":1e2}"#, 422, vec!["amount"]),
        (r#"{"username":"ada"}"#, 422, vec!["amount"]),
        (r#"{"username":"ada","amount":1,"total":1}"#, 422, vec!["total"]),
        (r#"{"username":"ada","amount":01}"#, 400, vec![]),
    ] {
        let answer = shop.post(body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text);
        assert_eq!(answer.fields(), fields, "{body}");
    }
    assert_eq!(shop.users.asked(), 0);
}

#[tokio::test]
async fn pages_follow_each_other_and_can_be_of_one_user() {
    let shop = Shop::ready().await;
    for id in 1..=5 {
        let name = if id % 2 == 0 { "bob" } else { "ada" };
        shop.post(json!({"order_id": id, "username": name, "amount": 1}).to_string())
            .await;
    }
    for (filter, expected) in [
        ("", vec![1, 2, 3, 4, 5]),
        ("&username=ada", vec![1, 3, 5]),
        ("&username=eve", vec![]),
    ] {
        let (mut ids, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = shop
                .get(&format!("/orders/?limit=2{filter}{cursor}"))
                .await
                .json();
            ids.extend(
                page["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|order| order["order_id"].as_i64().unwrap()),
            );
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(ids, expected, "{filter}");
    }
    let bad = shop
        .get("/orders/?limit=101&cursor=x&username=Ada&user=ada")
        .await;
    assert_eq!(
        (bad.status.as_u16(), bad.fields().len()),
        (422, 4),
        "{}",
        bad.text
    );
}

#[tokio::test]
async fn the_user_service_is_asked_within_the_trace_of_the_order() {
    let shop = Shop::ready().await;
    let request = http::Request::post("/orders/")
        .header("content-type", "application/json")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .body(r#"{"username":"ada","amount":1}"#.into())
        .unwrap();
    assert_eq!(send(&shop.router, request).await.status.as_u16(), 202);
    let traceparent = shop.users.traceparent.lock().unwrap().clone();
    assert!(
        traceparent.contains("0af7651916cd43dd8448eb211c80319c"),
        "{traceparent}"
    );
}

#[tokio::test]
async fn without_its_database_the_service_says_503_and_recovers() {
    let shop = Shop::start(TestDatabase::reserve().await).await;
    let body = r#"{"order_id":1,"username":"ada","amount":1}"#;
    for answer in [shop.get("/orders/1").await, shop.post(body).await] {
        assert_eq!(
            (answer.status.as_u16(), answer.header("retry-after")),
            (503, "1"),
            "{}",
            answer.text
        );
    }
    shop.database.appear().await;
    shop.wait().await;
    assert_eq!(shop.post(body).await.status.as_u16(), 202);
    assert_eq!(shop.get("/orders/x").await.status.as_u16(), 404);
}

#[test]
fn what_comes_from_crates_is_migrated_as_they_say() {
    let migrations = [
        include_str!("../../migrations/0003_saga_barrier.sql"),
        include_str!("../../migrations/0004_outbox.sql"),
    ];
    assert_eq!(
        migrations,
        [trellis_saga_participant::SCHEMA, trellis_messaging::SCHEMA]
    );
}

#[tokio::test]
async fn the_saga_of_an_order_is_started_once_with_what_was_ordered() {
    let shop = Shop::ready().await;
    let body = r#"{"order_id":7,"username":"ada","amount":19.99,"lines":[{"sku":"tea","quantity":2}]}"#;
    shop.engine.ill.store(true, Ordering::Relaxed);
    assert_eq!(shop.post(body).await.status.as_u16(), 202);
    wait::until("the engine was asked in vain", async || {
        shop.engine.asked.load(Ordering::Relaxed) > 1
    })
    .await;
    assert!(shop.engine.started().is_empty());
    shop.engine.ill.store(false, Ordering::Relaxed);
    shop.post(body).await;
    wait::until("the saga is started", async || !shop.engine.started().is_empty()).await;
    let started = shop.engine.started.lock().unwrap().clone();
    let key = ("place-order".to_owned(), "7".to_owned());
    let input =
        json!({"order_id": 7, "username": "ada", "amount": 1999, "lines": [{"sku": "tea", "quantity": 2}]});
    assert_eq!(started, BTreeMap::from([(key, input)]));
}

#[tokio::test]
async fn an_order_that_is_not_stored_starts_nothing() {
    let shop = Shop::ready().await;
    shop.post(r#"{"order_id":7,"username":"ada","amount":1}"#).await;
    for refused in [
        r#"{"order_id":7,"username":"ada","amount":2}"#,
        r#"{"order_id":8,"username":"nobody","amount":1}"#,
    ] {
        assert!(shop.post(refused).await.status.is_client_error());
    }
    shop.post(r#"{"order_id":9,"username":"ada","amount":1}"#).await;
    wait::until("what is good has begun", async || {
        shop.engine.started().len() == 2
    })
    .await;
    let keys: Vec<String> = shop.engine.started().into_iter().map(|(_, key)| key).collect();
    assert_eq!(keys, ["7", "9"]);
}

#[tokio::test]
async fn who_prefers_to_wait_is_told_what_became_of_the_order() {
    let shop = Arc::new(Shop::ready().await);
    for (order_id, last) in [(1, "confirm"), (2, "reject")] {
        let router = shop.router.clone();
        let posted = tokio::spawn(async move {
            let body = json!({"order_id": order_id, "username": "ada", "amount": 1}).to_string();
            let request = http::Request::post("/orders/")
                .header("content-type", "application/json")
                .header("prefer", "respond-async, wait=60");
            send(&router, request.body(body.into()).unwrap()).await
        });
        wait::until("its saga is started", async || {
            shop.engine.started().len() == usize::try_from(order_id).unwrap()
        })
        .await;
        for step in ["place", last] {
            assert_eq!(shop.step(order_id, step).await, 200);
        }
        let answer = posted.await.unwrap();
        let status = if last == "confirm" {
            "Confirmed"
        } else {
            "Rejected"
        };
        assert_eq!(
            (answer.status.as_u16(), answer.json()["status"].as_str()),
            (201, Some(status)),
            "{}",
            answer.text
        );
    }
}

#[tokio::test]
async fn an_order_goes_where_its_sagas_move_it_and_nowhere_else() {
    let shop = Shop::ready().await;
    shop.post(r#"{"order_id":1,"username":"ada","amount":1}"#).await;
    for (step, status, becomes) in [
        ("confirm", 409, "Pending"),
        ("place", 200, "Placing"),
        ("place", 200, "Placing"),
        ("hold", 409, "Placing"),
        ("fly", 404, "Placing"),
    ] {
        assert_eq!(
            (shop.step(1, step).await, shop.status(1).await.as_str()),
            (status, becomes),
            "{step}"
        );
    }
    assert_eq!(shop.step(2, "place").await, 404);
    let unsigned = post(&shop.router, "/orders/1/confirm", "").await;
    assert_eq!(
        (unsigned.status.as_u16(), shop.status(1).await.as_str()),
        (400, "Placing"),
        "{}",
        unsigned.text
    );
}

#[tokio::test]
async fn a_completed_order_is_cancelled_by_a_saga_begun_once() {
    let shop = Shop::ready().await;
    shop.post(r#"{"order_id":1,"username":"ada","amount":1}"#).await;
    let cancel = async || post(&shop.router, "/orders/1/cancel", "").await.status.as_u16();
    assert_eq!(cancel().await, 409, "it is not placed yet");
    for step in ["place", "confirm", "complete"] {
        shop.step(1, step).await;
    }
    assert_eq!((cancel().await, cancel().await), (202, 202));
    let is_begun = async || {
        shop.engine
            .started()
            .contains(&("cancel-order".to_owned(), "1".to_owned()))
    };
    wait::until("its cancellation is begun", is_begun).await;
    assert_eq!((shop.step(1, "hold").await, cancel().await), (200, 200));
    assert_eq!((shop.step(1, "close").await, cancel().await), (200, 200));
    assert_eq!(
        (shop.status(1).await.as_str(), shop.engine.started().len()),
        ("Cancelled", 2)
    );
    assert_eq!(
        post(&shop.router, "/orders/2/cancel", "").await.status.as_u16(),
        404
    );
}
