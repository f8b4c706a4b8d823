//! The innermost service: sends a request to an endpoint of its cluster.
//!
//! A request that was certainly not acted on goes to another endpoint, whatever its method:
//!
//! - it could not be sent at all, or its server promised not to look at it ([`crate::pool`]);
//! - the proxy at the other end says that it could not hand it to its app (an answer of its own, marked by
//!   [`ORIGIN`](crate::failure::ORIGIN), which no app can forge because proxies remove it from what apps answer).
//!
//! A safe request whose connection was closed without a byte of response is sent again too. Everything else that fails
//! is answered to the caller; trying again what may have been done is a decision of policy, not of the transport.

use std::{
    error::Error as _,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use http::{
    HeaderMap, HeaderValue, Version,
    header::{CONNECTION, CONTENT_TYPE, UPGRADE},
    request::Parts,
};
use http_body::Body as _;
use tower::Service;

use crate::{
    body::{Body, Request, Response},
    cluster::Cluster,
    connect,
    endpoint::Endpoint,
    failure::{self, Failure, Reason},
    hygiene::WantsWebSocket,
    load::Claim,
    pool::{Cause, SendError},
    replay::Replay,
    target::{Target, Upstream},
    trace::Trace,
    upgrade,
};

/// Most tries of one request. With the connect timeout of one second this bounds the wait as well.
const MAX_TRIES: usize = 5;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forward;

/// What became of a try.
enum Tried {
    Answered(Response),
    /// The request was not acted on; here is its body.
    Again(Failure, Body, Standing),
    /// It may have been.
    Failed(Failure),
}

/// Whether an endpoint may be asked again for the same request.
#[derive(PartialEq, Eq)]
enum Standing {
    /// If there is no other.
    There,
    /// No.
    Away,
}

impl Service<Request> for Forward {
    type Response = Response;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let target = request.extensions_mut().remove::<Target>();
        Box::pin(async move {
            let Some(target) = target else {
                return Err(Failure::new(Reason::NoRoute, "the request has no target"));
            };
            let route = target.route?;
            forward(&route.cluster, request).await
        })
    }
}

/// Whether a request is gRPC, by its content type (not gRPC-Web, which is HTTP to a proxy).
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type
        .and_then(|value| value.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

async fn forward(cluster: &Cluster, mut request: Request) -> Result<Response, Failure> {
    if !cluster.protocol().is_http2() && is_grpc(request.headers()) {
        let detail = format!(
            "{} speaks HTTP/1.1, which cannot carry gRPC; set the port's protocol to GRPC if the service speaks it",
            cluster.name
        );
        return Err(Failure::new(Reason::GrpcToHttp1, detail));
    }
    let switching = upgrade::prepare(&mut request);
    let request = outgoing(request);
    let (mut response, address) = send(cluster, request).await?;
    upgrade::connect(switching, &mut response);
    response.extensions_mut().insert(Upstream(address));
    Ok(response)
}

/// The request as the next hop gets it. Its extensions belong to the hop before and stay here.
fn outgoing(request: Request) -> Request {
    let websocket = request.extensions().get::<WantsWebSocket>().is_some();
    let (mut head, body) = request.into_parts();
    let trace = head.extensions.get::<Trace>();
    if let Some(trace) = trace {
        trace.inject(&mut head.headers);
    }
    if websocket {
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers
            .insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = head.headers;
    request
}

async fn send(cluster: &Cluster, request: Request) -> Result<(Response, SocketAddr), Failure> {
    cluster.known().await;
    let (head, mut body) = request.into_parts();
    // Asked before, and of these: those that surely cannot take the request.
    let (mut asked, mut away) = (Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..MAX_TRIES {
        let Some(endpoint) = cluster.choose(&asked).or_else(|| cluster.choose(&away)) else {
            break;
        };
        let address = endpoint.address;
        match attempt(cluster, &endpoint, &head, body, &asked).await {
            Tried::Answered(response) => return Ok((response, address)),
            Tried::Failed(failure) => return Err(failure),
            Tried::Again(failure, again, standing) => {
                let reason = failure.reason.as_str();
                tracing::debug!(cluster = %cluster.name, upstream = %address, reason, "sent again");
                asked.push(address);
                if standing == Standing::Away {
                    away.push(address);
                }
                body = again;
                last = Some(failure);
            }
        }
    }
    Err(last.unwrap_or_else(|| {
        let detail = format!("{} has no ready endpoint", cluster.name);
        Failure::new(Reason::NoEndpoints, detail)
    }))
}

/// Sends a request to one endpoint; those `asked` were tried before.
async fn attempt(
    cluster: &Cluster,
    endpoint: &Endpoint,
    head: &Parts,
    body: Body,
    asked: &[SocketAddr],
) -> Tried {
    let address = endpoint.address;
    let has_other = || cluster.has_other_than(asked, address);
    let claim = endpoint.claim();
    let safe = head.method.is_safe() && body.is_end_stream();
    let (body, replay) = Replay::new(body);
    let (failure, standing) = match endpoint.send(copy(head, body)).await {
        // If it cannot go elsewhere, what the other proxy says is the best answer there is.
        Ok(response) if failure::is_undelivered(response.headers()) && has_other() => {
            match replay.recover() {
                Some(again) => return Tried::Again(undelivered(cluster, address), again, Standing::Away),
                None => return Tried::Answered(claimed(response, claim)),
            }
        }
        Ok(response) => return Tried::Answered(claimed(response, claim)),
        Err(SendError::Unsent(request, cause)) => {
            drop(request);
            (broken(cluster, address, &cause), Standing::Away)
        }
        Err(SendError::Unprocessed(cause)) => (broken(cluster, address, &cause), Standing::There),
        Err(SendError::Closed(cause)) if safe => (broken(cluster, address, &cause), Standing::There),
        Err(SendError::Closed(cause) | SendError::Broken(cause)) => {
            return Tried::Failed(broken(cluster, address, &cause));
        }
    };
    match replay.recover() {
        Some(again) => Tried::Again(failure, again, standing),
        None => Tried::Failed(failure),
    }
}

/// A try of the request. The head may be needed again.
fn copy(head: &Parts, body: Body) -> Request {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers.clone();
    request
}

/// The endpoint counts as busy until the response's body is gone.
fn claimed(response: Response, claim: Claim) -> Response {
    response.map(|body| body.holding(claim))
}

fn undelivered(cluster: &Cluster, address: SocketAddr) -> Failure {
    let detail = format!(
        "the proxy of {} at {address} could not reach its app",
        cluster.name
    );
    let mut failure = Failure::new(Reason::ConnectFailed, detail);
    failure.upstream = Some(address);
    failure
}

fn broken(cluster: &Cluster, address: SocketAddr, cause: &Cause) -> Failure {
    let name = &cluster.name;
    let (reason, what) = match cause {
        Cause::Connect(connect::Error::Io { source, .. }) => (
            Reason::ConnectFailed,
            format!("no endpoint of {name} took the connection: {source}"),
        ),
        Cause::Connect(connect::Error::NotHttp2(_)) => (
            Reason::ConnectFailed,
            format!("{name} does not speak HTTP/2; set the port's protocol to HTTP if that is so"),
        ),
        Cause::Connect(connect::Error::Timeout(_)) => (
            Reason::ConnectTimeout,
            format!("no endpoint of {name} took the connection in time"),
        ),
        // The only "user" is the body that came from the caller.
        Cause::Exchange(error) if error.is_user() || error.is_body_write_aborted() => {
            (Reason::CallerAborted, "the request's body ended early".to_owned())
        }
        Cause::Exchange(error) => {
            let why = error
                .source()
                .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
            (Reason::UpstreamClosed, format!("{name} did not answer: {why}"))
        }
    };
    let mut failure = Failure::new(reason, what);
    failure.upstream = Some(address);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (content_type, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(is_grpc(&headers), grpc, "{content_type}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
