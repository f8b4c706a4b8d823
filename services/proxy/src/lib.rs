//! `trellis-proxy`: sidecar and gateway of the mesh, one binary. The roles differ by configuration only.
//!
//! ```text
//! source (file, last good, stream, dns) -> configuration -> snapshot, discovery, listeners
//!
//! listener -> connection -> stack (inbound | outbound | gateway) -> cluster -> balance -> endpoint -> pool
//! ```
//!
//! | part | idea |
//! |---|---|
//! | [`snapshot`](self) | a document, compiled; swapped whole, never changed |
//! | connection | HTTP/1.1 or HTTP/2 from its first bytes; how it ends |
//! | stack | intake -> observe -> answer -> limits -> prepare -> policies -> forward |
//! | pool | who may be sent again, and who may not |
//! | lifecycle | drain, SIGTERM, what outlives what |

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod args;
#[cfg(feature = "timing")]
pub mod timing;

mod access_log;
mod admin;
mod admission;
mod answer;
mod balance;
mod body;
mod bulkhead;
mod check;
mod cluster;
mod configuration;
mod connect;
mod connection;
mod deadlines;
mod direction;
mod discovery;
mod drain;
mod endpoint;
mod failure;
mod forward;
mod forwarded;
mod gateway;
mod hygiene;
mod inbound;
mod intake;
mod lifecycle;
mod limits;
mod listener;
mod listeners;
mod load;
mod metrics;
mod observe;
mod occasionally;
mod open_files;
mod outbound;
mod path_table;
mod policies;
mod pool;
mod quota;
mod rewrite;
mod route;
mod run;
mod signals;
mod snapshot;
mod source;
mod stack;
mod target;
mod trace;
mod upgrade;
mod uplink;

use std::process::ExitCode;

use args::{Args, Verb};

/// Does what the command line says.
///
/// # Errors
/// If the process cannot do its work at all; bad configuration is not such a case.
pub fn execute(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Run(args) => run::on_runtime(args.worker_threads, run::run(args)),
        Verb::Drain(args) => run::on_runtime(Some(1), drain::drain(&args)),
        Verb::Check(args) => check::check(&args),
    }
}
