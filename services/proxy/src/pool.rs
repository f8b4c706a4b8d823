//! Connections to one endpoint, kept for the next request.
//!
//! A pool answers one question besides sending: *may the request have been acted on?*
//!
//! | what happened | [`SendError`] |
//! |---|---|
//! | connection refused or timed out | `Unsent` |
//! | closed before the request was taken from the connection's queue | `Unsent`; on a used connection the pool tries a fresh one first |
//! | HTTP/2: stream refused, or above the last one that a GOAWAY promises to process (RFC 9113 6.8, 8.7) | `Unprocessed` |
//! | HTTP/1.1: a used connection closed before a byte of response | `Closed`: probably not, but who knows |
//! | anything else | `Broken` |
//!
//! **Idle HTTP/1.1 connections.** A server may close one just when a request is on its way, and then nobody knows whether
//! the request was acted on. A proxy of ours that leaves says so on every answer for at least
//! [`SURPRISE`](crate::lifecycle::SURPRISE) before it closes idle connections, so a connection that was used more recently
//! than that is safe. A request that must not be sent twice takes only such connections, or a new one.

mod http1;
mod http2;

use std::{net::SocketAddr, time::Duration};

use futures::future::Either;
use trellis_proxy_config::Protocol;

use crate::{
    body::{Request, Response},
    connect,
};

/// How long connections are kept idle in a mesh: shorter than the time after which our own listeners close them.
pub(crate) const MESH_IDLE: Duration = Duration::from_secs(30);
/// How long connections to an app are kept idle: shorter than the keep-alive of servers known for short ones (gunicorn
/// 2 s, Node.js and uvicorn 5 s), so that a request never meets a connection that is just being closed. Connecting over
/// loopback costs next to nothing.
pub(crate) const APP_IDLE: Duration = Duration::from_millis(1500);

/// Connections to one endpoint.
#[derive(Debug)]
pub(crate) enum Pool {
    /// One request at a time on each.
    Http1(http1::Pool),
    /// Many at a time.
    Http2(http2::Pool),
}

/// Why there is no response, by what that means for the request.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Nothing was sent; here is the request.
    Unsent(Box<Request>, Cause),
    /// The server promises that it did not and will not act on the request.
    Unprocessed(Cause),
    /// The connection was closed before a byte of response; a safe request may be sent again (RFC 9110 9.2.2).
    Closed(Cause),
    /// The request may have been acted on.
    Broken(Cause),
}

/// What happened on the wire.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// There was no connection.
    #[error(transparent)]
    Connect(#[from] connect::Error),
    /// The connection broke, or was closed in an orderly way, before the response.
    #[error("failed to get a response")]
    Exchange(#[source] hyper::Error),
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(address: SocketAddr, protocol: Protocol, idle: Duration) -> Self {
        if protocol.is_http2() {
            Self::Http2(http2::Pool::new(address))
        } else {
            Self::Http1(http1::Pool::new(address, idle))
        }
    }

    /// Sends a request and waits for the head of the response.
    pub(crate) fn send(&self, request: Request) -> impl Future<Output = Result<Response, SendError>> + Send {
        match self {
            Self::Http1(pool) => Either::Left(pool.send(request)),
            // The larger of the two: a request over HTTP/1.1 does not make room for it.
            Self::Http2(pool) => Either::Right(Box::pin(pool.send(request))),
        }
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self) {
        match self {
            Self::Http1(pool) => pool.sweep(),
            Self::Http2(pool) => pool.sweep(),
        }
    }

    /// Closes what is idle now, and everything else as soon as it is.
    pub(crate) fn close(&self) {
        match self {
            Self::Http1(pool) => pool.close(),
            Self::Http2(pool) => pool.close(),
        }
    }
}
