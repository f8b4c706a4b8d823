//! The Trellis operator. `run` has the wiring, `microservice` the five steps of a pass.

#![cfg_attr(
    test,
    allow(
        clippy::needless_pass_by_value,
        reason = "a `json!` literal reads best as an argument by value"
    )
)]

mod apply;
mod args;
mod backoff;
mod cache;
mod caches;
mod client;
mod engine;
mod error;
mod events;
mod key;
mod leader;
mod liveness;
mod metrics;
mod microservice;
mod observed;
mod queue;
mod rate_limits;
mod run;
mod sagas;
mod statuses;
mod stream;
mod triggers;
mod visits;
mod watch;
mod watches;
mod workers;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    run::main().await
}
