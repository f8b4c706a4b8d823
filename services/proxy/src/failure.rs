//! Answers that the proxy makes itself.
//!
//! Each says three things: what happened, that this proxy said it (`x-trellis-origin: proxy`), and why in one word that
//! machines may match (`x-trellis-reason`). Callers of plain HTTP get RFC 9457 problem details. Callers of gRPC get a
//! trailers-only response, because their libraries read `grpc-status` and turn any other body into "unknown error".

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
};
use serde::Serialize;
use trellis_resilience::{
    breaker::Phase,
    retry::{layer::Attempt, pushback::GRPC_PUSHBACK},
};

use crate::body::{Body, Response};

/// Header that marks a response made by a proxy rather than by a service.
pub(crate) const ORIGIN: HeaderName = HeaderName::from_static("x-trellis-origin");
/// Header with the reason of such a response.
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-trellis-reason");

/// gRPC's status, in a trailer or, of an answer without a message, in the head.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Why a request was not answered by its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// No service has this host or path.
    NoRoute,
    /// The path is served, but not for this method.
    MethodNotAllowed,
    /// The request's head contradicts itself or cannot be forwarded.
    BadRequest,
    /// The path can be read in two ways.
    AmbiguousPath,
    /// More header fields or bytes than are let through.
    HeadersTooLarge,
    /// The target is longer than is let through.
    UriTooLong,
    /// The target has no endpoint now.
    NoEndpoints,
    /// No endpoint could be connected to.
    ConnectFailed,
    /// No endpoint took the connection in time.
    ConnectTimeout,
    /// The connection broke before the response.
    UpstreamClosed,
    /// gRPC was called on a port that speaks HTTP/1.1.
    GrpcToHttp1,
    /// The caller stopped sending.
    CallerAborted,
    /// The circuit breaker of the target is open, or of all its endpoints.
    BreakerOpen,
    /// As many requests to the target as may are under way and waiting.
    BulkheadFull,
    /// No request to the target ended in time to let this one in.
    BulkheadTimeout,
    /// There was no response before the request's deadline.
    DeadlineExceeded,
    /// There was no response before the end of the try.
    TryTimeout,
    /// The fallback of the target answers. No failure: it marks that answer.
    Fallback,
    /// A rate limit has no room for the request.
    RateLimited,
}

/// gRPC status codes that the proxy gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GrpcCode {
    Cancelled = 1,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl Reason {
    /// The word in the header, in logs and in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BadRequest => "bad_request",
            Self::AmbiguousPath => "ambiguous_path",
            Self::HeadersTooLarge => "headers_too_large",
            Self::UriTooLong => "uri_too_long",
            Self::NoEndpoints => "no_endpoints",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamClosed => "upstream_closed",
            Self::GrpcToHttp1 => "grpc_to_http1",
            Self::CallerAborted => "caller_aborted",
            Self::BreakerOpen => "breaker_open",
            Self::BulkheadFull => "bulkhead_full",
            Self::BulkheadTimeout => "bulkhead_timeout",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::TryTimeout => "try_timeout",
            Self::Fallback => "fallback",
            Self::RateLimited => "rate_limited",
        }
    }

    /// The status that a caller of HTTP gets.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest | Self::AmbiguousPath | Self::CallerAborted => StatusCode::BAD_REQUEST,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::NoEndpoints | Self::BreakerOpen | Self::BulkheadFull | Self::BulkheadTimeout => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::ConnectFailed | Self::UpstreamClosed | Self::GrpcToHttp1 => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::DeadlineExceeded | Self::TryTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Fallback => StatusCode::OK,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The code that a caller of gRPC gets: what gRPC clients make of the HTTP status, or better where we know better.
    const fn grpc(self) -> GrpcCode {
        match self {
            Self::NoRoute | Self::MethodNotAllowed | Self::GrpcToHttp1 => GrpcCode::Unimplemented,
            Self::BadRequest | Self::AmbiguousPath | Self::HeadersTooLarge | Self::UriTooLong => {
                GrpcCode::Internal
            }
            Self::NoEndpoints
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::UpstreamClosed
            | Self::BreakerOpen
            | Self::Fallback => GrpcCode::Unavailable,
            Self::BulkheadFull | Self::BulkheadTimeout | Self::RateLimited => GrpcCode::ResourceExhausted,
            Self::DeadlineExceeded | Self::TryTimeout => GrpcCode::DeadlineExceeded,
            Self::CallerAborted => GrpcCode::Cancelled,
        }
    }

    /// Whether the same request may well succeed in a moment.
    const fn is_passing(self) -> bool {
        matches!(
            self,
            Self::NoEndpoints
                | Self::ConnectFailed
                | Self::ConnectTimeout
                | Self::BreakerOpen
                | Self::BulkheadFull
                | Self::BulkheadTimeout
        )
    }
}

/// A request that is not answered by its target.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// The kind of failure.
    pub(crate) reason: Reason,
    /// What, where, and the fix if there is one.
    pub(crate) detail: Cow<'static, str>,
    /// Methods that the path is served for.
    pub(crate) allow: Option<Box<HeaderValue>>,
    /// The endpoint that failed last.
    pub(crate) upstream: Option<SocketAddr>,
    /// When it may be worth to ask again; None: in a second, if at all.
    pub(crate) retry_after: Option<Duration>,
    /// Which try failed last, if not the first.
    pub(crate) again: Option<Attempt>,
    /// What the circuit breaker did when the request came, if it was not closed.
    pub(crate) breaker: Option<Phase>,
    /// How a rate limit refuses.
    pub(crate) refusal: Option<Box<Refusal>>,
}

/// How a rate limit refuses a request.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// None: that of the reason.
    pub(crate) status: Option<StatusCode>,
    /// None: problem details.
    pub(crate) body: Option<String>,
    /// What is left.
    pub(crate) headers: HeaderMap,
}

/// Marks a response made here, for logs and metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MadeHere(pub(crate) Reason);

#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'static str,
}

impl Failure {
    /// A failure of `reason` with its explanation.
    pub(crate) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            allow: None,
            upstream: None,
            retry_after: None,
            again: None,
            breaker: None,
            refusal: None,
        }
    }

    /// The failure, which names the cluster if a policy around the cluster failed.
    pub(crate) fn of(mut self, cluster: &str) -> Self {
        if matches!(
            self.reason,
            Reason::BreakerOpen
                | Reason::BulkheadFull
                | Reason::BulkheadTimeout
                | Reason::DeadlineExceeded
                | Reason::TryTimeout
        ) {
            self.detail = format!("{cluster}: {}", self.detail).into();
        }
        self
    }

    /// The response for a caller of HTTP or of gRPC.
    pub(crate) fn into_response(self, grpc: bool) -> Response {
        let mut of_policies = Extensions::new();
        if let Some(again) = self.again {
            of_policies.insert(again);
        }
        if let Some(breaker) = self.breaker {
            of_policies.insert(breaker);
        }
        // The contract of gRPC on a plain HTTP port is 502 even for a gRPC caller; the status header tells its library.
        let plain = !grpc || self.reason == Reason::GrpcToHttp1;
        let mut response = if plain {
            self.problem()
        } else {
            Response::new(Body::empty())
        };
        let headers = response.headers_mut();
        if grpc {
            headers.insert(GRPC_STATUS, HeaderValue::from(self.reason.grpc() as u16));
            headers.insert("grpc-message", percent_encoded(&self.detail));
        }
        if !plain {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        }
        mark(headers, self.reason);
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, *allow);
        }
        if self.reason.is_passing() || self.retry_after.is_some() {
            let after = self.retry_after.unwrap_or(Duration::from_secs(1));
            let seconds = after.as_secs_f64().ceil() as u64;
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
            if grpc {
                let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                headers.insert(GRPC_PUSHBACK, HeaderValue::from(millis));
            }
        }
        if let Some(refusal) = self.refusal {
            headers.extend(refusal.headers);
            if plain {
                refuse(&mut response, refusal.status, refusal.body);
            }
        }
        let extensions = response.extensions_mut();
        extensions.insert(MadeHere(self.reason));
        extensions.extend(of_policies);
        response
    }

    fn problem(&self) -> Response {
        let status = self.reason.status();
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: &self.detail,
            reason: self.reason.as_str(),
        };
        // Serialising strings and a number into memory does not fail.
        let mut response = Response::new(Body::full(serde_json::to_vec(&problem).unwrap_or_default()));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// Puts status and body there that a policy gives for refusals.
fn refuse(response: &mut Response, status: Option<StatusCode>, body: Option<String>) {
    if let Some(status) = status {
        *response.status_mut() = status;
    }
    if let Some(body) = body {
        *response.body_mut() = Body::full(body);
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
    }
}

/// Marks a response as made by this proxy, and why.
pub(crate) fn mark(headers: &mut HeaderMap, reason: Reason) {
    headers.insert(ORIGIN, HeaderValue::from_static("proxy"));
    headers.insert(REASON, HeaderValue::from_static(reason.as_str()));
}

/// Whether a response was made by a proxy, for this reason.
pub(crate) fn is_marked(headers: &HeaderMap, reason: Reason) -> bool {
    // An answer of an app, which most are, has neither.
    headers.contains_key(ORIGIN) && headers.get(REASON).is_some_and(|it| it == reason.as_str())
}

/// Whether a response is another proxy's word that it could not hand the request to its app at all.
pub(crate) fn is_undelivered(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN)
        && headers
            .get(REASON)
            .is_some_and(|it| it == Reason::ConnectFailed.as_str() || it == Reason::ConnectTimeout.as_str())
}

/// Removes the marks of a proxy's own answers from what an app answered.
pub(crate) fn remove_marks(headers: &mut HeaderMap) {
    headers.remove(ORIGIN);
    headers.remove(REASON);
}

/// `grpc-message` is percent-encoded: everything outside printable ASCII, and `%` itself.
fn percent_encoded(text: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            _ => {
                encoded.push('%');
                encoded.push_str(&format!("{byte:02X}"));
            }
        }
    }
    HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_of_http_gets_a_problem_with_the_reason() {
        let response =
            Failure::new(Reason::NoEndpoints, "shop/user/http has no ready endpoint").into_response(false);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[ORIGIN], "proxy");
        assert_eq!(response.headers()[REASON], "no_endpoints");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }

    #[test]
    fn a_caller_of_grpc_gets_a_status_in_a_trailers_only_response() {
        let response = Failure::new(Reason::ConnectFailed, "100 % refused: über").into_response(true);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "100 %25 refused: %C3%BCber");
    }

    #[test]
    fn grpc_to_a_plain_http_port_is_a_502_that_grpc_libraries_understand_too() {
        let response = Failure::new(Reason::GrpcToHttp1, "port http speaks HTTP/1.1").into_response(true);
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(response.headers()["grpc-status"], "12");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }
}
