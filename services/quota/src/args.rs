//! The command line. Every flag has an environment variable.

use std::net::{IpAddr, SocketAddr};

use clap::Parser;

/// The Trellis quota authority: leases parts of limits to the proxies of a service.
#[derive(Debug, Clone, Parser)]
#[command(name = "trellis-quota", version)]
pub struct Args {
    /// Address of the stream.
    #[arg(long, env = "TRELLIS_QUOTA_LISTEN", default_value = "0.0.0.0:8080")]
    pub address: SocketAddr,

    /// Address of health and metrics.
    #[arg(long, env = "TRELLIS_ADMIN_ADDRESS", default_value = "0.0.0.0:9090")]
    pub admin_address: SocketAddr,

    /// Namespace of the Lease. Unset: the own one.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: Option<String>,

    /// Name of this replica, as the holder of the Lease. No two processes may have it at once.
    #[arg(long, env = "POD_NAME")]
    pub name: String,

    /// IP address at which proxies reach this replica. Unset: the others cannot tell them where it is while it grants.
    #[arg(long, env = "POD_IP")]
    pub ip: Option<IpAddr>,
}
