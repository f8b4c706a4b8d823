//! The fallback: what is answered instead of a failure.
//!
//! The outermost policy, so that it sees what all others make of a request: a deadline that passed, an open breaker, a full
//! bulkhead, retries that did not help. It answers with a fixed response or asks another service.
//!
//! **What it does not protect against**: an answer that is out of date or empty and taken for the truth (say by its status
//! or body that it is a fallback), effects of a request that was acted on although its answer was lost, and trouble of the
//! other service: its own answer is the answer, there is no fallback of a fallback.

#[cfg(feature = "tower")]
pub mod layer;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize};

use crate::{
    outcome::{GrpcCode, Outcome},
    wire,
};

/// When, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings<Service> {
    /// Outcomes that are answered. Default: whatever comes without an answer, 502, 503 and 504.
    pub on: Vec<Condition>,
    /// What is answered.
    pub with: Otherwise<Service>,
}

/// An outcome that is answered by the fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// A policy refused it: breaker, bulkhead, no endpoint.
    Refused,
    /// The deadline passed.
    Timeout,
    /// No connection, or one that broke.
    ConnectionFailure,
    /// Any status from 500 to 599.
    ServerError,
    /// This status.
    Status(#[serde(with = "wire::status")] StatusCode),
    /// This code of gRPC.
    Grpc(GrpcCode),
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Otherwise<Service> {
    /// Always the same.
    Static(StaticAnswer),
    /// What this service answers.
    Service(Service),
}

/// A response that is always the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its `content-type`.
    pub content_type: HeaderValue,
    /// Its body.
    pub body: Bytes,
    /// What else its head says.
    pub headers: HeaderMap,
}

impl<Service> Settings<Service> {
    /// Answers what the default conditions cover.
    pub fn new(with: Otherwise<Service>) -> Self {
        let on = Condition::DEFAULT.to_vec();
        Self { on, with }
    }

    /// Whether the fallback answers.
    #[must_use]
    pub fn answers(&self, outcome: &Outcome) -> bool {
        self.on.iter().any(|condition| condition.covers(outcome))
    }
}

impl StaticAnswer {
    /// The response.
    #[must_use]
    pub fn response<B: From<Bytes>>(&self) -> Response<B> {
        let mut response = Response::new(B::from(self.body.clone()));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response
            .headers_mut()
            .insert(CONTENT_TYPE, self.content_type.clone());
        response
    }
}

impl Condition {
    /// Whatever comes without an answer, 502, 503 and 504.
    pub const DEFAULT: [Self; 6] = [
        Self::Refused,
        Self::Timeout,
        Self::ConnectionFailure,
        Self::Status(StatusCode::BAD_GATEWAY),
        Self::Status(StatusCode::SERVICE_UNAVAILABLE),
        Self::Status(StatusCode::GATEWAY_TIMEOUT),
    ];

    fn covers(self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Self::Refused, Outcome::Refused(_))
            | (Self::Timeout, Outcome::Timeout)
            | (Self::ConnectionFailure, Outcome::ConnectFailed | Outcome::Broken) => true,
            (Self::ServerError, Outcome::Answered(answer)) => answer.status.is_server_error(),
            (Self::Status(status), Outcome::Answered(answer)) => answer.status == status,
            (Self::Grpc(code), Outcome::Answered(answer)) => answer.grpc == Some(code),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Answer, Refusal};

    fn answered(status: u16) -> Outcome {
        Outcome::Answered(Answer {
            status: StatusCode::from_u16(status).unwrap(),
            grpc: None,
            pushback: None,
        })
    }

    fn fixed() -> Settings<()> {
        Settings::new(Otherwise::Static(StaticAnswer {
            status: StatusCode::OK,
            content_type: HeaderValue::from_static("application/json"),
            body: Bytes::from_static(b"[]"),
            headers: HeaderMap::new(),
        }))
    }

    #[test]
    fn by_default_it_answers_what_came_without_an_answer_and_what_gateways_say() {
        let settings = fixed();
        for refusal in [Refusal::BreakerOpen, Refusal::BulkheadFull, Refusal::NoEndpoints] {
            assert!(settings.answers(&Outcome::Refused(refusal)));
        }
        for outcome in [Outcome::Timeout, Outcome::ConnectFailed, Outcome::Broken] {
            assert!(settings.answers(&outcome), "{outcome:?}");
        }
        for (status, answers) in [
            (200, false),
            (404, false),
            (500, false),
            (502, true),
            (503, true),
            (504, true),
        ] {
            assert_eq!(settings.answers(&answered(status)), answers, "{status}");
        }
    }

    #[test]
    fn conditions_that_are_named_are_the_only_ones() {
        let settings = Settings {
            on: vec![Condition::ServerError],
            ..fixed()
        };
        assert!(settings.answers(&answered(500)));
        assert!(!settings.answers(&Outcome::Timeout));
        assert!(!settings.answers(&answered(429)));
    }

    #[test]
    fn a_static_answer_has_its_status_type_and_body() {
        let Otherwise::Static(answer) = fixed().with else {
            panic!("static");
        };
        let response: Response<Bytes> = answer.response();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(response.body(), "[]");
    }
}
