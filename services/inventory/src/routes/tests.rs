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

const TEA: &str = r#"{"id":"r1","lines":[{"sku":"tea","quantity":2}]}"#;

struct Shop {
    router: Router,
    database: TestDatabase,
    readiness: Readiness,
    /// For what takes time, and for a look behind the interface.
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
            router: server::app("inventory", router, &mut process),
            database,
            readiness: process.readiness,
            store: Store::new(inside.clone()),
            inside,
        }
    }

    async fn wait(&self) {
        wait::until("the service is ready", async || self.readiness.is_ready()).await;
    }

    /// With 5 of `tea` and 5 of `cup`.
    async fn stocked() -> Self {
        let shop = Self::start(TestDatabase::create().await);
        shop.wait().await;
        for sku in ["tea", "cup"] {
            assert_eq!(shop.set(sku, 5).await.status.as_u16(), 200);
        }
        shop
    }

    async fn get(&self, path: &str) -> Answer {
        requests::get(&self.router, path).await
    }

    async fn set(&self, sku: &str, on_hand: i64) -> Answer {
        let body = json!({ "on_hand": on_hand }).to_string();
        self.send(request("PUT", &format!("/items/{sku}"), &body)).await
    }

    async fn reserve(&self, body: &str) -> Answer {
        self.send(request("POST", "/reservations", body)).await
    }

    async fn give_back(&self, id: &str) -> Answer {
        self.send(request("DELETE", &format!("/reservations/{id}"), ""))
            .await
    }

    async fn commit(&self, id: &str) -> Answer {
        self.send(request("POST", &format!("/reservations/{id}/commit"), ""))
            .await
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        send(&self.router, request).await
    }

    fn send_beside(&self, request: Request<Body>) -> JoinHandle<Answer> {
        let router = self.router.clone();
        tokio::spawn(async move { send(&router, request).await })
    }

    /// On hand, reserved, available.
    async fn stock(&self, sku: &str) -> [i64; 3] {
        let item = self.get(&format!("/items/{sku}")).await.json();
        ["on_hand", "reserved", "available"].map(|field| item[field].as_i64().unwrap())
    }

    async fn status(&self, id: &str) -> String {
        let reservation = self.get(&format!("/reservations/{id}")).await.json();
        reservation["status"].as_str().unwrap_or("none").to_owned()
    }

    async fn let_time_pass(&self) {
        self.execute("UPDATE reservations SET expires_at = expires_at - interval '1 hour'")
            .await;
        self.execute("UPDATE reservation_lines SET held_until = held_until - interval '1 hour'")
            .await;
    }

    async fn execute(&self, sql: &'static str) {
        let pool = self.inside.pool().unwrap();
        sqlx::query(sql).execute(pool).await.unwrap();
    }

    async fn count(&self, sql: &'static str) -> i64 {
        let pool = self.inside.pool().unwrap();
        sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
    }

    /// That what is reserved is what is held, and not more than there is.
    async fn assert_balanced(&self) {
        let wrong = "SELECT count(*) FROM items WHERE on_hand < 0 OR reserved > on_hand OR reserved <> (
            SELECT coalesce(sum(quantity), 0) FROM reservation_lines
            WHERE sku = items.sku AND held_until IS NOT NULL
        )";
        assert_eq!(self.count(wrong).await, 0);
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
        ("idempotency-key", "run1-reserve"),
        ("trellis-saga-run", "run1"),
        ("trellis-saga-step", "reserve"),
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
    of_saga(request("POST", "/reservations", body), "action")
}

fn compensation() -> Request<Body> {
    of_saga(request("DELETE", "/reservations/r1", ""), "compensation")
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
async fn an_item_is_set_and_read_back() {
    let shop = Shop::stocked().await;
    let set = shop.set("tea%2Fgreen:1", 7).await;
    let item = json!({"sku": "tea/green:1", "on_hand": 7, "reserved": 0, "available": 7});
    assert_eq!((set.status.as_u16(), set.json()), (200, item.clone()));
    for path in ["/items/tea%2Fgreen:1", "/items/tea%2Fgreen:1/"] {
        assert_eq!(shop.get(path).await.json(), item);
    }
    for (path, status) in [("/items/coffee", 404), ("/items/%2e%2e", 404)] {
        assert_eq!(shop.get(path).await.status.as_u16(), status, "{path}");
    }
    let bad = shop.set("a%20b", 1).await;
    assert_eq!((bad.status.as_u16(), bad.fields()), (422, vec!["sku".to_owned()]));
    let bad = shop.set("tea", -1).await;
    assert_eq!(
        (bad.status.as_u16(), bad.fields()),
        (422, vec!["on_hand".to_owned()])
    );
}

#[tokio::test]
async fn items_come_in_pages() {
    let shop = Shop::stocked().await;
    let page = shop.get("/items/?limit=1").await.json();
    assert_eq!(
        (&page["items"][0]["sku"], &page["next"]),
        (&json!("cup"), &json!("cup"))
    );
    let page = shop.get("/items/?limit=1&cursor=cup").await.json();
    assert_eq!(
        (&page["items"][0]["sku"], &page["next"]),
        (&json!("tea"), &Value::Null)
    );
    let bad = shop.get("/items/?limit=0&cursor=..&sku=tea").await;
    assert_eq!(
        (bad.status.as_u16(), bad.fields().len()),
        (422, 3),
        "{}",
        bad.text
    );
}

#[tokio::test]
async fn a_reservation_is_made_once_and_read_back() {
    let shop = Shop::stocked().await;
    let made = shop.reserve(TEA).await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.text);
    let receipt = made.json();
    assert_eq!(
        (&receipt["id"], &receipt["warehouse"]),
        (&json!("r1"), &json!("north"))
    );
    assert_eq!(receipt.as_object().unwrap().len(), 3);
    assert_eq!(shop.stock("tea").await, [5, 2, 3]);
    let again = shop.reserve(TEA).await;
    assert_eq!((again.status.as_u16(), again.text), (200, made.text));
    assert_eq!(shop.stock("tea").await, [5, 2, 3]);
    let other = shop.reserve(&TEA.replace('2', "1")).await;
    assert_eq!(other.status.as_u16(), 409, "{}", other.text);
    let read = shop.get("/reservations/r1").await.json();
    assert_eq!(
        (&read["status"], &read["expires_at"]),
        (&json!("Reserved"), &receipt["expires_at"])
    );
    assert_eq!(read["lines"], json!([{"sku": "tea", "quantity": 2}]));
    assert_eq!(shop.get("/reservations/r2").await.status.as_u16(), 404);
    shop.assert_balanced().await;
}

#[tokio::test]
async fn more_than_is_available_is_refused_by_the_name_of_the_sku_and_nothing_is_reserved() {
    let shop = Shop::stocked().await;
    let refused = shop
        .reserve(r#"{"id":"r1","lines":[{"sku":"tea","quantity":5},{"sku":"cup","quantity":6}]}"#)
        .await;
    assert_eq!(refused.status.as_u16(), 409);
    assert!(
        refused
            .text
            .contains("5 of cup are available, and 6 are asked for"),
        "{}",
        refused.text
    );
    let unknown = shop
        .reserve(r#"{"id":"r1","lines":[{"sku":"tea","quantity":9},{"sku":"pot","quantity":1}]}"#)
        .await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.fields()),
        (422, vec!["lines[1].sku".to_owned()])
    );
    assert_eq!(
        (shop.stock("tea").await, shop.status("r1").await),
        ([5, 0, 5], "none".to_owned())
    );
}

#[tokio::test]
async fn what_is_given_back_is_available_and_the_late_request_does_not_reserve_again() {
    let shop = Shop::stocked().await;
    assert_eq!(shop.give_back("r1").await.status.as_u16(), 204, "nothing there");
    shop.reserve(TEA).await;
    for _ in 0..2 {
        assert_eq!(shop.give_back("r1").await.status.as_u16(), 204);
        assert_eq!(shop.stock("tea").await, [5, 0, 5]);
    }
    assert_eq!(shop.reserve(TEA).await.status.as_u16(), 409);
    assert_eq!(shop.commit("r1").await.status.as_u16(), 409);
    assert_eq!(shop.status("r1").await, "GivenBack");
    shop.assert_balanced().await;
}

#[tokio::test]
async fn what_is_committed_has_left_the_house() {
    let shop = Shop::stocked().await;
    assert_eq!(shop.commit("r1").await.status.as_u16(), 404);
    shop.reserve(TEA).await;
    for _ in 0..2 {
        let committed = shop.commit("r1").await;
        assert_eq!(
            (committed.status.as_u16(), &committed.json()["status"]),
            (200, &json!("Committed"))
        );
        assert_eq!(shop.stock("tea").await, [3, 0, 3]);
    }
    assert_eq!(shop.give_back("r1").await.status.as_u16(), 409);
    shop.assert_balanced().await;
}

#[tokio::test]
async fn what_is_returned_is_here_again() {
    let shop = Shop::stocked().await;
    let take_back = async || {
        let answer = shop.send(request("POST", "/reservations/r1/return", "")).await;
        answer.status.as_u16()
    };
    assert_eq!(take_back().await, 404);
    shop.reserve(TEA).await;
    assert_eq!(take_back().await, 409, "it never left");
    shop.commit("r1").await;
    for _ in 0..2 {
        assert_eq!((take_back().await, shop.stock("tea").await), (200, [5, 0, 5]));
        assert_eq!(shop.status("r1").await, "Returned");
    }
    assert_eq!(shop.commit("r1").await.status.as_u16(), 409);
    assert_eq!(shop.give_back("r1").await.status.as_u16(), 204);
    assert_eq!(shop.stock("tea").await, [5, 0, 5]);
    shop.assert_balanced().await;
}

#[tokio::test]
async fn less_than_is_reserved_cannot_be_on_hand() {
    let shop = Shop::stocked().await;
    shop.reserve(TEA).await;
    assert_eq!(shop.set("tea", 1).await.status.as_u16(), 409);
    assert_eq!(shop.set("tea", 2).await.status.as_u16(), 200);
    assert_eq!(shop.stock("tea").await, [2, 2, 0]);
    shop.let_time_pass().await;
    assert_eq!(shop.set("tea", 1).await.status.as_u16(), 200);
}

#[tokio::test]
async fn an_expired_reservation_counts_as_free() {
    let shop = Shop::stocked().await;
    shop.reserve(TEA).await;
    shop.let_time_pass().await;
    assert_eq!(
        (shop.stock("tea").await, shop.status("r1").await),
        ([5, 0, 5], "Expired".to_owned())
    );
    let all = r#"{"id":"r2","lines":[{"sku":"tea","quantity":5}]}"#;
    assert_eq!(shop.reserve(all).await.status.as_u16(), 201);
    assert_eq!(shop.give_back("r1").await.status.as_u16(), 204);
    assert_eq!(shop.stock("tea").await, [5, 5, 0]);
    shop.assert_balanced().await;
}

#[tokio::test]
async fn an_expired_reservation_is_committed_only_if_there_is_enough() {
    let shop = Shop::stocked().await;
    shop.reserve(TEA).await;
    shop.let_time_pass().await;
    let most = r#"{"id":"r2","lines":[{"sku":"tea","quantity":4}]}"#;
    assert_eq!(shop.reserve(most).await.status.as_u16(), 201);
    let refused = shop.commit("r1").await;
    assert_eq!(
        (refused.status.as_u16(), refused.text.contains("tea")),
        (409, true)
    );
    shop.give_back("r2").await;
    assert_eq!(shop.commit("r1").await.status.as_u16(), 200);
    assert_eq!(shop.stock("tea").await, [3, 0, 3]);
    shop.assert_balanced().await;
}

#[tokio::test]
async fn what_expired_is_freed_and_what_is_old_is_deleted_without_a_request() {
    let shop = Shop::stocked().await;
    shop.reserve(TEA).await;
    shop.let_time_pass().await;
    shop.store.clean().await.unwrap();
    let held = "SELECT count(*) FROM reservation_lines WHERE held_until IS NOT NULL";
    assert_eq!(shop.count(held).await, 0);
    assert_eq!(shop.status("r1").await, "Expired");
    shop.assert_balanced().await;

    shop.send(action(r#"{"id":"r2","lines":[{"sku":"tea","quantity":1}]}"#))
        .await;
    shop.execute("UPDATE reservations SET expires_at = now() - interval '31 days' WHERE id = 'r1'")
        .await;
    shop.execute("UPDATE saga_barrier SET created_at = now() - interval '31 days'")
        .await;
    shop.store.clean().await.unwrap();
    assert_eq!(
        (shop.status("r1").await, shop.status("r2").await),
        ("none".to_owned(), "Reserved".to_owned())
    );
    assert_eq!(shop.count("SELECT count(*) FROM saga_barrier").await, 0);
}

#[tokio::test]
async fn reservations_at_once_never_promise_more_than_there_is_and_all_are_answered() {
    let shop = Shop::stocked().await;
    shop.set("pot", 5).await;
    let reservations: Vec<_> = (0..40)
        .map(|number| {
            // Each in another order: whoever locks in it would wait in a circle.
            let mut skus = ["tea", "cup", "pot"];
            skus.rotate_left(number % 3);
            if number % 2 == 0 {
                skus.reverse();
            }
            let lines = skus[..2].iter().map(|sku| json!({"sku": sku, "quantity": 1}));
            let body = json!({"id": format!("r{number}"), "lines": lines.collect::<Vec<_>>()});
            shop.send_beside(request("POST", "/reservations", &body.to_string()))
        })
        .collect();
    let mut made = 0;
    for reservation in reservations {
        let answer = reservation.await.unwrap();
        made += i64::from(answer.status.as_u16() == 201);
        assert!([201, 409].contains(&answer.status.as_u16()), "{}", answer.text);
    }
    // Of 15 things, two each: at most one of each kind may be left alone.
    assert!((5..=7).contains(&made), "{made}");
    let mut reserved = 0;
    for sku in ["tea", "cup", "pot"] {
        let [on_hand, of_this, available] = shop.stock(sku).await;
        assert_eq!((on_hand, of_this + available), (5, 5), "{sku}");
        reserved += of_this;
    }
    assert_eq!(reserved, 2 * made);
    shop.assert_balanced().await;
}

#[tokio::test]
async fn whatever_happens_at_once_the_stock_stays_balanced() {
    let shop = Shop::stocked().await;
    let both = |id: u32| {
        json!({"id": format!("r{id}"), "lines": [{"sku": "tea", "quantity": 1}, {"sku": "cup", "quantity": 1}]})
            .to_string()
    };
    for id in 0..3 {
        assert_eq!(shop.reserve(&both(id)).await.status.as_u16(), 201);
    }
    shop.let_time_pass().await;
    let mut requests = Vec::new();
    for id in 0..6 {
        requests.push(shop.send_beside(request("POST", "/reservations", &both(id))));
        requests.push(shop.send_beside(request("POST", &format!("/reservations/r{id}/commit"), "")));
        requests.push(shop.send_beside(request("DELETE", &format!("/reservations/r{id}"), "")));
        requests.push(shop.send_beside(request("PUT", "/items/tea", r#"{"on_hand":5}"#)));
    }
    shop.store.clean().await.unwrap();
    for request in requests {
        let answer = request.await.unwrap();
        assert!(answer.status.as_u16() < 500, "{}", answer.text);
    }
    shop.assert_balanced().await;
}

#[tokio::test]
async fn a_step_of_a_saga_is_done_once_and_taken_back_once() {
    let shop = Shop::stocked().await;
    let made = shop.send(action(TEA)).await;
    let again = shop.send(action(TEA)).await;
    assert_eq!((made.status.as_u16(), again.status.as_u16()), (201, 201));
    assert_eq!((again.text, again.headers), (made.text, made.headers));
    assert_eq!(shop.stock("tea").await, [5, 2, 3]);
    for _ in 0..2 {
        assert_eq!(shop.send(compensation()).await.status.as_u16(), 204);
        assert_eq!(shop.stock("tea").await, [5, 0, 5]);
    }
}

#[tokio::test]
async fn a_refused_step_stays_refused() {
    let shop = Shop::stocked().await;
    shop.set("tea", 1).await;
    let refused = shop.send(action(TEA)).await;
    assert_eq!(refused.header("content-type"), "application/problem+json");
    shop.set("tea", 5).await;
    let again = shop.send(action(TEA)).await;
    assert_eq!(
        (again.status.as_u16(), again.text, again.headers),
        (409, refused.text, refused.headers)
    );
    assert_eq!(shop.send(compensation()).await.status.as_u16(), 204);
    assert_eq!(shop.stock("tea").await, [5, 0, 5]);
}

#[tokio::test]
async fn a_step_that_was_compensated_before_it_came_is_refused() {
    let shop = Shop::stocked().await;
    assert_eq!(shop.send(compensation()).await.status.as_u16(), 204);
    let late = shop.send(action(TEA)).await;
    assert_eq!(late.status.as_u16(), 409);
    assert!(late.text.contains("was compensated before"), "{}", late.text);
    assert_eq!(shop.stock("tea").await, [5, 0, 5]);
}

#[tokio::test]
async fn a_request_with_some_headers_of_a_saga_is_a_400() {
    let shop = Shop::stocked().await;
    let mut request = action(TEA);
    request.headers_mut().remove("trellis-saga-run");
    let answer = shop.send(request).await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.text.contains("trellis-saga-run is missing")
        ),
        (400, true),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn bad_bodies_name_their_fields() {
    let shop = Shop::stocked().await;
    for (body, status, fields) in [
        (r#"{"id":"..","lines":[]}"#, 422, vec!["id", "lines"]),
        (
            r#"{"id":"r1","lines":[{"sku":"tea"}]}"#,
            422,
            vec!["lines[0].quantity"],
        ),
        (r#"{"lines":[]}"#, 422, vec!["id"]),
        (
            r#"{"id":"r1","lines":[],"warehouse":"south"}"#,
            422,
            vec!["warehouse"],
        ),
        ("{", 400, vec![]),
    ] {
        let answer = shop.reserve(body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text);
        assert_eq!(answer.fields(), fields, "{body}");
    }
}

#[tokio::test]
async fn without_its_database_the_service_says_503_and_recovers() {
    let shop = Shop::start(TestDatabase::reserve().await);
    for answer in [
        shop.get("/items/tea").await,
        shop.set("tea", 5).await,
        shop.send(action(TEA)).await,
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
    assert_eq!(shop.set("tea", 5).await.status.as_u16(), 200);
    assert_eq!(shop.send(action(TEA)).await.status.as_u16(), 201);
}
