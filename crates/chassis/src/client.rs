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
//! The deadline covers connecting, sending, the response's head and its body. Every call is a client span,
//! child of the span that is current, and carries `traceparent`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as Pooled;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry::context::FutureExt;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use tokio::time;

use crate::trace;

/// Header by which a proxy marks an answer that it made itself, such as a 404 for "no route".
pub const MADE_BY_PROXY: &str = "x-trellis-origin";

/// Header by which the sidecar is told how long an answer is waited for, in milliseconds.
const DEADLINE: &str = "trellis-deadline-ms";

/// Shorter than servers keep idle connections, so that a request never meets one that is being closed.
const POOL_IDLE: Duration = Duration::from_secs(15);
const MAX_BODY: usize = 256 * 1024;
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
    pool: Pooled<HttpConnector, Empty<Bytes>>,
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

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to build the request")]
    Build(#[source] http::Error),
    #[error("failed to get a response")]
    Send(#[source] hyper_util::client::legacy::Error),
    #[error("failed to read the response's body")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("failed to parse the response's body")]
    Parse(#[source] serde_json::Error),
    #[error("failed to get a usable response: status {status}")]
    Status {
        status: StatusCode,
        retry_after: Option<Duration>,
    },
    #[error("failed to get a response within {0:?}")]
    Deadline(Duration),
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
        let tracer = global::tracer("trellis");
        let span = tracer
            .span_builder(format!("GET {}", self.name))
            .with_kind(SpanKind::Client)
            .with_attributes([
                KeyValue::new("http.request.method", "GET"),
                KeyValue::new("server.address", self.base.0.host().to_owned()),
            ])
            .start_with_context(&tracer, &Context::current());
        let cx = Context::current_with_span(span);
        let call = self.call(segments, &cx);
        let result = match time::timeout(self.deadline, call).with_context(cx.clone()).await {
            Ok(result) => result,
            Err(_) => Err(Error::Deadline(self.deadline)),
        };
        let outcome = result.unwrap_or_else(|error| {
            cx.span().set_status(Status::error(error.to_string()));
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
        });
        cx.span().end();
        outcome
    }

    async fn call<T: DeserializeOwned>(&self, segments: &[&str], cx: &Context) -> Result<Outcome<T>, Error> {
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(self.base.join(segments).map_err(Error::Build)?)
            .header(header::ACCEPT, "application/json")
            .header(DEADLINE, told(self.deadline))
            .body(Empty::new())
            .map_err(Error::Build)?;
        trace::inject(cx, request.headers_mut());
        let response = self.pool.request(request).await.map_err(Error::Send)?;
        let (head, body) = response.into_parts();
        cx.span().set_attribute(KeyValue::new(
            "http.response.status_code",
            i64::from(head.status.as_u16()),
        ));
        match head.status {
            StatusCode::OK => {
                let body = Limited::new(body, MAX_BODY)
                    .collect()
                    .await
                    .map_err(Error::Body)?;
                serde_json::from_slice(&body.to_bytes())
                    .map(Outcome::Found)
                    .map_err(Error::Parse)
            }
            StatusCode::NOT_FOUND if !head.headers.contains_key(MADE_BY_PROXY) => Ok(Outcome::NotFound),
            status => Err(Error::Status {
                status,
                retry_after: retry_after(&head.headers),
            }),
        }
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
