//! A participant in memory that keeps to the contract, but for one fault that is switched on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time};
use trellis_saga_participant::{Branch, HeaderError, Op};

/// How many a reservation takes.
pub const QUANTITY: i64 = 2;
/// Work that is done elsewhere, outside of any lock: long enough for others to come in between.
const ELSEWHERE: Duration = Duration::from_millis(100);

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    DuplicateEffect,
    DuplicateAnswer,
    DuplicateRefused,
    Race,
    RefusesCopiesUnderWay,
    AttemptInKey,
    NullRefused,
    NullTakes,
    Hanging,
    HangingAnsweredAsDone,
    HangingToBeTriedAgain,
    CompensatesTwice,
    CompensationRace,
    CompensationGoneTheSecondTime,
    NeverCompensates,
    CompensatesHalf,
    Revives,
    IgnoresIncarnation,
    PassesPartialHeaders,
    DoesNothing,
}

/// A stock from which reservations take.
#[derive(Clone)]
pub struct Shop(Arc<Inner>);

struct Inner {
    fault: Fault,
    books: Mutex<Books>,
}

struct Books {
    left: i64,
    /// Requests that are no action where one is due, or no compensation.
    strays: u32,
    calls: HashMap<Key, Call>,
}

/// Run, incarnation, and the attempt, which should not be there.
type Key = (String, u32, u32);

#[derive(Clone, Copy, Default, PartialEq)]
struct Call {
    is_under_way: bool,
    is_done: bool,
    is_compensated: bool,
    is_fenced: bool,
}

impl Shop {
    pub fn with(fault: Fault) -> Self {
        let books = Mutex::new(Books {
            left: 1000,
            strays: 0,
            calls: HashMap::new(),
        });
        Self(Arc::new(Inner { fault, books }))
    }

    pub fn router(&self) -> Router {
        Router::new()
            .route("/reservations", post(reserve))
            .route("/reservations/{id}", delete(give_back))
            .route("/stock", get(stock))
            .with_state(self.clone())
    }

    pub fn strays(&self) -> u32 {
        self.books(|books| books.strays)
    }

    fn expect(&self, branch: &Branch, op: Op) {
        self.books(|books| books.strays += u32::from(branch.op() != op));
    }

    fn has(&self, fault: Fault) -> bool {
        self.0.fault == fault
    }

    fn key(&self, branch: &Branch) -> Key {
        let incarnation = if self.has(Fault::IgnoresIncarnation) {
            0
        } else {
            branch.incarnation()
        };
        let attempt = if self.has(Fault::AttemptInKey) {
            branch.attempt()
        } else {
            0
        };
        (branch.run().to_owned(), incarnation, attempt)
    }

    fn books<T>(&self, look: impl FnOnce(&mut Books) -> T) -> T {
        look(&mut self.0.books.lock().unwrap())
    }
}

async fn stock(State(shop): State<Shop>) -> Json<Value> {
    Json(json!({"sku": "tea", "left": shop.books(|books| books.left)}))
}

async fn reserve(State(shop): State<Shop>, branch: Result<Option<Branch>, HeaderError>) -> Response {
    let branch = match branch {
        Ok(Some(branch)) => branch,
        Err(fault) if !shop.has(Fault::PassesPartialHeaders) => return fault.into_response(),
        Ok(None) | Err(_) => {
            shop.books(|books| books.left -= QUANTITY);
            return done();
        }
    };
    shop.expect(&branch, Op::Action);
    let key = shop.key(&branch);
    let call = shop.books(|books| {
        let call = books.calls.entry(key.clone()).or_default();
        let before = *call;
        call.is_under_way |= !call.is_done && !call.is_fenced;
        before
    });
    if call.is_fenced {
        match shop.0.fault {
            Fault::HangingAnsweredAsDone => return done(),
            Fault::HangingToBeTriedAgain => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
            Fault::Hanging => {}
            _ => return (StatusCode::CONFLICT, Json(json!({"title": "compensated before"}))).into_response(),
        }
    }
    if call.is_done {
        match shop.0.fault {
            Fault::DuplicateEffect if !call.is_compensated => {
                shop.books(|books| books.left -= QUANTITY);
            }
            Fault::DuplicateAnswer => return Json(json!({"again": true})).into_response(),
            Fault::DuplicateRefused => return StatusCode::CONFLICT.into_response(),
            _ => {}
        }
        return done();
    }
    if shop.has(Fault::Race) {
        time::sleep(ELSEWHERE).await;
    }
    if shop.has(Fault::RefusesCopiesUnderWay) {
        if call.is_under_way {
            return StatusCode::CONFLICT.into_response();
        }
        time::sleep(ELSEWHERE).await;
    }
    shop.books(|books| {
        let call = books.calls.entry(key).or_default();
        // Who comes second while the lock is held all along finds it done.
        if !call.is_done || shop.has(Fault::Race) {
            call.is_done = true;
            if !shop.has(Fault::DoesNothing) {
                books.left -= QUANTITY;
            }
        }
    });
    done()
}

async fn give_back(State(shop): State<Shop>, Path(_): Path<String>, branch: Option<Branch>) -> StatusCode {
    let Some(branch) = branch else {
        shop.books(|books| books.left += QUANTITY);
        return StatusCode::NO_CONTENT;
    };
    shop.expect(&branch, Op::Compensation);
    let key = shop.key(&branch);
    let call = shop.books(|books| books.calls.get(&key).copied().unwrap_or_default());
    if shop.has(Fault::CompensationRace) && call.is_done && !call.is_compensated {
        time::sleep(ELSEWHERE).await;
    }
    shop.books(|books| {
        let now = books.calls.entry(key.clone()).or_default();
        let is_unknown = !now.is_done;
        if is_unknown {
            if shop.has(Fault::NullRefused) {
                books.calls.remove(&key);
                return StatusCode::NOT_FOUND;
            }
            if !now.is_fenced && shop.has(Fault::NullTakes) {
                books.left += QUANTITY;
            }
            now.is_fenced = true;
            return StatusCode::NO_CONTENT;
        }
        let again = now.is_compensated;
        if again && shop.has(Fault::CompensationGoneTheSecondTime) {
            return StatusCode::GONE;
        }
        now.is_compensated = true;
        let is_due = !again
            || shop.has(Fault::CompensatesTwice)
            || (shop.has(Fault::CompensationRace) && !call.is_compensated);
        if is_due && !shop.has(Fault::NeverCompensates) {
            books.left += if shop.has(Fault::CompensatesHalf) {
                QUANTITY / 2
            } else {
                QUANTITY
            };
        }
        if shop.has(Fault::Revives) {
            books.calls.remove(&key);
        }
        StatusCode::NO_CONTENT
    })
}

fn done() -> Response {
    (StatusCode::CREATED, Json(json!({"reserved": QUANTITY}))).into_response()
}

/// Serves until the end of the test; `http://host:port`.
pub async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}
