//! Requests as a user's client makes them, and through the API server's proxy where there is no address of our own.

use anyhow::{Context as _, Result};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, as JSON if it is.
    pub body: Value,
}

/// Sends one request on a connection of its own pool; never retries.
///
/// # Errors
/// If no answer came.
pub async fn send(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Result<Answer> {
    let client: Client<HttpConnector, Full<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::builder().method(method).uri(url);
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = body.map_or_else(Vec::new, |value| value.to_string().into_bytes());
    let response = client
        .request(request.body(Full::new(body.into()))?)
        .await
        .with_context(|| format!("no answer from {url}"))?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    let body =
        serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into());
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    })
}

/// GET.
///
/// # Errors
/// If no answer came.
pub async fn get(url: &str) -> Result<Answer> {
    send(Method::GET, url, &[], None).await
}

/// POST of JSON.
///
/// # Errors
/// If no answer came.
pub async fn post(url: &str, body: &Value) -> Result<Answer> {
    post_with(url, body, &[]).await
}

/// POST of JSON with headers.
///
/// # Errors
/// If no answer came.
pub async fn post_with(url: &str, body: &Value, headers: &[(&str, &str)]) -> Result<Answer> {
    send(Method::POST, url, headers, Some(body)).await
}

/// PUT of JSON to a Service's path through the API server.
///
/// # Errors
/// If the answer is no success.
pub async fn put_through_api_server(
    client: &kube::Client,
    namespace: &str,
    service: &str,
    path: &str,
    body: &Value,
) -> Result<Value> {
    let url = format!("/api/v1/namespaces/{namespace}/services/{service}/proxy{path}");
    let request = Request::put(url)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())?;
    Ok(serde_json::from_str(&client.request_text(request).await?)?)
}

/// GET of a Service's path through the API server, which needs no address of the Service outside the cluster.
///
/// # Errors
/// If the answer is no success.
pub async fn get_through_api_server(
    client: &kube::Client,
    namespace: &str,
    service: &str,
    path: &str,
) -> Result<Value> {
    let url = format!("/api/v1/namespaces/{namespace}/services/{service}/proxy{path}");
    let text = client.request_text(Request::get(url).body(Vec::new())?).await?;
    Ok(serde_json::from_str(&text).unwrap_or_else(|_| text.into()))
}
