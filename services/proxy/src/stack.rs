//! The stacks of the three directions: what they share, and the order of their layers.
//!
//! ```text
//! intake     head sound? which target?          never answers, so that everything is observed
//! observe    span, metrics, access log
//! answer     failures -> responses; hop-by-hop fields; "Connection: close" while draining
//! prepare    what the direction adds to a request
//! forward    balance, send; elsewhere if nothing was sent
//! ```
//!
//! Policies are layers between `prepare` and `forward`: they see a clean request with its [`Target`](crate::target::Target)
//! and fail with a [`Failure`](crate::failure::Failure).

use tower::{ServiceBuilder, util::BoxCloneSyncService};
use trellis_chassis::drain;

use crate::{
    answer,
    body::Request,
    connection::Stack,
    direction::Direction,
    forward::Forward,
    intake::{self, Choose},
    observe::{self, Telemetry},
};

/// Builds a direction's stack.
pub(crate) fn build(
    direction: Direction,
    choose: impl Choose,
    telemetry: Telemetry,
    draining: Option<drain::Watch>,
    prepare: fn(&mut Request),
) -> Stack {
    let service = ServiceBuilder::new()
        .layer(intake::layer(choose))
        .layer(observe::layer(direction, telemetry))
        .layer(answer::layer(direction, draining))
        .map_request(move |mut request| {
            prepare(&mut request);
            request
        })
        .service(Forward);
    BoxCloneSyncService::new(service)
}
