//! The saga engine of the cluster.
//!
//! ```text
//! operator --revisions--> revisions --> engine (crates/saga-engine) --> mesh: calls, through the own sidecar
//! callers --start, verbs--> handlers --^        |
//!                                               v
//!                                           PostgreSQL
//! ```
//!
//! Files: `config` (environment), `revisions` (the stream from the operator), `mesh` (calls of participants), `access` (who may do what),
//! `routes` (paths), `handlers`, `shown` (a run as it is told), `metrics`, `error`.
//!
//! Every replica answers every request: what is another one's, it is asked for.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod config;
mod error;
mod handlers;
mod mesh;
mod metrics;
mod revisions;
mod routes;
mod shown;

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
