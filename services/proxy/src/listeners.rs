//! The set of open listeners, changed as documents say.
//!
//! Opening comes before anything else of a new document is used: a port that cannot be opened makes the document bad, and
//! a bad document changes nothing. A port that stays is never closed, and its open connections see the new document from
//! their next request on. A port that goes stops accepting; its connections end after what they are doing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission,
    connection::{self, Leave, Stack},
    deadlines::Deadlines,
    direction::Direction,
    gateway, inbound,
    lifecycle::Lifecycle,
    listener,
    observe::Telemetry,
    snapshot::{Listener, Serves},
};

/// Open listeners by port.
#[derive(Debug)]
pub(crate) struct Listeners {
    telemetry: Telemetry,
    deadlines: Deadlines,
    lifecycle: Arc<Lifecycle>,
    /// Connections that callers may hold on each port.
    max_connections: usize,
    open: Mutex<BTreeMap<u16, Open>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Open {
    current: Arc<ArcSwap<Listener>>,
    closing: CancellationToken,
}

/// Ports of a new document that are bound but not served yet.
pub(crate) struct Opened(Vec<(Arc<Listener>, TcpListener)>);

impl Listeners {
    /// No listener yet.
    pub(crate) fn new(
        telemetry: Telemetry,
        deadlines: Deadlines,
        lifecycle: Arc<Lifecycle>,
        max_connections: usize,
    ) -> Self {
        Self {
            telemetry,
            deadlines,
            lifecycle,
            max_connections,
            open: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Binds the ports that are not open yet.
    ///
    /// # Errors
    /// Every port that cannot be bound; then none is.
    pub(crate) fn prepare(&self, wanted: &[Arc<Listener>]) -> Result<Opened, Vec<String>> {
        let open = self.lock();
        let mut opened = Vec::new();
        let mut faults = Vec::new();
        for (i, wanted) in wanted.iter().enumerate() {
            // A port that served the app and is to serve paths, or the other way round, needs another stack.
            if open
                .get(&wanted.port)
                .is_some_and(|open| same_kind(&open.current.load(), wanted))
            {
                continue;
            }
            match listener::bind_all(wanted.port) {
                Ok(socket) => opened.push((Arc::clone(wanted), socket)),
                Err(error) => {
                    let cause = std::error::Error::source(&error)
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    faults.push(format!("config.listeners[{i}].port: {error}: {cause}"));
                }
            }
        }
        if faults.is_empty() {
            Ok(Opened(opened))
        } else {
            Err(faults)
        }
    }

    /// Serves what was bound, passes on what has changed, and closes the rest.
    pub(crate) fn commit(&self, wanted: &[Arc<Listener>], Opened(opened): Opened) {
        let mut open = self.lock();
        open.retain(|port, open| {
            let stays = wanted
                .iter()
                .any(|wanted| wanted.port == *port && same_kind(&open.current.load(), wanted));
            if !stays {
                tracing::info!(port, "listener closes");
                open.closing.cancel();
            }
            stays
        });
        for wanted in wanted {
            if let Some(open) = open.get(&wanted.port) {
                open.current.store(Arc::clone(wanted));
            }
        }
        for (listener, socket) in opened {
            let port = listener.port;
            open.insert(port, self.serve(listener, socket));
            tracing::info!(port, "listener opens");
        }
    }

    /// Stops accepting and tells every connection to end.
    pub(crate) fn close(&self) {
        for open in self.lock().values() {
            open.closing.cancel();
        }
        self.tasks.close();
    }

    /// Waits until every connection has ended.
    pub(crate) async fn closed(&self) {
        self.tasks.wait().await;
    }

    fn serve(&self, listener: Arc<Listener>, socket: TcpListener) -> Open {
        let direction = match listener.serves {
            Serves::App(_) => Direction::Inbound,
            Serves::Paths(_) => Direction::Gateway,
        };
        let admission = Admission::new(
            self.max_connections,
            direction,
            listener.port,
            self.telemetry.metrics.connections(),
        );
        let current = Arc::new(ArcSwap::new(listener));
        let draining = self.lifecycle.draining();
        let (served, telemetry, leaving) = (Arc::clone(&current), self.telemetry.clone(), draining.clone());
        let stack: Stack = if direction == Direction::Gateway {
            gateway::stack(served, telemetry, leaving)
        } else {
            inbound::stack(served, telemetry, &self.deadlines, leaving)
        };
        let closing = CancellationToken::new();
        let leave = Leave {
            draining: Some(draining),
            closing: closing.clone(),
        };
        let (tasks, in_flight) = (self.tasks.clone(), self.lifecycle.inbound.clone());
        self.tasks.spawn(listener::accept(
            socket,
            closing.clone(),
            admission,
            move |stream, peer, place| {
                tasks.track_future(connection::serve(
                    stream,
                    peer,
                    place,
                    stack.clone(),
                    in_flight.clone(),
                    leave.clone(),
                ))
            },
        ));
        Open { current, closing }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn same_kind(one: &Listener, other: &Listener) -> bool {
    matches!(
        (&one.serves, &other.serves),
        (Serves::App(_), Serves::App(_)) | (Serves::Paths(_), Serves::Paths(_))
    )
}
