//! HTTP/2 connections: shared by many requests.
//!
//! One connection carries as many requests as its server allows, at most [`STREAMS`]; another is opened when all are full,
//! so that no request queues behind streams that may last for hours.

mod allowance;

use std::{
    error::Error as _,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Uri, Version, header::HOST, uri};
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::watch, time::timeout};

use super::{Cause, SendError};
use crate::{
    body::{Body, BoxError, Request, Response},
    connect::{self, connect},
};

/// Requests on one connection: no more than our own listeners let through.
const STREAMS: usize = 100;
/// Time for the server's first SETTINGS, which every server sends at once (RFC 9113 3.4).
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);
/// A server that does not answer a ping within [`PING_TIMEOUT`] is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Windows: enough for 1 Gbit/s at 2 ms, and a bound for what one slow reader makes us hold.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Largest header list of a response (RFC 9113 10.5.1).
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// HTTP/2 connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Pool {
    address: SocketAddr,
    shared: Mutex<Shared>,
    /// Held while connecting, so that a burst of requests opens one connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Shared {
    connections: Vec<Connection>,
    closed: bool,
}

#[derive(Debug, Clone)]
struct Connection {
    sender: SendRequest<Body>,
    streams: Arc<AtomicUsize>,
    /// Streams that the server allows.
    allowed: watch::Receiver<usize>,
}

/// A stream in use.
struct Stream(Arc<AtomicUsize>);

/// A response's body; its stream is free again when it is dropped.
struct Reading {
    body: Incoming,
    _stream: Stream,
}

impl Pool {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            shared: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) async fn send(&self, request: Request) -> Result<Response, SendError> {
        let mut request = absolute(request);
        loop {
            let (mut sender, stream, reused) = match self.take() {
                Some((sender, stream)) => (sender, stream, true),
                None => match self.open().await {
                    Ok((sender, stream)) => (sender, stream, false),
                    Err(cause) => return Err(SendError::Unsent(Box::new(request), cause)),
                },
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    return Ok(response.map(|body| {
                        Body::boxed(Reading {
                            body,
                            _stream: stream,
                        })
                    }));
                }
                Err(mut error) => {
                    let unsent = error.take_message();
                    let error = error.into_error();
                    match unsent {
                        Some(unsent) if reused => request = unsent,
                        Some(unsent) => {
                            return Err(SendError::Unsent(Box::new(unsent), Cause::Exchange(error)));
                        }
                        None if is_unprocessed(&error) => {
                            return Err(SendError::Unprocessed(Cause::Exchange(error)));
                        }
                        None => return Err(SendError::Broken(Cause::Exchange(error))),
                    }
                }
            }
        }
    }

    pub(super) fn sweep(&self) {
        self.lock()
            .connections
            .retain(|connection| !connection.sender.is_closed());
    }

    pub(super) fn close(&self) {
        let mut shared = self.lock();
        shared.closed = true;
        // A connection ends when its last stream and its last sender are gone.
        shared.connections = Vec::new();
    }

    fn take(&self) -> Option<(SendRequest<Body>, Stream)> {
        let mut shared = self.lock();
        shared
            .connections
            .retain(|connection| !connection.sender.is_closed());
        let free = shared
            .connections
            .iter()
            .find(|connection| connection.streams.load(Ordering::Relaxed) < *connection.allowed.borrow())?;
        Some((free.sender.clone(), Stream::on(free)))
    }

    async fn open(&self) -> Result<(SendRequest<Body>, Stream), Cause> {
        let _connecting = self.connecting.lock().await;
        if let Some(opened_meanwhile) = self.take() {
            return Ok(opened_meanwhile);
        }
        let connection = self.connect().await?;
        let opened = (connection.sender.clone(), Stream::on(&connection));
        let mut shared = self.lock();
        if !shared.closed {
            shared.connections.push(connection);
        }
        Ok(opened)
    }

    async fn connect(&self) -> Result<Connection, Cause> {
        let stream = connect(self.address).await?;
        let progress = allowance::Progress::default();
        let (sender, task) = http2::Builder::new(progress.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            // None until the server has said how many.
            .initial_max_send_streams(0)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Cause::Exchange)?;
        let (allow, mut allowed) = watch::channel(0);
        tokio::spawn(async move {
            if let Err(error) = allowance::follow(task, progress, STREAMS, allow).await {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "upstream connection ended");
            }
        });
        match timeout(SETTINGS_TIMEOUT, allowed.wait_for(|allowed| *allowed > 0)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(connect::Error::NotHttp2(self.address).into()),
            Err(_) => return Err(connect::Error::Timeout(self.address).into()),
        }
        Ok(Connection {
            sender,
            streams: Arc::default(),
            allowed,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing is left half-changed by a panic under this lock.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    fn on(connection: &Connection) -> Self {
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&connection.streams))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl http_body::Body for Reading {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// HTTP/2 carries the host as `:authority`, which hyper takes from an absolute URI.
fn absolute(mut request: Request) -> Request {
    *request.version_mut() = Version::HTTP_2;
    let Some(host) = request.headers_mut().remove(HOST) else {
        return request;
    };
    let Ok(authority) = uri::Authority::try_from(host.as_bytes()) else {
        return request;
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = Some(authority);
    // Scheme, authority and path are all there, so the parts fit together.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    request
}

/// The server says that it did not and will not act on the request.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let Some(error) = error
        .source()
        .and_then(|source| source.downcast_ref::<h2::Error>())
    else {
        return false;
    };
    error.is_remote()
        && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM) && error.is_reset())
}
