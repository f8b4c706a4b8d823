//! The accept loop of a service's own port: HTTP/1.1 and HTTP/2 with prior knowledge on one listener.
//!
//! axum's `serve` stops accepting at the very signal that makes connections close. Here those are two
//! moments (see the module above), and idle connections are kept longer than any client of ours keeps them,
//! so that a client never sends a request into a connection that is being closed.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tower::ServiceExt;

use crate::drain::Watch;
use crate::fault_injection::Fault;

/// An HTTP/1.1 connection without a request for this long is closed. The sidecar keeps its for less.
const IDLE: Duration = Duration::from_secs(75);
/// After a failed accept, most often "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a request that runs while the service waits for quiet is looked at again.
const RECHECK: Duration = Duration::from_millis(50);

/// When requests come and whether any is running. Clones see the same.
#[derive(Clone, Debug)]
pub struct Activity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    running: AtomicUsize,
    last: Mutex<Instant>,
}

struct Running(Activity);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(Inner {
            running: AtomicUsize::new(0),
            last: Mutex::new(Instant::now()),
        }))
    }
}

impl Activity {
    /// Waits until no request is running and none has come for `quiet`, counted from now at the earliest.
    pub async fn quiet_for(&self, quiet: Duration) {
        let called = Instant::now();
        loop {
            let due = self.last().max(called) + quiet;
            if self.0.running.load(Ordering::Acquire) > 0 {
                time::sleep(RECHECK).await;
            } else if due > Instant::now() {
                time::sleep_until(due).await;
            } else {
                return;
            }
        }
    }

    fn begin(&self) -> Running {
        self.0.running.fetch_add(1, Ordering::AcqRel);
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Running(self.clone())
    }

    fn last(&self) -> Instant {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Accepts until `stop`, then lets every connection end after the request that it is answering.
/// Injected faults may close the port for a while.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    activity: Activity,
    stop: Watch,
    mut faults: watch::Receiver<Fault>,
) {
    let mut listener = Some(listener);
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = faults.changed() => {
                let refuse = *faults.borrow_and_update() == Fault::Refuse;
                if refuse {
                    listener = None;
                    connections.abort_all();
                } else if listener.is_none() && let Some(address) = address {
                    match TcpListener::bind(address).await {
                        Ok(bound) => listener = Some(bound),
                        Err(error) => tracing::error!(%error, "failed to open the port again"),
                    }
                }
            },
            accepted = accept => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone(), activity.clone(), stop.clone()));
                }
                Err(error) => pause(&error).await,
            },
            Some(_) = connections.join_next() => {}
            () = stop.signaled() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, router: Router, activity: Activity, stop: Watch) {
    // Small answers must not wait for the next packet; a socket that refuses still works.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let running = activity.begin();
        let answer = router.clone().oneshot(request);
        async move {
            let _running = running;
            answer.await
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(32 * 1024);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.signaled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Clients that go away are everyday; `error` has no fixed type here.
        tracing::debug!(%error, "connection ended early");
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "failed to accept a connection");
    time::sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quiet_counts_from_the_last_request_and_not_while_one_runs() {
        let (activity, start) = (Activity::default(), Instant::now());
        let running = activity.begin();
        let waiting = tokio::spawn({
            let activity = activity.clone();
            async move { activity.quiet_for(Duration::from_secs(1)).await }
        });
        time::advance(Duration::from_secs(3)).await;
        assert!(!waiting.is_finished());
        drop(running);
        drop(activity.begin());
        waiting.await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(4));
    }
}
