//! The stacks of the three directions: what they share, and the order of their layers.
//!
//! ```text
//! intake     head sound? which target?          never answers, so that everything is observed
//! observe    span, metrics, access log
//! answer     failures -> responses; hop-by-hop fields; "Connection: close" while draining
//! direction  what it adds to a request, and takes back from the answer
//! forward    balance, send; elsewhere if nothing was sent
//! ```
//!
//! Policies are layers between those of the direction and `forward`: they see a clean request with its
//! [`Target`](crate::target::Target) and fail with a [`Failure`](crate::failure::Failure).

use tower::{Service, ServiceBuilder, util::BoxCloneSyncService};
use trellis_chassis::drain;

use crate::{
    answer,
    body::{Request, Response},
    connection::Stack,
    direction::Direction,
    failure::Failure,
    intake::{self, Choose},
    observe::{self, Telemetry},
};

/// Builds a direction's stack around `inner`: the layers of the direction, and what forwards.
pub(crate) fn build<S>(
    direction: Direction,
    choose: impl Choose,
    telemetry: Telemetry,
    draining: Option<drain::Watch>,
    inner: S,
) -> Stack
where
    S: Service<Request, Response = Response, Error = Failure, Future: Send + Unpin>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let service = ServiceBuilder::new()
        .layer(intake::layer(choose))
        .layer(observe::layer(direction, telemetry))
        .layer(answer::layer(direction, draining))
        .service(inner);
    BoxCloneSyncService::new(service)
}
