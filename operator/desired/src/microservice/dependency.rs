//! What an entry of `dependsOn` is called in the app: host names and environment variables.

use trellis_api::{
    microservice::Dependency,
    names::{MESH_SUFFIX, environment_name},
};

use super::Key;

/// The Microservice that an entry means.
pub(super) fn key(entry: &Dependency, own_namespace: &str) -> Key {
    Key {
        namespace: entry
            .namespace
            .clone()
            .unwrap_or_else(|| own_namespace.to_owned()),
        name: entry.microservice.clone(),
    }
}

/// Names that lead to it: `user.mesh` (same namespace) and `user.shop.mesh`, with the port's name in front if the entry
/// has one.
pub(super) fn hosts(entry: &Dependency, own_namespace: &str) -> Vec<String> {
    let Key { namespace, name } = key(entry, own_namespace);
    let name = match &entry.port {
        Some(port) => format!("{port}.{name}"),
        None => name,
    };
    let qualified = format!("{name}.{namespace}.{MESH_SUFFIX}");
    if namespace == own_namespace {
        vec![format!("{name}.{MESH_SUFFIX}"), qualified]
    } else {
        vec![qualified]
    }
}

/// A variable with its address: `USER_ADDR`, `USER_GRPC_ADDR`.
pub(super) fn variable(entry: &Dependency, suffix: &str) -> String {
    let name = environment_name(&entry.microservice);
    match &entry.port {
        Some(port) => format!("{name}_{}_{suffix}", environment_name(port)),
        None => format!("{name}_{suffix}"),
    }
}
