//! Error responses as RFC 9457 problem documents.
//!
//! ```json
//! {"type": "urn:trellis:problem:invalid", "title": "The request has invalid fields", "status": 422,
//!  "errors": [{"field": "lines[0].quantity", "message": "must be at least 1"}], "trace_id": "0af7..."}
//! ```
//!
//! `type` is a stable word for programs, `title` the same for every problem of a type, `detail` and `errors`
//! are for the person who reads this one. `trace_id` is an extension member: the one thing that a user can
//! send back to find the log lines of the request.
//!
//! The text of internal errors never gets out; it is logged where the problem is made.

use std::fmt;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use opentelemetry::Context;
use serde::Serialize;

use crate::trace;

/// Media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    detail: Option<String>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
}

/// The type of a problem: decides `type`, `title` and the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 400: the body is not JSON at all.
    Malformed,
    /// 401: it is not known who asks.
    Unauthenticated,
    /// 403: who asks may not.
    Forbidden,
    /// 404: the resource does not exist.
    NotFound,
    /// 404: the service has no such path.
    NoRoute,
    /// 405: the path has no such method.
    MethodNotAllowed,
    /// 409: the request contradicts what is stored.
    Conflict,
    /// 413: the body is larger than the service takes.
    TooLarge,
    /// 415: the body is not declared as JSON.
    UnsupportedMediaType,
    /// 422: the request is understood, but fields of it are not acceptable.
    Invalid,
    /// 429: the service has as much to do as it can.
    Busy,
    /// 500: a fault of the service.
    Internal,
    /// 503: something that the service needs is away; trying again may help.
    Unavailable,
}

/// A fault of one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Path in the body (`lines[0].quantity`) or name of the query parameter.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    type_: &'static str,
    title: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

impl Kind {
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Malformed => (
                StatusCode::BAD_REQUEST,
                "urn:trellis:problem:malformed",
                "The body is not JSON",
            ),
            Self::Unauthenticated => (
                StatusCode::UNAUTHORIZED,
                "urn:trellis:problem:unauthenticated",
                "It is not known who asks",
            ),
            Self::Forbidden => (
                StatusCode::FORBIDDEN,
                "urn:trellis:problem:forbidden",
                "Who asks may not do that",
            ),
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "urn:trellis:problem:not-found",
                "There is no such resource",
            ),
            Self::NoRoute => (
                StatusCode::NOT_FOUND,
                "urn:trellis:problem:no-route",
                "There is no such path",
            ),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "urn:trellis:problem:method-not-allowed",
                "The path has no such method",
            ),
            Self::Conflict => (
                StatusCode::CONFLICT,
                "urn:trellis:problem:conflict",
                "The request contradicts what is stored",
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "urn:trellis:problem:too-large",
                "The body is too large",
            ),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "urn:trellis:problem:unsupported-media-type",
                "The body must be JSON",
            ),
            Self::Invalid => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "urn:trellis:problem:invalid",
                "The request has invalid fields",
            ),
            Self::Busy => (
                StatusCode::TOO_MANY_REQUESTS,
                "urn:trellis:problem:busy",
                "The service has as much to do as it can",
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "urn:trellis:problem:internal",
                "The service failed to answer",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "urn:trellis:problem:unavailable",
                "Something that the service needs is away",
            ),
        }
    }
}

impl Problem {
    /// A problem of `kind`.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            detail: None,
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// A 422 for the given fields.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Self {
            errors,
            ..Self::new(Kind::Invalid)
        }
    }

    /// A 503 that asks to come back after `retry_after`.
    pub fn unavailable(detail: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(Kind::Unavailable).detail(detail)
        }
    }

    /// A 429 that asks to come back after `retry_after`.
    pub fn busy(detail: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(Kind::Busy).detail(detail)
        }
    }

    /// Adds the explanation of this one occurrence.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The status that the response will have.
    pub fn status(&self) -> StatusCode {
        self.kind.parts().0
    }

    /// The faults of single fields.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }
}

impl FieldError {
    /// A fault of `field`.
    pub fn new(field: impl Into<String>, message: impl fmt::Display) -> Self {
        Self {
            field: field.into(),
            message: message.to_string(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, type_, title) = self.kind.parts();
        let document = Document {
            type_,
            title,
            status: status.as_u16(),
            detail: self.detail.as_deref(),
            errors: &self.errors,
            trace_id: Context::map_current(trace::trace_id),
        };
        // Strings and numbers only: this cannot fail, and an empty body is still the right status.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        if let Some(after) = self.retry_after {
            // The header has whole seconds only; 0 would invite a busy loop.
            let seconds = after.as_millis().div_ceil(1000).max(1);
            if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::{Value, json};

    use super::*;

    async fn parts(problem: Problem) -> (http::response::Parts, Value) {
        let (parts, body) = problem.into_response().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (parts, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_validation_problem_names_the_fields() {
        let fault = FieldError::new("lines[0].quantity", "must be at least 1");
        let (parts, body) = parts(Problem::invalid(vec![fault])).await;
        assert_eq!(parts.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(parts.headers["content-type"], MEDIA_TYPE);
        assert_eq!(
            body,
            json!({
                "type": "urn:trellis:problem:invalid",
                "title": "The request has invalid fields",
                "status": 422,
                "errors": [{"field": "lines[0].quantity", "message": "must be at least 1"}],
            })
        );
    }

    #[tokio::test]
    async fn retry_after_is_rounded_up_to_whole_seconds() {
        for (millis, seconds) in [(0, "1"), (999, "1"), (1001, "2")] {
            let problem = Problem::unavailable("the database is away", Duration::from_millis(millis));
            assert_eq!(parts(problem).await.0.headers["retry-after"], seconds);
        }
    }
}
