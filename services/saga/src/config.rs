//! What the engine must be told: where its database is, who it is, and where others are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;
use trellis_chassis::config::Environment;
use trellis_chassis::db::Binding;

/// Variable with the address of the port for gRPC.
pub const GRPC_ADDRESS: &str = "GRPC_ADDRESS";

/// Port for gRPC, unless said otherwise.
const GRPC_PORT: u16 = 8081;
/// Where the operator's stream is, unless said otherwise.
const OPERATOR: &str = "http://trellis-operator.trellis-system.svc:15010";
/// Where the sidecar takes requests to others.
const MESH: &str = "127.0.0.1:15001";
/// The token that proves to the operator who this is.
const TOKEN: &str = "/var/run/secrets/trellis.dev/tokens/trellis-config";

/// Settings of the engine; ports and telemetry are the chassis'.
#[derive(Debug, Serialize)]
pub struct Config {
    /// The binding `db` below `SERVICE_BINDING_ROOT`.
    pub database: Binding,
    /// `POD_NAME`: the name of this replica.
    pub pod: String,
    /// `POD_IP`: where other replicas reach it.
    pub ip: IpAddr,
    /// `GRPC_ADDRESS`: where runs are asked for by gRPC.
    pub grpc: SocketAddr,
    /// `OPERATOR_STREAM`: where revisions come from.
    pub operator: String,
    /// `MESH_ADDRESS`: the outbound side of the sidecar.
    pub mesh: String,
    /// `OPERATOR_TOKEN`: file with the token for the operator.
    pub token: PathBuf,
}

/// Reads the settings; faults are noted in `env`.
pub fn read(env: &mut Environment) -> Option<Config> {
    let database = Binding::read(env, "db");
    let pod = env.required("POD_NAME", "write the name of the pod, from metadata.name");
    let ip = env.required("POD_IP", "write the IP address of the pod, from status.podIP");
    let grpc = env.optional(
        GRPC_ADDRESS,
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, GRPC_PORT)),
        "write ip:port, for example 0.0.0.0:8081",
    );
    let operator = env.optional("OPERATOR_STREAM", OPERATOR.to_owned(), "write http://host:port");
    let mesh = env.optional("MESH_ADDRESS", MESH.to_owned(), "write host:port");
    let token = env.optional("OPERATOR_TOKEN", TOKEN.into(), "write the path of a file");
    Some(Config {
        database: database?,
        pod: pod?,
        ip: ip?,
        grpc: grpc?,
        operator: operator?,
        mesh: mesh?,
        token: token?,
    })
}
