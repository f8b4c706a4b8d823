//! The whole service in this process, beside a real PostgreSQL.

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use trellis_chassis::config::{self, Environment};
use trellis_chassis::readiness::Readiness;
use trellis_saga_participant::SCHEMA;
use trellis_testkit::postgres::TestDatabase;
use trellis_testkit::requests::{self, Answer, send};
use trellis_testkit::{openapi, wait};

use super::*;

const FIVE: &str = r#"{"quantity":5}"#;
const SIX: &str = r#"{"quantity":6}"#;

struct Shop {
    router: Router,
    database: TestDatabase,
    readiness: Readiness,
    /// For a look behind the interface.
    inside: Database,
    store: Store,
}

impl Shop {
    fn start(database: TestDatabase) -> Self {
        let root = database.binding_root().display().to_string();
        let config = || {
            let env = Environment::from_pairs([("SERVICE_BINDING_ROOT", &root)]);
            config::load(env, crate::config::read).unwrap()
        };
        let mut process = Process::default();
        let ready = process.readiness.task("test");
        let inside = Database::open(config().database, store::migrations(), ready);
        let router = build(config(), &mut process);
        Self {
            router: server::app("__name__", router, &mut process),
            database,
            readiness: process.readiness,
            store: Store::new(inside.clone()),
            inside,
        }
    }

    async fn ready() -> Self {
        let shop = Self::start(TestDatabase::create().await);
        shop.wait().await;
        shop
    }

    async fn wait(&self) {
        wait::until("the service is ready", async || self.readiness.is_ready()).await;
    }

    async fn get(&self, path: &str) -> Answer {
        requests::get(&self.router, path).await
    }

    async fn put(&self, id: &str, body: &str) -> Answer {
        self.send(request("PUT", &format!("/items/{id}"), body)).await
    }

    async fn delete(&self, id: &str) -> Answer {
        self.send(request("DELETE", &format!("/items/{id}"), "")).await
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        send(&self.router, request).await
    }

    fn send_beside(&self, request: Request<Body>) -> JoinHandle<Answer> {
        let router = self.router.clone();
        tokio::spawn(async move { send(&router, request).await })
    }

    /// How many there are of `a1`, if any.
    async fn quantity(&self) -> Option<i64> {
        self.get("/items/a1").await.json()["quantity"].as_i64()
    }
}

fn request(method: &str, path: &str, body: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", "application/json");
    request.body(body.to_owned().into()).unwrap()
}

/// As the saga engine sends it.
fn of_saga(mut request: Request<Body>, op: &'static str) -> Request<Body> {
    for (name, value) in [
        ("idempotency-key", "run1"),
        ("trellis-saga-run", "run1"),
        ("trellis-saga-step", "put"),
        ("trellis-saga-index", "0"),
        ("trellis-saga-op", op),
        ("trellis-saga-incarnation", "0"),
        ("trellis-saga-attempt", "1"),
        ("trellis-saga-epoch", "1"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

fn action(body: &str) -> Request<Body> {
    of_saga(request("PUT", "/items/a1", body), "action")
}

fn compensation() -> Request<Body> {
    of_saga(request("DELETE", "/items/a1", ""), "compensation")
}

#[test]
fn the_openapi_document_says_what_is_routed() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    openapi::assert_covers(&document, routes().declared());
    openapi::assert_references_resolve(&document);
}

#[test]
fn the_barrier_is_migrated_as_its_crate_says() {
    assert_eq!(include_str!("../../migrations/0002_saga_barrier.sql"), SCHEMA);
}

#[tokio::test]
async fn an_item_is_stored_once_and_read_back() {
    let shop = Shop::ready().await;
    let item = json!({"id": "a1", "quantity": 5});
    for status in [201, 200] {
        let answer = shop.put("a1", FIVE).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (status, item.clone()));
    }
    let other = shop.put("a1", SIX).await;
    assert_eq!(other.status.as_u16(), 409);
    assert!(
        other.text.contains("item a1 exists with other values"),
        "{}",
        other.text
    );
    for path in ["/items/a1", "/items/a1/"] {
        assert_eq!(shop.get(path).await.json(), item);
    }
    for path in ["/items/a2", "/items/a%20b", "/items/%2e%2e"] {
        assert_eq!(shop.get(path).await.status.as_u16(), 404, "{path}");
    }
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_its_id_free() {
    let shop = Shop::ready().await;
    shop.put("a1", FIVE).await;
    for id in ["a1", "a1", "a%20b"] {
        assert_eq!(shop.delete(id).await.status.as_u16(), 204, "{id}");
    }
    assert_eq!(shop.quantity().await, None);
    assert_eq!(shop.put("a1", SIX).await.status.as_u16(), 201);
}

#[tokio::test]
async fn items_come_in_pages() {
    let shop = Shop::ready().await;
    for id in ["b", "a.b", "a-b", "B", "a"] {
        shop.put(id, FIVE).await;
    }
    let (mut ids, mut path) = (Vec::new(), "/items/?limit=2".to_owned());
    loop {
        let page = shop.get(&path).await.json();
        let items = page["items"].as_array().unwrap();
        ids.extend(items.iter().map(|item| item["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/items/?limit=2&cursor={next}");
    }
    assert_eq!(ids, ["B", "a", "a-b", "a.b", "b"]);
    let bad = shop.get("/items/?limit=0&cursor=..&quantity=5").await;
    assert_eq!(
        (bad.status.as_u16(), bad.fields()),
        (422, vec!["limit".into(), "cursor".into(), "quantity".into()])
    );
}

#[tokio::test]
async fn of_equal_requests_at_once_one_stores_and_the_others_replay() {
    let shop = Shop::ready().await;
    let requests: Vec<_> = (0..20)
        .map(|_| shop.send_beside(request("PUT", "/items/a1", FIVE)))
        .collect();
    let mut statuses = Vec::new();
    for request in requests {
        statuses.push(request.await.unwrap().status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses[19], 201);
    assert!(statuses[..19].iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test]
async fn requests_at_once_that_contradict_each_other_are_all_answered() {
    let shop = Shop::ready().await;
    let requests: Vec<_> = (0..30)
        .map(|number| match number % 3 {
            0 => request("PUT", "/items/a1", FIVE),
            1 => request("PUT", "/items/a1", SIX),
            _ => request("DELETE", "/items/a1", ""),
        })
        .map(|request| shop.send_beside(request))
        .collect();
    for request in requests {
        let answer = request.await.unwrap();
        assert!(answer.status.as_u16() < 500, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_step_of_a_saga_is_done_once_and_taken_back_once() {
    let shop = Shop::ready().await;
    let made = shop.send(action(FIVE)).await;
    let again = shop.send(action(FIVE)).await;
    assert_eq!((made.status.as_u16(), again.status.as_u16()), (201, 201));
    assert_eq!((again.text, again.headers), (made.text, made.headers));
    assert_eq!(shop.send(compensation()).await.status.as_u16(), 204);
    assert_eq!(shop.quantity().await, None);
    shop.put("a1", SIX).await;
    assert_eq!(shop.send(compensation()).await.status.as_u16(), 204);
    assert_eq!(shop.quantity().await, Some(6), "somebody else's");
}

#[tokio::test]
async fn a_refused_step_stays_refused_and_has_nothing_to_take_back() {
    let shop = Shop::ready().await;
    shop.put("a1", SIX).await;
    let refused = shop.send(action(FIVE)).await;
    assert_eq!(
        (refused.status.as_u16(), refused.header("content-type")),
        (409, "application/problem+json")
    );
    assert_eq!(shop.send(compensation()).await.status.as_u16(), 204);
    assert_eq!(shop.quantity().await, Some(6));
    shop.delete("a1").await;
    let again = shop.send(action(FIVE)).await;
    assert_eq!((again.status, again.text), (refused.status, refused.text));
}

#[tokio::test]
async fn a_step_that_was_compensated_before_it_came_is_refused() {
    let shop = Shop::ready().await;
    assert_eq!(shop.send(compensation()).await.status.as_u16(), 204);
    let late = shop.send(action(FIVE)).await;
    assert_eq!(late.status.as_u16(), 409);
    assert!(late.text.contains("was compensated before"), "{}", late.text);
    assert_eq!(shop.quantity().await, None);
}

#[tokio::test]
async fn old_calls_of_sagas_are_forgotten_and_items_are_not() {
    let shop = Shop::ready().await;
    shop.send(action(FIVE)).await;
    let pool = shop.inside.pool().unwrap();
    sqlx::query("UPDATE saga_barrier SET created_at = now() - interval '31 days'")
        .execute(pool)
        .await
        .unwrap();
    shop.store.clean().await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM saga_barrier")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!((left, shop.quantity().await), (0, Some(5)));
}

#[tokio::test]
async fn bad_requests_name_their_fields_and_headers() {
    let shop = Shop::ready().await;
    for (id, body, status, fields) in [
        ("a%20b", r#"{"quantity":0}"#, 422, vec!["id", "quantity"]),
        ("a1", r#"{"quantity":1.5}"#, 422, vec!["quantity"]),
        ("a1", "{}", 422, vec!["quantity"]),
        ("a1", r#"{"quantity":1,"id":"a2"}"#, 422, vec!["id"]),
        ("a1", "{", 400, vec![]),
    ] {
        let answer = shop.put(id, body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text);
        assert_eq!(answer.fields(), fields, "{body}");
    }
    let mut request = action(FIVE);
    request.headers_mut().remove("trellis-saga-op");
    let answer = shop.send(request).await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.text.contains("trellis-saga-op is missing")
        ),
        (400, true)
    );
}

#[tokio::test]
async fn without_its_database_the_service_says_503_and_recovers() {
    let shop = Shop::start(TestDatabase::reserve().await);
    for answer in [
        shop.get("/items/a1").await,
        shop.get("/items/").await,
        shop.put("a1", FIVE).await,
        shop.send(compensation()).await,
    ] {
        assert_eq!(
            (answer.status.as_u16(), answer.header("retry-after")),
            (503, "1"),
            "{}",
            answer.text
        );
    }
    shop.database.appear().await;
    shop.wait().await;
    assert_eq!(shop.send(action(FIVE)).await.status.as_u16(), 201);
}
