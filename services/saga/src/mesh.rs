//! Calls of participants, through the own sidecar, which finds them by name and balances over their pods.
//!
//! | answer | is |
//! |---|---|
//! | 2xx | done |
//! | 202 with `Location` | still working; asked again there |
//! | 408 | `Timeout`, tried again |
//! | 425, 429 | `Throttled`, tried again after its `Retry-After` |
//! | 5xx | `ServerError`, tried again |
//! | made by a proxy, or none at all | `Unreachable`, tried again |
//! | any other | failed for good |

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use trellis_chassis::client::MADE_BY_PROXY;
use trellis_saga_core::definition::{HttpCall, RetryCondition};
use trellis_saga_core::event::{Outcome, Payload};
use trellis_saga_engine::participants::{Asked, Participants, Try, op_of};

use crate::traces::Attempt;

/// Shorter than servers keep idle connections.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// Longest connect to the own sidecar.
const CONNECT: Duration = Duration::from_secs(1);
/// Largest answer.
const MAX_BODY: usize = 256 * 1024;
/// Most characters of an answer that are kept of a failure.
const MOST_DETAIL: usize = 500;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const RUN: HeaderName = HeaderName::from_static("trellis-saga-run");
const STEP: HeaderName = HeaderName::from_static("trellis-saga-step");
const INDEX: HeaderName = HeaderName::from_static("trellis-saga-index");
const OP: HeaderName = HeaderName::from_static("trellis-saga-op");
const INCARNATION: HeaderName = HeaderName::from_static("trellis-saga-incarnation");
const ATTEMPT: HeaderName = HeaderName::from_static("trellis-saga-attempt");
const EPOCH: HeaderName = HeaderName::from_static("trellis-saga-epoch");

/// Participants behind the sidecar.
pub struct Mesh {
    address: String,
    pool: Client<HttpConnector, Full<Bytes>>,
}

/// A request that cannot be made.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the definition has no such call")]
    NoCall,
    #[error("{0} cannot be asked how far it is: it names no path of its own")]
    Location(Arc<str>),
    #[error(transparent)]
    Http(#[from] http::Error),
}

impl Mesh {
    /// Calls by the sidecar at `address`.
    pub fn new(address: String) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let pool = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { address, pool }
    }

    /// What is answered, and what that means.
    async fn ask(&self, request: Request<Full<Bytes>>) -> (Option<StatusCode>, Outcome) {
        let none =
            |error: &dyn std::error::Error| again(RetryCondition::Unreachable, None, &error.to_string());
        let response = match self.pool.request(request).await {
            Ok(response) => response,
            Err(error) => return (None, none(&error)),
        };
        let (parts, body) = response.into_parts();
        let outcome = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => outcome(parts.status, &parts.headers, &body.to_bytes()),
            // It was done, maybe: asked again, it gives the same answer.
            Err(error) => none(&*error),
        };
        (Some(parts.status), outcome)
    }

    fn request(&self, a_try: &Try) -> Result<Request<Full<Bytes>>, Error> {
        let call = a_try.definition().ok_or(Error::NoCall)?;
        let (method, path) = match &a_try.request {
            Asked::Do(request) => (call.call.method.as_str(), request.path.clone()),
            Asked::Poll(location) => ("GET", path_of(location)?),
        };
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).map_err(http::Error::from)?)
            .uri(format!("http://{}{path}", self.address))
            .header(header::HOST, host(&call.call, a_try.compiled.namespace()))
            .header(RUN, a_try.run.to_string())
            .header(STEP, a_try.step())
            .header(INDEX, a_try.call.item)
            .header(OP, op_of(a_try.call.op))
            .header(INCARNATION, a_try.call.incarnation)
            .header(ATTEMPT, a_try.attempt)
            .header(EPOCH, a_try.epoch);
        let mut body = Bytes::new();
        let mut own_key = false;
        if let Asked::Do(asked) = &a_try.request {
            for (name, value) in &asked.headers {
                own_key |= *name == IDEMPOTENCY_KEY;
                request = request.header(name, value);
            }
            if let Some(json) = &asked.body {
                body = json.to_string().into();
                request = request.header(header::CONTENT_TYPE, "application/json");
            }
        }
        if !own_key {
            request = request.header(IDEMPOTENCY_KEY, a_try.key());
        }
        Ok(request.body(Full::new(body))?)
    }
}

impl Participants for Mesh {
    async fn call(&self, a_try: Try) -> Outcome {
        let attempt = Attempt::begin(&a_try);
        let mut request = match self.request(&a_try) {
            Ok(request) => request,
            Err(error) => {
                let outcome = Outcome::Failed(error.to_string().into());
                attempt.end(None, &outcome);
                return outcome;
            }
        };
        attempt.inject(request.headers_mut());
        let (status, outcome) = self.ask(request).await;
        attempt.end(status, &outcome);
        outcome
    }
}

/// What an answer means.
fn outcome(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome {
    let after = retry_after(headers, SystemTime::now());
    if headers.contains_key(MADE_BY_PROXY) {
        return again(RetryCondition::Unreachable, after, &detail(status, body));
    }
    let location = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok());
    match (status, location) {
        (StatusCode::ACCEPTED, Some(location)) => Outcome::Pending {
            location: location.into(),
            after,
        },
        _ if status.is_success() => match std::str::from_utf8(body) {
            Ok(text) if text.trim().is_empty() => Outcome::Done(None),
            Ok(text) => Outcome::Done(Some(Payload::from(text))),
            Err(error) => again(RetryCondition::ServerError, after, &error.to_string()),
        },
        (StatusCode::REQUEST_TIMEOUT, _) => again(RetryCondition::Timeout, after, &detail(status, body)),
        (StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS, _) => {
            again(RetryCondition::Throttled, after, &detail(status, body))
        }
        _ if status.is_server_error() => again(RetryCondition::ServerError, after, &detail(status, body)),
        _ => Outcome::Failed(detail(status, body).into()),
    }
}

fn again(condition: RetryCondition, after: Option<u64>, detail: &str) -> Outcome {
    Outcome::Retry {
        condition,
        after,
        detail: detail.into(),
    }
}

/// `409 Conflict: insufficient funds`: the status and what a problem document says.
fn detail(status: StatusCode, body: &[u8]) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let said = problem.as_ref().and_then(|problem| {
        let of = |name: &str| problem.get(name)?.as_str();
        of("detail").or_else(|| of("title"))
    });
    match said {
        Some(said) => format!("{status}: {}", said.chars().take(MOST_DETAIL).collect::<String>()),
        None => status.to_string(),
    }
}

/// Milliseconds that are asked for: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<u64> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let after = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    u64::try_from(after.as_millis()).ok()
}

/// `inventory.shop.mesh`, or `admin.inventory.shop.mesh` with a port.
fn host(call: &HttpCall, namespace: &str) -> String {
    match &call.port {
        Some(port) => format!("{port}.{}.{namespace}.mesh", call.microservice),
        None => format!("{}.{namespace}.mesh", call.microservice),
    }
}

/// Path and query of a location. Whatever host it names, the participant itself is asked.
fn path_of(location: &Arc<str>) -> Result<String, Error> {
    let refuse = || Error::Location(Arc::clone(location));
    let uri: http::Uri = location.parse().map_err(|_| refuse())?;
    let path = uri.path_and_query().ok_or_else(refuse)?;
    let path = path.as_str();
    path.starts_with('/').then(|| path.to_owned()).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(status: u16, headers: &[(&'static str, &str)], body: &str) -> Outcome {
        let headers = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        });
        outcome(
            StatusCode::from_u16(status).unwrap(),
            &headers.collect(),
            body.as_bytes(),
        )
    }

    #[test]
    fn an_answer_is_done_worked_on_tried_again_or_refused() {
        assert_eq!(of(204, &[], ""), Outcome::Done(None));
        assert_eq!(of(201, &[], "{}"), Outcome::Done(Some("{}".into())));
        let pending = Outcome::Pending {
            location: "/jobs/1".into(),
            after: Some(3000),
        };
        assert_eq!(
            of(202, &[("location", "/jobs/1"), ("retry-after", "3")], ""),
            pending
        );
        assert_eq!(of(202, &[], "{}"), Outcome::Done(Some("{}".into())));
        for (status, condition) in [
            (408, RetryCondition::Timeout),
            (425, RetryCondition::Throttled),
            (429, RetryCondition::Throttled),
            (500, RetryCondition::ServerError),
            (503, RetryCondition::ServerError),
        ] {
            assert!(
                matches!(of(status, &[], ""), Outcome::Retry { condition: found, .. } if found == condition)
            );
        }
        let made_by_proxy = of(404, &[("x-trellis-origin", "proxy")], "");
        assert!(matches!(
            made_by_proxy,
            Outcome::Retry {
                condition: RetryCondition::Unreachable,
                ..
            }
        ));
        let declined = of(
            409,
            &[],
            r#"{"title": "Conflict", "detail": "insufficient funds"}"#,
        );
        assert_eq!(
            declined,
            Outcome::Failed("409 Conflict: insufficient funds".into())
        );
    }

    #[test]
    fn a_location_is_a_path_of_the_participant() {
        let path = |location: &str| path_of(&location.into()).ok();
        assert_eq!(path("/jobs/1?a=b").as_deref(), Some("/jobs/1?a=b"));
        assert_eq!(path("http://elsewhere/jobs/1").as_deref(), Some("/jobs/1"));
        assert_eq!(path("jobs/1"), None);
    }
}
