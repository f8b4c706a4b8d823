//! HTTP/1.1 connections: taken out for one request, put back when its response has been read.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;

use super::{Cause, SendError};
use crate::{
    body::{Body, BoxError, Request, Response},
    connect::connect,
    lifecycle,
};

/// Most connections kept idle for one endpoint; more are closed after their response.
const MAX_IDLE: usize = 256;
/// Longest idle time of a connection for a request that must not be sent twice: see [`super`]. Less than the time that
/// a leaving proxy tells its callers, because both ends count from slightly different moments.
const UNSAFE_IDLE: Duration = Duration::from_millis(800);
const _: () = assert!(UNSAFE_IDLE.as_millis() < lifecycle::SURPRISE.as_millis());
/// Largest head of a response.
const MAX_HEAD: usize = 64 * 1024;

/// HTTP/1.1 connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Pool {
    address: SocketAddr,
    idle_timeout: Duration,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The one used last is at the end and is used first: the others may fall idle.
    idle: Vec<Idle>,
    closed: bool,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Body>,
    since: Instant,
}

/// A response's body; its connection is free again when it has been read.
struct Reading {
    body: Incoming,
    sender: Option<SendRequest<Body>>,
    shared: Arc<Mutex<Shared>>,
}

impl Pool {
    pub(super) fn new(address: SocketAddr, idle_timeout: Duration) -> Self {
        Self {
            address,
            idle_timeout,
            shared: Arc::default(),
        }
    }

    pub(super) fn send(
        &self,
        mut request: Request,
    ) -> impl Future<Output = Result<Response, SendError>> + Send {
        let safe = request.method().is_safe() && request.body().is_end_stream();
        let longest_idle = if safe {
            self.idle_timeout
        } else {
            self.idle_timeout.min(UNSAFE_IDLE)
        };
        async move {
            loop {
                let (mut sender, reused) = match self.take(longest_idle) {
                    Some(sender) => (sender, true),
                    None => match Box::pin(self.open()).await {
                        Ok(sender) => (sender, false),
                        Err(cause) => return Err(SendError::Unsent(Box::new(request), cause)),
                    },
                };
                match sender.try_send_request(request).await {
                    Ok(response) => return Ok(self.reading(response, sender)),
                    Err(mut error) => {
                        let unsent = error.take_message();
                        let error = error.into_error();
                        match unsent {
                            Some(unsent) if reused => request = unsent,
                            Some(unsent) => {
                                return Err(SendError::Unsent(Box::new(unsent), Cause::Exchange(error)));
                            }
                            None if reused && is_closed_early(&error) => {
                                return Err(SendError::Closed(Cause::Exchange(error)));
                            }
                            None => return Err(SendError::Broken(Cause::Exchange(error))),
                        }
                    }
                }
            }
        }
    }

    pub(super) fn sweep(&self) {
        let timeout = self.idle_timeout;
        lock(&self.shared)
            .idle
            .retain(|idle| idle.since.elapsed() < timeout && !idle.sender.is_closed());
    }

    pub(super) fn close(&self) {
        let mut shared = lock(&self.shared);
        shared.closed = true;
        shared.idle = Vec::new();
    }

    fn take(&self, longest_idle: Duration) -> Option<SendRequest<Body>> {
        let mut shared = lock(&self.shared);
        let now = Instant::now();
        let mut at = shared.idle.len();
        while at > 0 {
            at -= 1;
            let idle = &shared.idle[at];
            let idled = now.saturating_duration_since(idle.since);
            if idle.sender.is_closed() || idled >= self.idle_timeout {
                shared.idle.remove(at);
            } else if idled >= longest_idle {
                // All before it have been idle for longer.
                return None;
            } else if idle.sender.is_ready() {
                return Some(shared.idle.remove(at).sender);
            }
            // Not ready: the end of the body was seen here before the connection's task got round to it.
        }
        None
    }

    async fn open(&self) -> Result<SendRequest<Body>, Cause> {
        let stream = connect(self.address).await?;
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Cause::Exchange)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "upstream connection ended"
                );
            }
        });
        Ok(sender)
    }

    fn reading(&self, response: http::Response<Incoming>, sender: SendRequest<Body>) -> Response {
        // A switched connection is no longer HTTP; its task has taken it over.
        let switched = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
        let (head, body) = response.into_parts();
        let mut reading = Reading {
            body,
            sender: (!switched).then_some(sender),
            shared: Arc::clone(&self.shared),
        };
        if reading.body.is_end_stream() {
            reading.done();
            return Response::from_parts(head, Body::from(reading.body));
        }
        Response::from_parts(head, Body::boxed(reading))
    }
}

impl Reading {
    fn done(&mut self) {
        let Some(sender) = self.sender.take() else { return };
        let mut shared = lock(&self.shared);
        if !shared.closed && !sender.is_closed() && shared.idle.len() < MAX_IDLE {
            shared.idle.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
    }
}

impl http_body::Body for Reading {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.done(),
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.done(),
            _ => {}
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The server closed without a byte of response.
fn is_closed_early(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_canceled() || is_reset(error)
}

fn is_reset(error: &hyper::Error) -> bool {
    use std::{error::Error, io};
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        })
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing is left half-changed by a panic under this lock.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
