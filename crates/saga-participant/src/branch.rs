//! Which call of which saga a request is: the headers that the engine sets.
//!
//! `Option<Branch>` is `None` for a request that comes from no saga. A lone `Idempotency-Key` is nothing of a
//! saga's: other clients send one too. Some of the headers are worse than none: the request would be done
//! without the barrier, and again when it is repeated; so they are a 400.

use std::str::FromStr;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;
use trellis_chassis::problem::MEDIA_TYPE;

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const RUN: &str = "trellis-saga-run";
const STEP: &str = "trellis-saga-step";
const INDEX: &str = "trellis-saga-index";
const OP: &str = "trellis-saga-op";
const INCARNATION: &str = "trellis-saga-incarnation";
const ATTEMPT: &str = "trellis-saga-attempt";
const EPOCH: &str = "trellis-saga-epoch";
const OF_SAGAS: [&str; 7] = [RUN, STEP, INDEX, OP, INCARNATION, ATTEMPT, EPOCH];

/// Enough for every name of the engine, and little for an index of the database.
const MAX_TEXT: usize = 256;
const A_TEXT: &str = "1 to 256 visible characters";
const A_NUMBER: &str = "a whole number from 0";

/// One call of a saga. Run, step, index, op and incarnation tell it from every other call; the rest is of the
/// single try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    run: String,
    step: String,
    index: u32,
    op: Op,
    incarnation: u32,
    attempt: u32,
    epoch: u64,
    idempotency_key: String,
}

/// The way that a saga goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Forward.
    Action,
    /// Back.
    Compensation,
}

/// Why the headers name no branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is not there, but others are.
    #[error(
        "the header {0} is missing; send idempotency-key and every trellis-saga-* header, as the saga engine does, or no trellis-saga-* header"
    )]
    Missing(&'static str),
    /// It is there, but says nothing.
    #[error("the header {header} is not readable; send {expected}, as the saga engine does")]
    Malformed {
        /// The header.
        header: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

impl Branch {
    /// Name of the run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Name of the step.
    pub fn step(&self) -> &str {
        &self.step
    }

    /// Which element of a `forEach`; 0 for other steps.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Forward or back.
    pub fn op(&self) -> Op {
        self.op
    }

    /// How often an operator had the step done anew.
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Number of the try.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Of the engine's replica; grows whenever another takes over the run.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// For a call to somebody with an idempotency of their own.
    pub fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    /// `None` for a request that comes from no saga.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, HeaderError> {
        let of_a_saga = OF_SAGAS.iter().any(|header| headers.contains_key(*header));
        of_a_saga.then(|| Self::read(headers)).transpose()
    }

    fn read(headers: &HeaderMap) -> Result<Self, HeaderError> {
        Ok(Self {
            run: text(headers, RUN)?.to_owned(),
            step: text(headers, STEP)?.to_owned(),
            index: number(headers, INDEX)?,
            op: match text(headers, OP)? {
                "action" => Op::Action,
                "compensation" => Op::Compensation,
                _ => return Err(malformed(OP, "action or compensation")),
            },
            incarnation: number(headers, INCARNATION)?,
            attempt: number(headers, ATTEMPT)?,
            epoch: number(headers, EPOCH)?,
            idempotency_key: text(headers, IDEMPOTENCY_KEY)?.to_owned(),
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Branch {
    type Rejection = HeaderError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, HeaderError> {
        Self::read(&parts.headers)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Branch {
    type Rejection = HeaderError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, HeaderError> {
        Self::of(&parts.headers)
    }
}

impl IntoResponse for HeaderError {
    fn into_response(self) -> Response {
        let document = json!({
            "type": "urn:trellis:problem:saga-headers",
            "title": "The headers of a saga's request are not complete",
            "status": StatusCode::BAD_REQUEST.as_u16(),
            "detail": self.to_string(),
        });
        let media_type = [(header::CONTENT_TYPE, MEDIA_TYPE)];
        (StatusCode::BAD_REQUEST, media_type, document.to_string()).into_response()
    }
}

fn text<'a>(headers: &'a HeaderMap, header: &'static str) -> Result<&'a str, HeaderError> {
    let value = headers.get(header).ok_or(HeaderError::Missing(header))?;
    value
        .to_str()
        .ok()
        .filter(|text| (1..=MAX_TEXT).contains(&text.len()))
        .ok_or_else(|| malformed(header, A_TEXT))
}

fn number<T: FromStr>(headers: &HeaderMap, header: &'static str) -> Result<T, HeaderError> {
    text(headers, header)?
        .parse()
        .map_err(|_| malformed(header, A_NUMBER))
}

fn malformed(header: &'static str, expected: &'static str) -> HeaderError {
    HeaderError::Malformed { header, expected }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use http::Request;
    use serde_json::Value;

    use super::*;

    const ALL: [(&str, &str); 8] = [
        (IDEMPOTENCY_KEY, "r1/pay/2/action/0"),
        (RUN, "r1"),
        (STEP, "pay"),
        (INDEX, "2"),
        (OP, "action"),
        (INCARNATION, "0"),
        (ATTEMPT, "3"),
        (EPOCH, "9"),
    ];

    async fn extract(headers: &[(&str, &str)]) -> Result<Option<Branch>, HeaderError> {
        let request = headers.iter().fold(Request::post("/"), |request, (name, value)| {
            request.header(*name, *value)
        });
        let mut parts = request.body(()).unwrap().into_parts().0;
        Option::<Branch>::from_request_parts(&mut parts, &()).await
    }

    #[tokio::test]
    async fn the_headers_of_the_engine_name_a_branch() {
        let branch = extract(&ALL).await.unwrap().unwrap();
        assert_eq!(
            (branch.run(), branch.step(), branch.index(), branch.op()),
            ("r1", "pay", 2, Op::Action)
        );
        assert_eq!(
            (branch.incarnation(), branch.attempt(), branch.epoch()),
            (0, 3, 9)
        );
        assert_eq!(branch.idempotency_key(), "r1/pay/2/action/0");
    }

    #[tokio::test]
    async fn a_request_without_them_comes_from_no_saga() {
        assert_eq!(extract(&[]).await, Ok(None));
        assert_eq!(extract(&ALL[..1]).await, Ok(None), "a key of its own");
    }

    #[tokio::test]
    async fn some_of_the_headers_name_the_one_that_is_missing() {
        for missing in 0..ALL.len() {
            let mut some = ALL.to_vec();
            let (header, _) = some.remove(missing);
            assert_eq!(extract(&some).await, Err(HeaderError::Missing(header)));
        }
    }

    #[tokio::test]
    async fn a_header_that_says_nothing_is_named_with_the_fix() {
        for (header, value, expected) in [
            (RUN, "", A_TEXT),
            (STEP, &*"x".repeat(257), A_TEXT),
            (INDEX, "-1", A_NUMBER),
            (INDEX, "4294967296", A_NUMBER),
            (OP, "undo", "action or compensation"),
            (EPOCH, "new", A_NUMBER),
        ] {
            let mut headers = ALL.to_vec();
            headers.retain(|(name, _)| *name != header);
            headers.push((header, value));
            let fault = extract(&headers).await.unwrap_err();
            assert_eq!(fault, HeaderError::Malformed { header, expected }, "{value}");
        }
    }

    #[tokio::test]
    async fn a_fault_is_a_400_problem_with_the_fix() {
        let response = HeaderError::Missing(INDEX).into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()["content-type"], MEDIA_TYPE);
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let document: Value = serde_json::from_slice(&body).unwrap();
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains("trellis-saga-index is missing; send"), "{detail}");
    }
}
