//! The __name__ service of the shop: which items there are, and how many of each.
//!
//! ```text
//! request -> handlers: extract -> barrier { store: lock, load -> domain: decide (pure) -> store: write } -> respond
//! ```
//!
//! Files: `config` (environment), `domain` (types and rules, no I/O), `handlers` (the flow above), `routes`
//! (paths), `store` (SQL), `error` (every failure and the problem that it becomes). Every domain service of
//! the shop has the same ones.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod config;
mod domain;
mod error;
mod handlers;
mod routes;
mod store;

use std::process::ExitCode;

use trellis_chassis::server;

#[tokio::main]
async fn main() -> ExitCode {
    server::main("__name__", config::read, routes::build).await
}
