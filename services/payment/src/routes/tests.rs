//! The whole service in this process, beside a real PostgreSQL.

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};
use trellis_chassis::config::{self, Environment};
use trellis_chassis::readiness::Readiness;
use trellis_saga_participant::SCHEMA;
use trellis_testkit::postgres::TestDatabase;
use trellis_testkit::requests::{self, Answer, send};
use trellis_testkit::{openapi, wait};

use super::*;

const ADA: &str = r#"{"id":"a1","username":"ada","amount":500}"#;

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
            router: server::app("payment", router, &mut process),
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

    async fn authorise(&self, body: &str) -> Answer {
        self.send(request("POST", "/authorisations", body)).await
    }

    /// Voids, captures or refunds `a1`.
    async fn then(&self, movement: &str) -> u16 {
        self.send(move_money(movement)).await.status.as_u16()
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        send(&self.router, request).await
    }

    async fn status(&self) -> String {
        let authorisation = self.get("/authorisations/a1").await.json();
        authorisation["status"].as_str().unwrap_or("none").to_owned()
    }

    /// The sums of the movements that there were, and what is open.
    async fn books(&self) -> (Vec<(String, i64)>, i64) {
        let ledger = self.get("/ledger/a1").await.json();
        let (mut sums, mut open, mut all) = (Vec::new(), 0, 0);
        for entry in ledger["items"].as_array().unwrap() {
            let amount = entry["amount"].as_i64().unwrap();
            all += amount;
            if entry["account"] == "Open" {
                open += amount;
            }
            if amount > 0 {
                sums.push((entry["movement"].as_str().unwrap().to_owned(), amount));
            }
        }
        assert_eq!(all, 0, "{ledger}");
        (sums, open)
    }
}

fn request(method: &str, path: &str, body: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", "application/json");
    request.body(body.to_owned().into()).unwrap()
}

fn move_money(movement: &str) -> Request<Body> {
    match movement {
        "void" => request("DELETE", "/authorisations/a1", ""),
        _ => request("POST", &format!("/authorisations/a1/{movement}"), ""),
    }
}

/// As the saga engine sends it.
fn of_saga(mut request: Request<Body>, step: &'static str, op: &'static str) -> Request<Body> {
    for (name, value) in [
        ("idempotency-key", "run1"),
        ("trellis-saga-run", "run1"),
        ("trellis-saga-step", step),
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
    of_saga(request("POST", "/authorisations", body), "authorise", "action")
}

fn compensation() -> Request<Body> {
    of_saga(move_money("void"), "authorise", "compensation")
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
async fn money_is_authorised_once_and_the_promise_read_back() {
    let shop = Shop::ready().await;
    let made = shop.authorise(ADA).await;
    let authorised = json!({"id": "a1", "status": "Authorised", "amount": 500});
    assert_eq!(
        (made.status.as_u16(), made.json()),
        (201, authorised.clone()),
        "{}",
        made.text
    );
    let again = shop.authorise(ADA).await;
    assert_eq!((again.status.as_u16(), again.json()), (200, authorised.clone()));
    let other = shop.authorise(&ADA.replace("500", "501")).await;
    assert_eq!(other.status.as_u16(), 409);
    for path in ["/authorisations/a1", "/authorisations/a1/"] {
        assert_eq!(shop.get(path).await.json(), authorised);
    }
    for path in ["/authorisations/a2", "/authorisations/a%20b", "/ledger/a2"] {
        assert_eq!(shop.get(path).await.status.as_u16(), 404, "{path}");
    }
    let entries = json!([
        {"movement": "Authorise", "account": "Customer", "amount": -500},
        {"movement": "Authorise", "account": "Open", "amount": 500},
    ]);
    assert_eq!(shop.get("/ledger/a1").await.json()["items"], entries);
}

#[tokio::test]
async fn what_the_provider_declines_is_a_409_with_its_reason_and_nothing_is_stored() {
    let shop = Shop::ready().await;
    for (body, reason) in [
        (ADA.replace("500", "1000000"), "insufficient funds"),
        (ADA.replace("ada", "declined1"), "card declined"),
    ] {
        let declined = shop.authorise(&body).await;
        assert_eq!(declined.status.as_u16(), 409);
        assert!(declined.text.contains(reason), "{}", declined.text);
        assert_eq!(shop.status().await, "none");
    }
}

#[tokio::test]
async fn money_of_a_frozen_account_is_held_and_not_taken_but_let_go() {
    let shop = Shop::ready().await;
    let made = shop.authorise(&ADA.replace("ada", "frozen-ada")).await;
    assert_eq!(made.status.as_u16(), 201);
    assert_eq!(shop.then("capture").await, 409);
    assert_eq!(
        (shop.status().await.as_str(), shop.then("void").await),
        ("Authorised", 204)
    );
}

#[tokio::test]
async fn every_way_of_the_money_is_booked_and_done_once() {
    for (movements, statuses, status, sums, open) in [
        (
            &["void", "void", "capture", "refund"][..],
            &[204, 204, 409, 409][..],
            "Voided",
            &[("Authorise", 500), ("Void", 500)][..],
            0,
        ),
        (
            &["refund", "capture", "capture", "void"],
            &[409, 200, 200, 409],
            "Captured",
            &[("Authorise", 500), ("Capture", 500)],
            0,
        ),
        (
            &["capture", "refund", "refund", "void", "capture"],
            &[200, 200, 200, 204, 409],
            "Refunded",
            &[("Authorise", 500), ("Capture", 500), ("Refund", 500)],
            0,
        ),
        (&["refund"], &[409], "Authorised", &[("Authorise", 500)], 500),
    ] {
        let shop = Shop::ready().await;
        shop.authorise(ADA).await;
        for (movement, expected) in movements.iter().zip(statuses) {
            assert_eq!(
                shop.then(movement).await,
                *expected,
                "{movement} of {movements:?}"
            );
        }
        let sums: Vec<_> = sums
            .iter()
            .map(|(name, sum)| ((*name).to_owned(), *sum))
            .collect();
        assert_eq!(
            (shop.status().await.as_str(), shop.books().await),
            (status, (sums, open))
        );
    }
}

#[tokio::test]
async fn where_nothing_is_authorised_there_is_nothing_to_void_and_nothing_else_to_do() {
    let shop = Shop::ready().await;
    for (movement, status) in [("void", 204), ("capture", 404), ("refund", 404)] {
        assert_eq!(shop.then(movement).await, status, "{movement}");
    }
    shop.authorise(ADA).await;
    shop.then("void").await;
    assert_eq!(
        shop.authorise(ADA).await.status.as_u16(),
        409,
        "the request is late"
    );
}

#[tokio::test]
async fn of_movements_at_once_each_is_booked_once_and_the_sums_are_right() {
    let shop = Shop::ready().await;
    let requests: Vec<_> = (0..10)
        .flat_map(|_| {
            let authorise = request("POST", "/authorisations", ADA);
            [
                authorise,
                move_money("capture"),
                move_money("void"),
                move_money("refund"),
            ]
        })
        .map(|request| {
            let router = shop.router.clone();
            tokio::spawn(async move { send(&router, request).await })
        })
        .collect();
    for request in requests {
        let answer = request.await.unwrap();
        assert!(answer.status.as_u16() < 500, "{}", answer.text);
    }
    let (sums, open) = shop.books().await;
    let sum = |movement: &str| -> i64 {
        let of_movement = sums.iter().filter(|(name, _)| name == movement);
        of_movement.map(|(_, amount)| amount).sum()
    };
    assert_eq!(
        (sum("Authorise"), sum("Void") + sum("Capture") + open),
        (500, 500),
        "{sums:?}"
    );
    assert!(sum("Refund") <= sum("Capture"), "{sums:?}");
}

#[tokio::test]
async fn a_step_of_a_saga_is_done_once_and_taken_back_once() {
    let shop = Shop::ready().await;
    let made = shop.send(action(ADA)).await;
    let again = shop.send(action(ADA)).await;
    assert_eq!((made.status.as_u16(), again.status.as_u16()), (201, 201));
    assert_eq!((again.text, again.headers), (made.text, made.headers));
    for _ in 0..2 {
        assert_eq!(shop.send(compensation()).await.status.as_u16(), 204);
        assert_eq!(shop.books().await.1, 0);
    }
}

#[tokio::test]
async fn a_saga_goes_back_over_a_capture() {
    let shop = Shop::ready().await;
    let of_capture = |movement, op| of_saga(move_money(movement), "capture", op);
    for (request, status) in [
        (action(ADA), 201),
        (of_capture("capture", "action"), 200),
        (of_capture("refund", "compensation"), 200),
        (compensation(), 204),
    ] {
        assert_eq!(shop.send(request).await.status.as_u16(), status);
    }
    assert_eq!(shop.status().await, "Refunded");
}

#[tokio::test]
async fn a_declined_step_stays_declined_and_has_nothing_to_take_back() {
    let shop = Shop::ready().await;
    let declined = shop.send(action(&ADA.replace("ada", "declined"))).await;
    assert_eq!(
        (declined.status.as_u16(), declined.header("content-type")),
        (409, "application/problem+json")
    );
    let again = shop.send(action(ADA)).await;
    assert_eq!((again.status, again.text), (declined.status, declined.text));
    assert_eq!(shop.send(compensation()).await.status.as_u16(), 204);
    assert_eq!(shop.status().await, "none");
}

#[tokio::test]
async fn a_step_that_was_compensated_before_it_came_is_refused() {
    let shop = Shop::ready().await;
    assert_eq!(shop.send(compensation()).await.status.as_u16(), 204);
    let late = shop.send(action(ADA)).await;
    assert_eq!(late.status.as_u16(), 409);
    assert!(late.text.contains("was compensated before"), "{}", late.text);
    assert_eq!(shop.status().await, "none");
}

#[tokio::test]
async fn old_calls_of_sagas_are_forgotten_and_money_is_not() {
    let shop = Shop::ready().await;
    shop.send(action(ADA)).await;
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
    assert_eq!((left, shop.status().await), (0, "Authorised".to_owned()));
}

#[tokio::test]
async fn bad_requests_name_their_fields_and_headers() {
    let shop = Shop::ready().await;
    for (body, status, fields) in [
        (
            r#"{"id":"a/b","username":"Ada","amount":0}"#,
            422,
            vec!["id", "username", "amount"],
        ),
        (
            r#"{"id":"a1","username":"ada","amount":1.5}"#,
            422,
            vec!["amount"],
        ),
        (r#"{"id":"a1","amount":1}"#, 422, vec!["username"]),
        (
            r#"{"id":"a1","username":"ada","amount":1,"currency":"EUR"}"#,
            422,
            vec!["currency"],
        ),
        ("{", 400, vec![]),
    ] {
        let answer = shop.authorise(body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text);
        assert_eq!(answer.fields(), fields, "{body}");
    }
    let mut request = action(ADA);
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
        shop.get("/authorisations/a1").await,
        shop.authorise(ADA).await,
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
    assert_eq!(shop.send(action(ADA)).await.status.as_u16(), 201);
}
