//! Environment variables of app and proxy.

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};
use trellis_api::names::{ENV_BINDINGS, PATH_BINDINGS};

use crate::microservice::validated::{ServiceRole, Validated};

const TELEMETRY_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Of the app: those that Trellis makes, without those that the user sets too, then the user's own, which may refer to
/// the former as `$(USER_URL)`.
pub(super) fn of_app(validated: &Validated, service: &ServiceRole) -> Vec<EnvVar> {
    let mut derived: Vec<EnvVar> = Vec::new();
    if !service.bindings.is_empty() {
        derived.push(variable(ENV_BINDINGS, PATH_BINDINGS));
    }
    for dependency in &service.dependencies {
        derived.extend(
            dependency
                .variables
                .iter()
                .map(|(name, value)| variable(name, value)),
        );
    }
    if let Some(endpoint) = &validated.proxy.telemetry_endpoint {
        derived.push(variable(TELEMETRY_ENDPOINT, endpoint));
        derived.push(variable("OTEL_SERVICE_NAME", &validated.key.name));
        derived.push(variable(
            "OTEL_RESOURCE_ATTRIBUTES",
            &format!("service.namespace={}", validated.key.namespace),
        ));
    }
    derived.retain(|derived| service.env.iter().all(|own| own.name != derived.name));
    derived.extend(service.env.iter().cloned());
    derived
}

/// Of the proxy.
pub(super) fn of_proxy(validated: &Validated) -> Vec<EnvVar> {
    let mut variables = vec![
        of_pod("POD_NAME", "metadata.name"),
        of_pod("POD_NAMESPACE", "metadata.namespace"),
        of_pod("POD_IP", "status.podIP"),
    ];
    if let Some(endpoint) = &validated.proxy.telemetry_endpoint {
        variables.push(variable(TELEMETRY_ENDPOINT, endpoint));
    }
    variables
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    }
}

fn of_pod(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                api_version: None,
            }),
            ..Default::default()
        }),
    }
}
