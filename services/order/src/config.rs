//! What the order service must be told: where its database, the user service and the saga engine are.

use serde::Serialize;
use trellis_chassis::client::BaseUrl;
use trellis_chassis::config::Environment;
use trellis_chassis::db::Binding;
use trellis_messaging::SagaSettings;

/// Settings of the service; ports and telemetry are the chassis'.
#[derive(Debug, Serialize)]
pub struct Config {
    /// The binding `db` below `SERVICE_BINDING_ROOT`.
    pub database: Binding,
    /// `USER_URL`: the user service, through the sidecar.
    pub user: BaseUrl,
    /// Where sagas are started.
    pub saga: SagaSettings,
}

/// Reads the settings; faults are noted in `env`.
pub fn read(env: &mut Environment) -> Option<Config> {
    let database = Binding::read(env, "db");
    let user = env.required(
        "USER_URL",
        "list user in spec.dependsOn, or write http://host:port of the user service",
    );
    let saga = SagaSettings::read(env);
    Some(Config {
        database: database?,
        user: user?,
        saga: saga?,
    })
}
