//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand};

/// Default of [`Run::max_connections`]. An idle connection of HTTP/1.1 takes 20 KiB, so all of a port take 80 MiB: a sidecar
/// has 128 MiB.
const MAX_CONNECTIONS: usize = 4096;

/// Sidecar and gateway of a Trellis mesh.
#[derive(Debug, Parser)]
#[command(name = "trellis-proxy", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Serve until SIGTERM.
    Run(Run),
    /// Tell a running proxy in the same pod that it will end soon; for preStop.
    Drain(Drain),
    /// Check a document and print its faults.
    Check(Check),
}

/// Options of `run`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Run {
    /// The document that Kubernetes mounts.
    #[arg(long, default_value = "/etc/trellis/proxy/proxy.json")]
    pub config: PathBuf,
    /// Where a copy of what is in use is kept.
    #[arg(long, default_value = "/var/lib/trellis/proxy")]
    pub state_dir: PathBuf,
    /// The token shown to the operator.
    #[arg(long, default_value = "/var/run/secrets/trellis/token")]
    pub token_file: PathBuf,
    /// The token shown to the quota authority.
    #[arg(long, default_value = "/var/run/secrets/trellis/quota-token")]
    pub quota_token_file: PathBuf,
    /// Port on 127.0.0.1 for drain and questions.
    #[arg(long, default_value_t = 15000)]
    pub admin_port: u16,
    /// Port on 127.0.0.1 that the app sends its requests to.
    #[arg(long, default_value_t = 15001)]
    pub outbound_port: u16,
    /// Port for health and metrics.
    #[arg(long, default_value_t = 15020)]
    pub health_port: u16,
    /// Threads that serve requests; the number of cores, at most 2, if it is not given.
    #[arg(long, env = "TRELLIS_WORKER_THREADS")]
    pub worker_threads: Option<usize>,
    /// Connections that callers may hold on each port; more wait until one ends.
    #[arg(long, env = "TRELLIS_MAX_CONNECTIONS", default_value_t = MAX_CONNECTIONS)]
    pub max_connections: usize,
    /// Name of the pod, as the operator knows it.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod: String,
    /// Whether requests are logged: `on` or `off`.
    #[arg(long, env = crate::access_log::SWITCH, default_value = "on")]
    pub access_log: Switch,
}

/// Options of `drain`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Drain {
    /// The proxy's admin port.
    #[arg(long, default_value_t = 15000)]
    pub admin_port: u16,
    /// Seconds to hold, so that everyone learns that the pod takes no more requests.
    #[arg(long, default_value_t = 5)]
    pub hold: u64,
    /// Seconds after which to return even if requests are in flight.
    #[arg(long, default_value_t = 9)]
    pub longest: u64,
}

/// Options of `check`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Check {
    /// The document.
    #[arg(long, default_value = "/etc/trellis/proxy/proxy.json")]
    pub config: PathBuf,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl Drain {
    pub(crate) fn hold(&self) -> Duration {
        Duration::from_secs(self.hold)
    }

    pub(crate) fn longest(&self) -> Duration {
        Duration::from_secs(self.longest.max(self.hold))
    }
}
