//! The whole service in this process, beside a user service made for the test and a real PostgreSQL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get as on_get;
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

struct Shop {
    router: Router,
    database: TestDatabase,
    readiness: Readiness,
    users: Users,
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
        Self::with_user_url(database, users, &user_url)
    }

    fn with_user_url(database: TestDatabase, users: Users, user_url: &str) -> Self {
        let root = database.binding_root().display().to_string();
        let env = Environment::from_pairs([("SERVICE_BINDING_ROOT", root.as_str()), ("USER_URL", user_url)]);
        let config = config::load(env, crate::config::read).unwrap();
        let mut process = Process::default();
        let router = build(config, &mut process);
        let router = server::app("order", router, &mut process);
        Self {
            router,
            database,
            readiness: process.readiness,
            users,
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
    let created = shop.post(body).await;
    assert_eq!(
        (created.status.as_u16(), created.header("location")),
        (201, "/orders/7"),
        "{}",
        created.text
    );
    assert_eq!(created.text, body);
    let again = shop.post(body).await;
    assert_eq!((again.status.as_u16(), again.text.as_str()), (200, body));
    let other = shop.post(body.replace("19.99", "20")).await;
    assert_eq!(other.status.as_u16(), 409);
    for path in ["/orders/7", "/orders/7/"] {
        let read = shop.get(path).await;
        assert_eq!((read.status.as_u16(), read.text.as_str()), (200, body));
    }
    assert_eq!(shop.stored().await, [7]);
}

#[tokio::test]
async fn an_order_without_an_id_gets_one() {
    let shop = Shop::ready().await;
    let body = r#"{"username":"ada","amount":"5"}"#;
    let (one, two) = (shop.post(body).await, shop.post(body).await);
    assert_eq!((one.status.as_u16(), two.status.as_u16()), (201, 201));
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
    assert_eq!((replay.status.as_u16(), replay.text.as_str()), (200, old));
    assert_eq!(shop.post(old.replace("ada", "bob")).await.status.as_u16(), 409);
    assert_eq!(shop.users.asked(), asked + 1, "a stored order needs no question");

    shop.users.ill.store(false, Ordering::Relaxed);
    assert_eq!(
        shop.post(r#"{"order_id":2,"username":"ada","amount":1}"#)
            .await
            .status
            .as_u16(),
        201
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
    let alone = Shop::with_user_url(shop.database, Users::default(), &format!("http://{closed}"));
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
    assert_eq!(statuses[19], 201);
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
    assert_eq!(send(&shop.router, request).await.status.as_u16(), 201);
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
    assert_eq!(shop.post(body).await.status.as_u16(), 201);
    assert_eq!(shop.get("/orders/x").await.status.as_u16(), 404);
}
