//! One connection from a caller: HTTP/1.1 or HTTP/2, told apart by its first bytes.
//!
//! ```text
//! accept -> first bytes --PRI * HTTP/2.0--> HTTP/2
//!                       --anything else---> HTTP/1.1
//! ```
//!
//! hyper has an automatic mode, but it waits for the first byte without a limit and drops, when asked to shut down, a
//! connection whose request is still in the socket; both matter here.
//!
//! A connection ends when its caller closes it, when it stays idle or in the middle of a head for too long
//! ([`activity`]), or when its listener closes: then HTTP/2 is told by GOAWAY and HTTP/1.1 after its current response. An
//! idle HTTP/2 connection is told by GOAWAY as well, so that a request on its way meets no closed connection.
//! While the process only drains, HTTP/1.1 connections stay open and each answer says `Connection: close`: an idle one
//! that was closed could meet a request on its way, which no caller may repeat safely.

mod activity;
mod io;

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderValue;
use hyper::{body::Incoming, server::conn::http1, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::{Service as _, util::BoxCloneSyncService};
use trellis_chassis::drain;

pub(crate) use self::activity::Busy;
use self::{
    activity::{Activity, Verdict},
    io::Socket,
};
use crate::{
    admission::Place,
    body::{Body, Request, Response},
    intake::MAX_HEADER_BYTES,
    lifecycle::InFlight,
    metrics::BadHead,
};

/// What answers the requests of a connection.
pub(crate) type Stack = BoxCloneSyncService<Request, Response, Infallible>;

/// Largest head of an HTTP/1.1 request: its fields and its target.
const MAX_HEAD: usize = MAX_HEADER_BYTES + 8 * 1024;
/// Size of the read buffer; a larger body passes through it in pieces.
const MAX_BUFFER: usize = 64 * 1024;
/// Requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;
/// What one HTTP/2 caller may send before it is read: a stream, and all of them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Resets that we may be made to send before a connection is given up (CVE-2025-8671); hyper's default is 1024.
const MAX_LOCAL_RESETS: usize = 128;
/// An HTTP/2 caller that does not answer a ping is gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was accepted just before its listener closed gets this long to have its request read.
const FRESH: Duration = Duration::from_secs(1);

/// The caller of a connection. Travels in the extensions of its requests.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Its IP address as text, for the next hop.
    pub(crate) text: Option<HeaderValue>,
}

/// When a connection has to end.
#[derive(Debug, Clone)]
pub(crate) struct Leave {
    /// The process will end soon. None where that does not concern callers: the app's own requests.
    pub(crate) draining: Option<drain::Watch>,
    /// The listener is closed.
    pub(crate) closing: CancellationToken,
}

/// A connection that can be told to end after what it is doing.
trait Graceful: Future<Output = hyper::Result<()>> {
    fn finish(self: Pin<&mut Self>);
}

/// How a connection that idles ends.
#[derive(Debug, Clone, Copy)]
enum Finally {
    /// It is closed.
    Close,
    /// It is told to end; a caller that does not react is noticed by pings.
    Finish,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr) -> Self {
        // The text of an address is a valid value.
        let text = HeaderValue::try_from(address.ip().to_string()).ok();
        Self { address, text }
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    stack: Stack,
    in_flight: InFlight,
    leave: Leave,
) {
    // On a socket of both protocols an IPv4 caller looks like ::ffff:192.0.2.7.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let activity = Arc::new(Activity::new(Instant::now(), in_flight, place));
    let (mut socket, mut over) = Socket::new(stream, Arc::clone(&activity));
    let first_bytes = tokio::time::timeout(activity::HEAD_TIMEOUT, socket.detect());
    let Some(Ok(Ok(http2))) = leave.unless_told(&activity, first_bytes).await else {
        return;
    };

    let service = {
        let activity = Arc::clone(&activity);
        let (stack, peer) = (Mutex::new(stack), Peer::new(peer));
        service_fn(move |request: http::Request<Incoming>| {
            let mut request = request.map(Body::from);
            let extensions = request.extensions_mut();
            extensions.insert(peer.clone());
            extensions.insert(Busy::new(&activity));
            // Every layer is ready at any time: what waits is the answer.
            stack.lock().unwrap_or_else(PoisonError::into_inner).call(request)
        })
    };
    let result = if http2 {
        activity.speaks_http2(Instant::now());
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_local_error_reset_streams(MAX_LOCAL_RESETS)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(socket), service);
        let told = leave.told_http2();
        drive(connection, told, &activity, Finally::Finish).await
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_BUFFER)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades();
        let told = leave.told_http1(&activity);
        drive(connection, told, &activity, Finally::Close).await
    };
    match result {
        Err(error) if error.is_parse() => {
            let reason = if error.is_parse_too_large() {
                BadHead::TooLarge
            } else {
                BadHead::Malformed
            };
            activity.place().refused(reason, &error, peer);
        }
        Err(error) => {
            tracing::debug!(%peer, error = &error as &dyn std::error::Error, "connection ended");
        }
        Ok(()) => {}
    }
    // Not there if a tunnel has it.
    if let Ok(stream) = over.try_recv() {
        io::linger(stream).await;
    }
}

/// Polls a connection to its end; `finally` says what becomes of one that idles or dawdles.
async fn drive(
    connection: impl Graceful,
    told: impl Future,
    activity: &Activity,
    finally: Finally,
) -> hyper::Result<()> {
    let (mut connection, mut told) = (pin!(connection), pin!(told));
    let mut finishing = false;
    let mut given_up = false;
    let mut check_at = Instant::now() + activity::HEAD_TIMEOUT;
    loop {
        tokio::select! {
            result = connection.as_mut() => return result,
            _ = told.as_mut(), if !finishing => {
                finishing = true;
                connection.as_mut().finish();
            }
            () = tokio::time::sleep_until(check_at.into()), if !given_up => {
                match (activity.verdict(Instant::now()), finally) {
                    (Verdict::Check(at), _) => check_at = at,
                    (Verdict::GiveUp, Finally::Close) => return Ok(()),
                    (Verdict::GiveUp, Finally::Finish) => {
                        (finishing, given_up) = (true, true);
                        connection.as_mut().finish();
                    }
                }
            }
        }
    }
}

impl Leave {
    /// HTTP/2 has an orderly way to say "not here any more" at any time, so draining is said at once. A connection made
    /// while draining came from a caller that does not know yet; it is served until the listener closes.
    async fn told_http2(&self) {
        match &self.draining {
            Some(draining) if !draining.is_draining() => {
                tokio::select! {
                    () = draining.signaled() => {}
                    () = self.closing.cancelled() => {}
                }
            }
            _ => self.closing.cancelled().await,
        }
    }

    /// Waits for `first`, but not longer than a connection without a request may live.
    async fn unless_told<T>(&self, activity: &Activity, first: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            first = first => Some(first),
            () = self.told_http1(activity) => None,
        }
    }

    async fn told_http1(&self, activity: &Activity) {
        self.closing.cancelled().await;
        if activity.is_fresh() {
            // Its request may be in the socket; after the answer hyper closes, because the answer says so.
            tokio::time::sleep(FRESH).await;
        }
    }
}

impl<I, S> Graceful for http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<crate::body::BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S> Graceful for http2::Connection<I, S, TokioExecutor>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<crate::body::BoxError>,
    S::Future: Send + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        task::{Context, Poll},
    };

    use prometheus_client::registry::Registry;

    use super::*;
    use crate::{admission::Admission, direction::Direction, metrics::Metrics};

    /// A connection that ends only when it is told to.
    struct Idle {
        told: bool,
    }

    impl Future for Idle {
        type Output = hyper::Result<()>;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            if self.told {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        }
    }

    impl Graceful for &mut Idle {
        fn finish(mut self: Pin<&mut Self>) {
            self.told = true;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_and_over_http2_it_is_told_before() {
        let metrics = Metrics::register(&mut Registry::default());
        for (finally, told) in [(Finally::Finish, true), (Finally::Close, false)] {
            let admission = Admission::new(1, Direction::Inbound, 15100, metrics.connections());
            let long_ago = Instant::now().checked_sub(2 * activity::IDLE_TIMEOUT).unwrap();
            let activity = Activity::new(long_ago, InFlight::default(), admission.occupy(None));
            activity.speaks_http2(long_ago);
            let mut connection = Idle { told: false };
            drive(&mut connection, pending::<()>(), &activity, finally)
                .await
                .unwrap();
            assert_eq!(connection.told, told, "{finally:?}");
        }
    }
}
