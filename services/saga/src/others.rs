//! Other replicas: what is theirs, they are asked for, by REST and once.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time;
use trellis_saga_api::runs::{Intervention, ON_BEHALF_OF};
use trellis_saga_engine::store::Replica;

use crate::error::Error;

/// Marks a request that another replica has passed on: it is passed on once.
pub const FORWARDED: HeaderName = HeaderName::from_static("trellis-saga-forwarded");

/// Longest wait for another replica.
const ELSEWHERE: Duration = Duration::from_secs(10);
/// Largest answer of another replica.
const MAX_BODY: usize = 1024 * 1024;

/// Asks other replicas.
#[derive(Clone)]
pub struct Others(Client<HttpConnector, Full<Bytes>>);

/// What another replica says.
pub struct Answer {
    /// Whether it was done.
    pub status: StatusCode,
    content_type: HeaderValue,
    /// A run, or a problem document.
    pub body: Bytes,
}

impl Default for Others {
    fn default() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }
}

impl Others {
    /// Has the replica do it that looks after the run. It asks anew whether the caller may.
    pub async fn post(
        &self,
        replica: &Replica,
        path: &str,
        headers: &HeaderMap,
        body: &Intervention,
    ) -> Result<Answer, Error> {
        let elsewhere = |error: &dyn std::error::Error| Error::Elsewhere(error.to_string());
        let text = serde_json::to_vec(body).map_err(|error| elsewhere(&error))?;
        let mut request = Request::post(format!("{}{path}", replica.address))
            .header(header::CONTENT_TYPE, "application/json")
            .header(FORWARDED, HeaderValue::from_static("true"))
            .body(Full::new(Bytes::from(text)))
            .map_err(|error| elsewhere(&error))?;
        for name in [header::AUTHORIZATION, HeaderName::from_static(ON_BEHALF_OF)] {
            if let Some(value) = headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        let ask = async {
            let response = self.0.request(request).await.map_err(|error| elsewhere(&error))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await;
            let body = body
                .map_err(|error| Error::Elsewhere(error.to_string()))?
                .to_bytes();
            let content_type = parts.headers.get(header::CONTENT_TYPE).cloned();
            Ok(Answer {
                status: parts.status,
                content_type: content_type.unwrap_or(HeaderValue::from_static("application/json")),
                body,
            })
        };
        time::timeout(ELSEWHERE, ask)
            .await
            .unwrap_or_else(|_| Err(Error::Elsewhere("no answer in time".to_owned())))
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let Self {
            status,
            content_type,
            body,
        } = self;
        (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
    }
}
