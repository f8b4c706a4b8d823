//! The saga engine of the cluster.
//!
//! ```text
//! operator --revisions--> revisions --> engine (crates/saga-engine) --> mesh: calls, through the own sidecar
//! callers --> handlers, grpc --> runs --^        |
//!                                                v
//!                                            PostgreSQL
//! ```
//!
//! Files: `config` (environment), `revisions` (the stream from the operator), `mesh` (calls of participants), `access` (who may do what),
//! `routes` (paths), `runs` (what callers ask for), `handlers` (by REST), `grpc` (by gRPC), `follow` (a run as it changes), `events` (its
//! records), `others` (other replicas), `shown` (a run as it is told), `webhook` (who is told of stuck runs), `metrics`, `traces`, `error`.
//!
//! Every replica answers every request: what is another one's, it is asked for.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod config;
mod error;
mod events;
mod follow;
mod grpc;
mod handlers;
mod mesh;
mod metrics;
mod others;
mod revisions;
mod routes;
mod runs;
mod shown;
mod traces;
mod webhook;

use std::process::ExitCode;

use trellis_chassis::server;

#[tokio::main]
async fn main() -> ExitCode {
    // A task that panics would leave its runs to nobody: another replica goes on with them.
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        shown(panic);
        std::process::abort();
    }));
    server::main("saga", config::read, routes::build).await
}
