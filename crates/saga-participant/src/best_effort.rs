//! A middleware for services that cannot give the barrier their transaction: it knows calls by their
//! headers, in the memory of the process.
//!
//! ```text
//! request -> Branch (headers) -> Memory: new           -> the service -> its answer is remembered
//!                                        seen          -> the remembered answer
//!                                        under way     -> waits for it; 425 if that takes too long
//!                                        nothing done  -> 204 to a compensation, 409 to its action later
//! ```
//!
//! One layer goes around all routes of a saga's calls: an action and its compensation have to meet in one
//! memory, and axum puts a service of its own around each route. So clones of a layer share the memory.
//!
//! ```
//! # use axum::{Router, routing::{delete, post}};
//! # use trellis_saga_participant::best_effort::{BestEffortLayer, Limits};
//! # async fn reserve() {}
//! # async fn give_back() {}
//! let router: Router = Router::new()
//!     .route("/reservations", post(reserve))
//!     .route("/reservations/{id}", delete(give_back))
//!     .layer(BestEffortLayer::new(Limits::default()));
//! ```
//!
//! **Guarantees**, in one process, for as long as it lives and remembers: those of the barrier, but for what
//! is below. GET and other methods that change nothing pass, and so do the engine's questions of how far a
//! 202 is. A request is seen to its end also if its client goes away.
//!
//! **It does not protect against**, and is called best effort for it:
//! - *Two replicas.* The memory is of one. A copy that comes to the other is done again; a compensation that
//!   comes there is answered as done and takes nothing back.
//! - *A restart.* The same, for all that was done before it.
//! - *A crash between effect and memory*: they are not one transaction. Nor is a 5xx of a service that did
//!   half of its work undone: the next try comes on top of it.
//! - *What it forgets*, by number, age or size ([`Limits`]): it comes as new.
//!
//! Money and stock need the [`Barrier`](crate::Barrier).

mod memory;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use opentelemetry::context::FutureExt as _;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{self, Instant};
use tower::{Layer, Service};
use trellis_chassis::problem::{Kind, MEDIA_TYPE, Problem};

use self::memory::{Decision, Known, Memory, Outcome};
use crate::barrier::{compensated_before, is_for_good};
use crate::branch::Branch;

/// After a 425, as the header has it.
const RETRY_AFTER_SECONDS: &str = "1";
/// After a 429 or a 503.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How much is remembered, and how long is waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most calls, an action and its compensation as one; the oldest are forgotten.
    pub calls: usize,
    /// What is older is forgotten. A run must not be longer under way.
    pub age: Duration,
    /// Most bytes of one answer. A larger one is a 500: it could not be given again. The engine reads
    /// 256 KiB.
    pub answer_bytes: usize,
    /// Most bytes of all answers together; the oldest are forgotten.
    pub bytes: usize,
    /// How long a copy waits for the first one before it gets a 425.
    pub wait: Duration,
    /// How long the service may take; what it is doing is dropped then, and answered with 503.
    pub work: Duration,
}

/// Lets each call of a saga through once, as long as it is remembered. Clones share the memory, and equal
/// each other; two that were made are never equal.
#[derive(Clone, Debug)]
pub struct BestEffortLayer {
    limits: Limits,
    shared: Arc<Shared>,
}

/// The service that [`BestEffortLayer`] makes.
#[derive(Clone, Debug)]
pub struct BestEffort<S> {
    inner: S,
    limits: Limits,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    memory: Mutex<Memory>,
    /// Some call is no longer under way.
    settled: Notify,
}

/// A call that is under way. Dropped before it is settled, nobody knows what was done.
struct UnderWay {
    shared: Arc<Shared>,
    branch: Branch,
    is_settled: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls: 10_000,
            age: Duration::from_hours(24),
            answer_bytes: 256 * 1024,
            bytes: 16 * 1024 * 1024,
            wait: Duration::from_secs(5),
            work: Duration::from_secs(30),
        }
    }
}

impl BestEffortLayer {
    /// With an empty memory.
    pub fn new(limits: Limits) -> Self {
        let memory = Mutex::new(Memory::new(limits.calls, limits.age, limits.bytes));
        Self {
            limits,
            shared: Arc::new(Shared {
                memory,
                settled: Notify::new(),
            }),
        }
    }
}

impl PartialEq for BestEffortLayer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for BestEffortLayer {}

impl<S> Layer<S> for BestEffortLayer {
    type Service = BestEffort<S>;

    fn layer(&self, inner: S) -> BestEffort<S> {
        BestEffort {
            inner,
            limits: self.limits.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S> Service<Request> for BestEffort<S>
where
    S: Service<Request, Response = Response> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BoxFuture<Result<Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The one that is ready is the one that is called.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let branch = match Branch::of(request.headers()) {
            Ok(Some(branch)) if !request.method().is_safe() => branch,
            Ok(_) => return Box::pin(inner.call(request)),
            Err(fault) => return Box::pin(async move { Ok(fault.into_response()) }),
        };
        let (limits, shared) = (self.limits.clone(), Arc::clone(&self.shared));
        Box::pin(async move {
            match time::timeout(limits.wait, shared.decide(&branch)).await {
                Err(_) => Ok(still_under_way(&branch)),
                Ok(Decision::Again(known)) => Ok(known.into_response()),
                Ok(Decision::NothingDone) => Ok(StatusCode::NO_CONTENT.into_response()),
                Ok(Decision::Refuse) => Ok(compensated_before(&branch).into_response()),
                Ok(Decision::Full | Decision::Wait) => Ok(full().into_response()),
                Ok(Decision::Ask) => {
                    let under_way = UnderWay {
                        shared,
                        branch,
                        is_settled: false,
                    };
                    let work = ask(inner.call(request), under_way, limits).with_current_context();
                    // A client that goes away drops this future, but not the task.
                    match tokio::spawn(work).await {
                        Ok(answer) => answer,
                        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                        Err(_) => Ok(unknown("the service is ending").into_response()),
                    }
                }
            }
        })
    }
}

impl Shared {
    /// What to do about a request, when no copy of it is under way any more.
    async fn decide(&self, branch: &Branch) -> Decision {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            // Before the look, so that nothing is missed between look and wait.
            settled.as_mut().enable();
            match self.memory().decide(branch, Instant::now()) {
                Decision::Wait => {}
                decision => return decision,
            }
            settled.await;
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    fn settle(&mut self, outcome: Outcome) {
        self.is_settled = true;
        self.shared.memory().settle(&self.branch, outcome);
        self.shared.settled.notify_waiters();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.is_settled {
            self.settle(Outcome::Unknown);
        }
    }
}

/// Has the service do it, and remembers the answer.
async fn ask<E>(
    answer: impl Future<Output = Result<Response, E>>,
    mut under_way: UnderWay,
    limits: Limits,
) -> Result<Response, E> {
    let Ok(answer) = time::timeout(limits.work, answer).await else {
        return Ok(unknown("the service took too long").into_response());
    };
    let (head, body) = answer?.into_parts();
    let status = head.status;
    let known = match to_bytes(body, limits.answer_bytes).await {
        Ok(body) => Known {
            status,
            headers: head.headers,
            body,
        },
        // It could not be given again: better nobody gets it than only the first.
        Err(_) => too_large(status, limits.answer_bytes).await,
    };
    under_way.settle(match status {
        status if status.is_success() => Outcome::Done(known.clone()),
        status if is_for_good(status) => Outcome::Refused(known.clone()),
        _ => Outcome::Unknown,
    });
    Ok(known.into_response())
}

impl IntoResponse for Known {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// In place of an answer that is too large. A refusal stays one.
async fn too_large(status: StatusCode, most: usize) -> Known {
    let problem = Problem::new(Kind::Internal).detail(format!(
        "the answer, a {}, has more than {most} bytes and could not be given to a duplicate; make it smaller, or raise answer_bytes",
        status.as_u16()
    ));
    let (head, body) = problem.into_response().into_parts();
    Known {
        status: if status.is_success() { head.status } else { status },
        headers: head.headers,
        // It was made of bytes just now.
        body: to_bytes(body, usize::MAX).await.unwrap_or_default(),
    }
}

/// For a copy that has waited long enough.
fn still_under_way(branch: &Branch) -> Response {
    let status = StatusCode::TOO_EARLY;
    let document = json!({
        "type": "urn:trellis:problem:saga-under-way",
        "title": "The same request is being worked on",
        "status": status.as_u16(),
        "detail": format!(
            "step {:?} of run {:?} is being worked on; ask again for its answer",
            branch.step(),
            branch.run()
        ),
    });
    let headers = [
        (header::CONTENT_TYPE, MEDIA_TYPE),
        (header::RETRY_AFTER, RETRY_AFTER_SECONDS),
    ];
    (status, headers, document.to_string()).into_response()
}

/// For a call that would not be remembered.
fn full() -> Problem {
    Problem::busy(
        "as many calls of sagas are under way as are remembered",
        RETRY_AFTER,
    )
}

/// For a call of which nobody knows what was done.
fn unknown(why: &str) -> Problem {
    Problem::unavailable(why, RETRY_AFTER)
}

#[cfg(test)]
mod tests;
