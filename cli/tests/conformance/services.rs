//! Services that keep to the contract, each by other means.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use http::{StatusCode, header};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use trellis_chassis::{
    db,
    problem::{Kind, Problem},
};
use trellis_saga_participant::{Answer, Barrier, BestEffortLayer, Branch, SCHEMA, best_effort::Limits};
use trellis_testkit::postgres::TestDatabase;

use crate::{
    STATE, assert_all_passed, bugs,
    participant::{QUANTITY, serve},
    report,
};

/// A stock in PostgreSQL, behind the barrier.
async fn with_barrier(database: &TestDatabase) -> Router {
    let read = |key| fs::read_to_string(database.binding_root().join("db").join(key)).unwrap();
    let options = PgConnectOptions::new_without_pgpass()
        .host(&read("host"))
        .port(read("port").parse().unwrap())
        .database(&read("database"))
        .username(&read("username"))
        .password(&read("password"));
    let pool = PgPoolOptions::new().connect_with(options).await.unwrap();
    sqlx::raw_sql(SCHEMA).execute(&pool).await.unwrap();
    sqlx::raw_sql("CREATE TABLE stock (quantity BIGINT NOT NULL); INSERT INTO stock VALUES (1000)")
        .execute(&pool)
        .await
        .unwrap();
    Router::new()
        .route(
            "/reservations",
            post(async |pool, branch| take(pool, branch, -QUANTITY).await),
        )
        .route(
            "/reservations/{id}",
            delete(async |pool, branch| take(pool, branch, QUANTITY).await),
        )
        .route("/stock", get(stock))
        .with_state(pool)
}

async fn take(State(pool): State<PgPool>, branch: Option<Branch>, quantity: i64) -> Result<Answer, Problem> {
    let mut transaction = pool.begin().await.map_err(db::Error::from)?;
    let work = async |connection: &mut _| {
        let done = sqlx::query("UPDATE stock SET quantity = quantity + $1 WHERE quantity + $1 >= 0")
            .bind(quantity)
            .execute(connection)
            .await
            .map_err(db::Error::from)?;
        if done.rows_affected() == 0 {
            return Err(Problem::new(Kind::Conflict).detail("not enough is left"));
        }
        Ok(Answer::created(&json!({ "quantity": quantity })).map_err(db::Error::from)?)
    };
    let answer = Barrier::run(&mut transaction, branch.as_ref(), work).await?;
    transaction.commit().await.map_err(db::Error::from)?;
    Ok(answer)
}

async fn stock(State(pool): State<PgPool>) -> Json<Value> {
    let left: i64 = sqlx::query_scalar("SELECT quantity FROM stock")
        .fetch_one(&pool)
        .await
        .unwrap();
    Json(json!({ "left": left }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_the_barrier_over_postgresql_passes_every_case() {
    let database = TestDatabase::create().await;
    let origin = serve(with_barrier(&database).await).await;
    let (report, code) = report(&origin, &[STATE[0], STATE[1], "--copies", "16"]).await;
    assert_all_passed(&report);
    assert_eq!(code, Some(0));
}

/// Does whatever it is asked, as often as it is.
fn without_a_memory() -> Router {
    let left = Arc::new(AtomicI64::new(1000));
    let reserve = async |State(left): State<Arc<AtomicI64>>| {
        let left = left.fetch_sub(QUANTITY, Ordering::SeqCst) - QUANTITY;
        (StatusCode::CREATED, Json(json!({ "left": left })))
    };
    let give_back = async |State(left): State<Arc<AtomicI64>>| {
        left.fetch_add(QUANTITY, Ordering::SeqCst);
        StatusCode::NO_CONTENT
    };
    let stock =
        async |State(left): State<Arc<AtomicI64>>| Json(json!({ "left": left.load(Ordering::SeqCst) }));
    Router::new()
        .route("/reservations", post(reserve))
        .route("/reservations/{id}", delete(give_back))
        .route("/stock", get(stock))
        .with_state(left)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_memory_passes_every_case_behind_the_middleware() {
    let layer = BestEffortLayer::new(Limits::default());
    let origin = serve(without_a_memory().layer(layer)).await;
    let (report, code) = report(&origin, &STATE).await;
    assert_all_passed(&report);
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_memory_fails_wherever_a_memory_is_needed() {
    let origin = serve(without_a_memory()).await;
    let (report, code) = report(&origin, &STATE).await;
    assert_eq!(
        bugs(&report, "failed"),
        [
            "duplicate-compensation",
            "duplicate-effect",
            "hanging-action",
            "late-action",
            "null-compensation-effect",
        ]
    );
    assert_eq!(bugs(&report, "warning"), ["unguarded-headers"]);
    assert_eq!(code, Some(1));
}

/// Reservations that are kept as records, and made by jobs.
#[derive(Clone, Default)]
struct Jobs(Arc<Mutex<HashMap<String, &'static str>>>);

impl Jobs {
    fn router(&self) -> Router {
        let layer = BestEffortLayer::new(Limits::default());
        Router::new()
            .route("/reservations", post(begin))
            .route("/jobs/{id}", get(how_far))
            .route("/reservations/{id}", delete(void).get(record))
            .layer(layer)
            .with_state(self.clone())
    }

    fn set(&self, id: &str, status: &'static str) -> Option<&'static str> {
        self.0.lock().unwrap().insert(id.to_owned(), status)
    }
}

async fn begin(State(jobs): State<Jobs>, Json(body): Json<Value>) -> Response {
    let id = body["id"].as_str().unwrap();
    if jobs.set(id, "begun").is_some() {
        return StatusCode::CONFLICT.into_response();
    }
    (StatusCode::ACCEPTED, [(header::LOCATION, format!("/jobs/{id}"))]).into_response()
}

/// The first question is answered with: still working.
async fn how_far(State(jobs): State<Jobs>, Path(id): Path<String>) -> Response {
    let mut jobs = jobs.0.lock().unwrap();
    let status = jobs.get_mut(&id).unwrap();
    if *status == "begun" {
        *status = "held";
        let location = format!("http://elsewhere/jobs/{id}");
        return (StatusCode::ACCEPTED, [(header::LOCATION, location)]).into_response();
    }
    Json(json!({"status": *status})).into_response()
}

async fn void(State(jobs): State<Jobs>, Path(id): Path<String>) -> StatusCode {
    jobs.set(&id, "voided");
    StatusCode::NO_CONTENT
}

async fn record(State(jobs): State<Jobs>, Path(id): Path<String>) -> Response {
    match jobs.0.lock().unwrap().get(&id) {
        Some(status) => Json(json!({"status": status})).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_takes_long_is_waited_for_and_a_record_may_stay_if_it_is_said() {
    let origin = serve(Jobs::default().router()).await;
    let state = ["--state", "/reservations/${run.id}"];
    let (strict, code) = report(&origin, &state).await;
    assert_eq!(bugs(&strict, "failed"), ["compensation-incomplete"]);
    let fix = strict["cases"][5]["fix"].as_str().unwrap();
    assert!(fix.contains("--keeps-record"), "{fix}");
    assert_eq!(code, Some(1));
    let (report, code) = report(&origin, &[state[0], state[1], "--keeps-record"]).await;
    assert_eq!(bugs(&report, "failed"), [""; 0]);
    // The id is the same in each incarnation, and is not free any more.
    assert_eq!(bugs(&report, "warning"), ["incarnation-ignored"]);
    assert_eq!(report["cases"][0]["calls"][0]["answers"][0]["wasPending"], true);
    assert_eq!(code, Some(0));
}
