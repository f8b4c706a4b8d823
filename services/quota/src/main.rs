//! The quota authority: one limit over all pods of a service, without a call per request.
//!
//! ```text
//! proxies --stream--> server --> session --> book: a ledger (trellis_rate::lease) per limit and key
//!                                             ^  ^
//!              pods: who exists, who has ended   run: the claim, by a Lease with an epoch; policies: what is older than it
//! ```
//!
//! Every replica watches pods and stands for the Lease; only its holder grants, the others say where it is. What is leased is in
//! memory alone: a new holder learns it from the proxies (see [`trellis_rate::lease`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod book;
mod metrics;
mod pods;
mod policies;
mod roster;
mod run;
mod server;
mod session;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    run::main().await
}
