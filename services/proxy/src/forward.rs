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
    future::{Future, ready},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::TryFutureExt as _;
use http::{
    HeaderValue, Version,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};
use http_body::Body as _;
use tower::Service;
use trellis_resilience::{
    breaker::layer::{Permit, Probe},
    deadline::{Call, TryEnd},
    outcome::Verdict,
    retry::replay::{LIMIT, Replay},
};

use crate::{
    body::{Body, Request, Response},
    cluster::Cluster,
    connect,
    endpoint::Endpoint,
    failure::{self, Failure, Reason},
    hygiene::WantsWebSocket,
    load::Claim,
    policies,
    pool::{Cause, SendError},
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

    fn call(&mut self, request: Request) -> Self::Future {
        forward(request).unwrap_or_else(|failure| Box::pin(ready(Err(failure))))
    }
}

/// Each request holds its futures until it is answered, so they are kept small: an argument of an `async fn` is there twice.
fn forward(mut request: Request) -> Result<<Forward as Service<Request>>::Future, Failure> {
    let target = request.extensions_mut().remove::<Target>();
    let target = target.ok_or_else(|| Failure::new(Reason::NoRoute, "the request has no target"))?;
    let route = target.route?;
    let cluster = &route.cluster;
    if !cluster.protocol().is_http2() && Call::of(request.headers()) == Call::Grpc {
        let detail = format!(
            "{} speaks HTTP/1.1, which cannot carry gRPC; set the port's protocol to GRPC if the service speaks it",
            cluster.name
        );
        return Err(Failure::new(Reason::GrpcToHttp1, detail));
    }
    let switching = upgrade::prepare(&mut request);
    let request = outgoing(request);
    let connected = |mut response| {
        upgrade::connect(switching, &mut response);
        response
    };
    Ok(match cluster.policies() {
        Some(policies) => Box::pin(policies.send(cluster, request).map_ok(connected)),
        None => Box::pin(send(Arc::clone(cluster), request).map_ok(connected)),
    })
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

/// One try as policies count them: to an endpoint, and to others for as long as nobody has acted on it.
pub(crate) fn send(
    cluster: Arc<Cluster>,
    request: Request,
) -> impl Future<Output = Result<Response, Failure>> + Send {
    let (head, body) = request.into_parts();
    async move {
        if !cluster.is_known() {
            Box::pin(cluster.known()).await;
        }
        balance(&cluster, &head, body).await
    }
}

async fn balance(cluster: &Cluster, head: &Parts, mut body: Body) -> Result<Response, Failure> {
    // Asked before, and of these: those that surely cannot take the request.
    let (mut asked, mut away) = (Vec::new(), Vec::new());
    let (mut last, mut tries) = (None, 0);
    // What decides whether a circuit breaker closes goes to one place.
    let most = match head.extensions.get::<Probe>() {
        Some(Probe) => 1,
        None => MAX_TRIES,
    };
    while tries < most {
        let Some(endpoint) = cluster.choose(&asked).or_else(|| cluster.choose(&away)) else {
            break;
        };
        let address = endpoint.address;
        let permit = match endpoint.permit(&head.extensions) {
            Ok(permit) => permit,
            Err(refused) => {
                asked.push(address);
                away.push(address);
                last.get_or_insert_with(|| Failure::from(refused));
                continue;
            }
        };
        tries += 1;
        match attempt(cluster, &endpoint, head, body, &asked, permit).await {
            Tried::Answered(mut response) => {
                response.extensions_mut().insert(Upstream(address));
                return Ok(response);
            }
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
    permit: Option<Permit>,
) -> Tried {
    let address = endpoint.address;
    let has_other = || cluster.has_other_than(asked, address);
    let claim = endpoint.claim();
    let safe = head.method.is_safe() && body.is_end_stream();
    let (body, replay) = Replay::new(body, LIMIT);
    let sent = endpoint.send(copy(head, body.into())).await;
    if let Some(permit) = permit {
        permit.record(verdict(&sent, head.extensions.get::<TryEnd>().copied()));
    }
    let (failure, standing) = match sent {
        // If it cannot go elsewhere, what the other proxy says is the best answer there is.
        Ok(response) if failure::is_undelivered(response.headers()) && has_other() => {
            if replay.is_repeatable() {
                let failure = undelivered(cluster, address);
                return Tried::Again(failure, replay.again().into(), Standing::Away);
            }
            return Tried::Answered(claimed(response, claim));
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
    if replay.is_repeatable() {
        Tried::Again(failure, replay.again().into(), standing)
    } else {
        Tried::Failed(failure)
    }
}

/// What an endpoint's answer says about it.
fn verdict(sent: &Result<Response, SendError>, end: Option<TryEnd>) -> Verdict {
    match sent {
        Ok(response) => TryEnd::judge(end, &policies::outcome(Ok(response))),
        Err(SendError::Broken(Cause::Exchange(error))) if is_of_caller(error) => Verdict::Unknown,
        Err(SendError::Unsent(_, Cause::Connect(_)) | SendError::Broken(_)) => Verdict::Failure,
        // It was just leaving, or closed a connection that had been idle.
        Err(SendError::Unsent(_, Cause::Exchange(_)) | SendError::Unprocessed(_) | SendError::Closed(_)) => {
            Verdict::Unknown
        }
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

/// The only "user" is the body that came from the caller.
fn is_of_caller(error: &hyper::Error) -> bool {
    error.is_user() || error.is_body_write_aborted()
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
        Cause::Exchange(error) if is_of_caller(error) => {
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
