//! Requests from the mesh for the app in the same pod: every path of a port goes to the app's port.

use std::{net::IpAddr, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use tower::ServiceBuilder;
use trellis_chassis::drain;

use crate::{
    body::Request,
    bulkhead,
    connection::Stack,
    deadlines::Deadlines,
    direction::Direction,
    failure::{Failure, Reason},
    forward::Forward,
    forwarded,
    intake::Choose,
    limits,
    observe::Telemetry,
    route::Labels,
    snapshot::{Listener, Serves},
    stack,
    target::Target,
};

/// Chooses the app.
#[derive(Debug, Clone)]
struct Inbound(Arc<ArcSwap<Listener>>);

/// The stack of a listener whose requests go to the app.
pub(crate) fn stack(
    listener: Arc<ArcSwap<Listener>>,
    telemetry: Telemetry,
    deadlines: &Deadlines,
    draining: drain::Watch,
) -> Stack {
    let inner = ServiceBuilder::new()
        .map_request(|mut request| {
            forwarded::replace(&mut request);
            request
        })
        .layer(limits::layer(&listener))
        .layer(deadlines.layer())
        .layer(bulkhead::layer(&listener))
        .service(Forward);
    stack::build(
        Direction::Inbound,
        Inbound(listener),
        telemetry,
        Some(draining),
        inner,
    )
}

impl Choose for Inbound {
    fn choose(&self, _: &Request) -> Target {
        match &self.0.load().serves {
            Serves::App(route) => Target::to(route),
            // The port has become a gateway's while this connection was open.
            Serves::Paths(_) => Target::refused(
                self.labels(),
                Failure::new(Reason::NoRoute, "the port has changed"),
            ),
        }
    }

    fn labels(&self) -> Labels {
        self.0.load().labels.clone()
    }

    fn believes(&self, peer: IpAddr) -> bool {
        let now = Instant::now();
        let listener = self.0.load();
        let mut gateways = listener.gateways.iter();
        gateways.any(|gateway| gateway.is_at(peer, now))
    }
}
