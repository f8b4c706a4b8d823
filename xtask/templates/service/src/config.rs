//! What the __name__ service must be told: where its database is.

use serde::Serialize;
use trellis_chassis::config::Environment;
use trellis_chassis::db::Binding;

/// Settings of the service; ports and telemetry are the chassis'.
#[derive(Debug, Serialize)]
pub struct Config {
    /// The binding `db` below `SERVICE_BINDING_ROOT`.
    pub database: Binding,
}

/// Reads the settings; faults are noted in `env`.
pub fn read(env: &mut Environment) -> Option<Config> {
    let database = Binding::read(env, "db");
    Some(Config { database: database? })
}
