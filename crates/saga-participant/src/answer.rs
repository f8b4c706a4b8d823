//! What a participant answers: a status and a body, nothing that could not be stored and given again.

use axum::body::{Bytes, to_bytes};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;
use trellis_chassis::problem::{MEDIA_TYPE, Problem};

/// An answer that is stored. Its media type follows from its status: JSON, or a problem document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    /// A 200.
    ///
    /// # Errors
    /// If `body` has no form in JSON.
    pub fn ok(body: &impl Serialize) -> Result<Self, sqlx::Error> {
        Self::json(StatusCode::OK, body)
    }

    /// A 201.
    ///
    /// # Errors
    /// If `body` has no form in JSON.
    pub fn created(body: &impl Serialize) -> Result<Self, sqlx::Error> {
        Self::json(StatusCode::CREATED, body)
    }

    /// A 204.
    pub fn no_content() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            body: Bytes::new(),
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body, byte by byte as it was sent first.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    pub(crate) async fn refusal(problem: Problem) -> Result<Self, sqlx::Error> {
        let (head, body) = problem.into_response().into_parts();
        let body = to_bytes(body, usize::MAX)
            .await
            .map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        Ok(Self {
            status: head.status,
            body,
        })
    }

    pub(crate) fn stored(status: i32, body: Vec<u8>) -> Result<Self, sqlx::Error> {
        let status = u16::try_from(status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok());
        Ok(Self {
            status: status.ok_or_else(|| sqlx::Error::Decode("a status out of range".into()))?,
            body: body.into(),
        })
    }

    fn json(status: StatusCode, body: &impl Serialize) -> Result<Self, sqlx::Error> {
        let body = serde_json::to_vec(body).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        Ok(Self {
            status,
            body: body.into(),
        })
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        if self.body.is_empty() {
            return self.status.into_response();
        }
        let media_type = if self.status.is_success() {
            "application/json"
        } else {
            MEDIA_TYPE
        };
        (self.status, [(header::CONTENT_TYPE, media_type)], self.body).into_response()
    }
}
