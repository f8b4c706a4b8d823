//! HTTP client of one dependency, reached through the sidecar at `http://<name>.mesh:15001`.
//!
//! Balancing, retries and breakers are the sidecar's; what is left for the service is a total deadline and
//! three outcomes. Anything that is neither the resource nor a clear "there is none" is
//! [`Outcome::Unavailable`]: a service must not decide on an answer that it did not get.
//!
//! ```text
//! 200 + the type asked for            Found
//! 404, not marked by a proxy          NotFound
//! anything else, or out of time       Unavailable, with the answer's Retry-After if it has one
//! ```
//!
//! What is sent is not decided on but taken or not: [`Client::post`] says why not.
//!
//! The deadline covers connecting, sending, the response's head and its body. Every call is a client span,
//! child of the span that is current, and carries `traceparent`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as Pooled;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry::context::FutureExt;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use tokio::time;

use crate::trace;

/// Header by which a proxy marks an answer that it made itself, such as a 404 for "no route".
pub const MADE_BY_PROXY: &str = "x-trellis-origin";

/// Header by which the sidecar is told how long an answer is waited for, in milliseconds.
const DEADLINE: &str = "trellis-deadline-ms";

/// Shorter than servers keep idle connections, so that a request never meets one that is being closed.
const POOL_IDLE: Duration = Duration::from_secs(15);
const MAX_BODY: usize = 256 * 1024;
/// Most characters of an answer that are kept of a failure.
const MAX_DETAIL: usize = 500;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A dependency does not get to send our callers away for longer.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Where a dependency is: `http://host:port`, without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Authority);

/// Why a text is not a [`BaseUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be http://host:port without a path")]
pub struct BaseUrlError;

/// A client of one dependency; clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    name: &'static str,
    base: BaseUrl,
    deadline: Duration,
    pool: Pooled<HttpConnector, Full<Bytes>>,
}

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The resource.
    Found(T),
    /// The dependency says that there is no such resource.
    NotFound,
    /// No usable answer within the deadline.
    Unavailable {
        /// How long to stay away.
        retry_after: Duration,
    },
}

/// Why a dependency did not take what was sent to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is none.
    #[error("failed to build the request")]
    Build(#[source] http::Error),
    /// Nobody answered.
    #[error("failed to get a response")]
    Send(#[source] hyper_util::client::legacy::Error),
    /// The answer broke off, or is too long.
    #[error("failed to read the response's body")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not of the type that was asked for.
    #[error("failed to parse the response's body")]
    Parse(#[source] serde_json::Error),
    /// The answer is a refusal, or a proxy's.
    #[error("failed to get a usable response: status {status}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Status {
        /// Its status.
        status: StatusCode,
        /// How long to stay away, if it says so.
        retry_after: Option<Duration>,
        /// What a problem document says of it.
        detail: String,
    },
    /// The time was over.
    #[error("failed to get a response within {0:?}")]
    Deadline(Duration),
}

/// The body of an answer, as far as it came.
type Body = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What of a problem document is of use to a caller.
#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<RefusedField>,
}

#[derive(Deserialize)]
struct RefusedField {
    field: String,
    message: String,
}

impl Client {
    /// A client of the dependency `name`; each call ends within `deadline`.
    pub fn new(name: &'static str, base: BaseUrl, deadline: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(deadline));
        let pool = Pooled::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self {
            name,
            base,
            deadline,
            pool,
        }
    }

    /// Gets the JSON resource at `/{segments}`; the segments are percent-encoded.
    pub async fn get<T: DeserializeOwned>(&self, segments: &[&str]) -> Outcome<T> {
        let get = async |cx: &Context| {
            let request = self.request(Method::GET, segments, Bytes::new())?;
            match self.send(request, cx).await? {
                (StatusCode::NOT_FOUND, headers, _) if !headers.contains_key(MADE_BY_PROXY) => {
                    Ok(Outcome::NotFound)
                }
                (StatusCode::OK, _, body) => {
                    let body = body.map_err(Error::Body)?;
                    serde_json::from_slice(&body)
                        .map(Outcome::Found)
                        .map_err(Error::Parse)
                }
                (status, headers, body) => Err(refused(status, &headers, body)),
            }
        };
        self.in_span(&Method::GET, get).await.unwrap_or_else(|error| {
            let retry_after = match &error {
                Error::Status {
                    retry_after: Some(after),
                    ..
                } => *after,
                _ => RETRY_AFTER,
            };
            let error: &dyn std::error::Error = &error;
            tracing::warn!(dependency = self.name, error, "dependency unavailable");
            Outcome::Unavailable { retry_after }
        })
    }

    /// Posts JSON to `/{segments}`, with more headers; the segments are percent-encoded. Done is what is answered with 2xx by
    /// the dependency itself.
    ///
    /// # Errors
    /// It was not taken, or nobody knows.
    pub async fn post(&self, segments: &[&str], headers: HeaderMap, json: Bytes) -> Result<(), Error> {
        let post = async |cx: &Context| {
            let mut request = self.request(Method::POST, segments, json)?;
            request.headers_mut().extend(headers);
            let is_json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, is_json);
            match self.send(request, cx).await? {
                (status, headers, _) if status.is_success() && !headers.contains_key(MADE_BY_PROXY) => Ok(()),
                (status, headers, body) => Err(refused(status, &headers, body)),
            }
        };
        self.in_span(&Method::POST, post).await
    }

    /// A call within the deadline, in a span of its own.
    async fn in_span<T>(
        &self,
        method: &Method,
        call: impl AsyncFnOnce(&Context) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let tracer = global::tracer("trellis");
        let span = tracer
            .span_builder(format!("{method} {}", self.name))
            .with_kind(SpanKind::Client)
            .with_attributes([
                KeyValue::new("http.request.method", method.to_string()),
                KeyValue::new("server.address", self.base.0.host().to_owned()),
            ])
            .start_with_context(&tracer, &Context::current());
        let cx = Context::current_with_span(span);
        let call = call(&cx).with_context(cx.clone());
        let result = match time::timeout(self.deadline, call).await {
            Ok(result) => result,
            Err(_) => Err(Error::Deadline(self.deadline)),
        };
        if let Err(error) = &result {
            cx.span().set_status(Status::error(error.to_string()));
        }
        cx.span().end();
        result
    }

    fn request(&self, method: Method, segments: &[&str], body: Bytes) -> Result<Request<Full<Bytes>>, Error> {
        Request::builder()
            .method(method)
            .uri(self.base.join(segments).map_err(Error::Build)?)
            .header(header::ACCEPT, "application/json")
            .header(DEADLINE, told(self.deadline))
            .body(Full::new(body))
            .map_err(Error::Build)
    }

    /// The answer's status, headers and body.
    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        cx: &Context,
    ) -> Result<(StatusCode, HeaderMap, Body), Error> {
        trace::inject(cx, request.headers_mut());
        let response = self.pool.request(request).await.map_err(Error::Send)?;
        let (head, body) = response.into_parts();
        let status = KeyValue::new("http.response.status_code", i64::from(head.status.as_u16()));
        cx.span().set_attribute(status);
        let body = Limited::new(body, MAX_BODY).collect().await;
        Ok((
            head.status,
            head.headers,
            body.map(http_body_util::Collected::to_bytes),
        ))
    }
}

fn refused(status: StatusCode, headers: &HeaderMap, body: Body) -> Error {
    let refusal = body
        .ok()
        .and_then(|body| serde_json::from_slice::<Refusal>(&body).ok())
        .unwrap_or_default();
    let fields = refusal
        .errors
        .iter()
        .map(|fault| format!("{}: {}", fault.field, fault.message));
    let said = Some(refusal.detail).filter(|detail| !detail.is_empty());
    let detail = said.into_iter().chain(fields).collect::<Vec<_>>().join("; ");
    Error::Status {
        status,
        retry_after: retry_after(headers),
        detail: detail.chars().take(MAX_DETAIL).collect(),
    }
}

/// What the sidecar is told of a deadline: a little less, so that it is the first to see that time is up, and knows of whom.
fn told(deadline: Duration) -> u64 {
    let reserve = (deadline / 20).min(Duration::from_millis(100));
    u64::try_from((deadline - reserve).as_millis()).unwrap_or(u64::MAX)
}

impl BaseUrl {
    fn join(&self, segments: &[&str]) -> Result<Uri, http::Error> {
        let path: String = segments
            .iter()
            .map(|segment| format!("/{}", percent_encode(segment)))
            .collect();
        Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.0.clone())
            .path_and_query(path)
            .build()
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        let parts = text.parse::<Uri>().map_err(|_| BaseUrlError)?.into_parts();
        let bare = parts.path_and_query.is_none_or(|path| path == "/");
        match parts.authority {
            Some(authority) if parts.scheme == Some(Scheme::HTTP) && bare => Ok(Self(authority)),
            _ => Err(BaseUrlError),
        }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

impl Serialize for BaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    // The date form is for caches; our own parts send seconds.
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Everything but RFC 3986's unreserved characters, byte by byte.
fn percent_encode(segment: &str) -> String {
    segment
        .bytes()
        .fold(String::with_capacity(segment.len()), |mut path, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
            path
        })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;

    async fn client(router: Router) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        tokio::spawn(axum::serve(listener, router).into_future());
        Client::new("user", base, Duration::from_millis(300))
    }

    fn away(seconds: u64) -> Outcome<Value> {
        Outcome::Unavailable {
            retry_after: Duration::from_secs(seconds),
        }
    }

    #[tokio::test]
    async fn only_a_clear_answer_is_an_answer() {
        let busy = (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "7")]);
        let forever = (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "999999")]);
        let no_route = (StatusCode::NOT_FOUND, [(MADE_BY_PROXY, "proxy")]);
        let client = client(
            Router::new()
                .route("/users/ada", get(async || axum::Json(json!({"username": "ada"}))))
                .route("/users/eve", get(async || StatusCode::NOT_FOUND))
                .route("/users/no-route", get(async move || no_route))
                .route("/users/busy", get(async move || busy))
                .route("/users/forever", get(async move || forever))
                .route("/users/text", get(async || "ada"))
                .route("/users/slow", get(std::future::pending::<()>)),
        )
        .await;
        let call = async |name: &str| client.get::<Value>(&["users", name]).await;
        assert_eq!(call("ada").await, Outcome::Found(json!({"username": "ada"})));
        assert_eq!(call("eve").await, Outcome::NotFound);
        assert_eq!(call("no-route").await, away(1));
        assert_eq!(call("busy").await, away(7));
        assert_eq!(call("forever").await, away(60));
        assert_eq!(call("text").await, away(1));
        assert_eq!(call("slow").await, away(1));
    }

    #[tokio::test]
    async fn what_is_posted_arrives_and_what_is_not_taken_says_why() {
        let problem =
            json!({"detail": "that is no", "errors": [{"field": "input.amount", "message": "is missing"}]});
        let problem = (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(problem));
        let taken = async |headers: HeaderMap, axum::Json(body): axum::Json<Value>| {
            let is_whole = headers["idempotency-key"] == "7" && body == json!({"a": 1});
            if is_whole {
                StatusCode::CREATED
            } else {
                StatusCode::BAD_REQUEST
            }
        };
        let routes = Router::new()
            .route("/orders", axum::routing::post(taken))
            .route("/refused", axum::routing::post(async move || problem))
            .route("/proxy", axum::routing::post(async || [(MADE_BY_PROXY, "proxy")]));
        let client = client(routes).await;
        let post = async |path: &str| {
            let headers =
                HeaderMap::from_iter([("idempotency-key".parse().unwrap(), HeaderValue::from_static("7"))]);
            client.post(&[path], headers, Bytes::from(r#"{"a":1}"#)).await
        };
        post("orders").await.unwrap();
        let refused = post("refused").await.unwrap_err().to_string();
        assert!(
            refused.ends_with("status 422 Unprocessable Entity: that is no; input.amount: is missing"),
            "{refused}"
        );
        assert!(
            matches!(post("proxy").await, Err(Error::Status { .. })),
            "a proxy takes nothing"
        );
    }

    #[tokio::test]
    async fn nobody_there_is_unavailable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        drop(listener);
        let client = Client::new("user", base, Duration::from_secs(5));
        assert_eq!(client.get::<Value>(&["users", "ada"]).await, away(1));
    }

    #[test]
    fn a_base_url_is_scheme_and_authority_only() {
        assert_eq!(
            "http://user.mesh:15001".parse::<BaseUrl>().unwrap().to_string(),
            "http://user.mesh:15001"
        );
        assert!("http://user.mesh:15001/".parse::<BaseUrl>().is_ok());
        for bad in [
            "",
            "user.mesh:15001",
            "https://user.mesh",
            "http://user.mesh/api",
            "http://",
        ] {
            assert_eq!(bad.parse::<BaseUrl>(), Err(BaseUrlError), "{bad}");
        }
    }

    #[test]
    fn segments_cannot_leave_their_place() {
        let base: BaseUrl = "http://user.mesh:15001".parse().unwrap();
        assert_eq!(base.join(&["users", "a/b?c"]).unwrap().path(), "/users/a%2Fb%3Fc");
    }
}
