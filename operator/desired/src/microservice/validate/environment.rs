//! `spec.env` and `spec.envFrom`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, EnvVarSource};
use trellis_api::MicroserviceSpec;

use super::Problems;
use crate::syntax;

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    let mut names = BTreeMap::new();
    for (i, variable) in spec.env.iter().enumerate() {
        check_variable(&format!("spec.env[{i}]"), variable, problems);
        if let Some(first) = names.insert(&variable.name, i) {
            problems.error(
                format!("spec.env[{i}].name"),
                format!(
                    "{:?} is the name of spec.env[{first}] too: only one of them can win; remove the other",
                    variable.name
                ),
            );
        }
    }
    for (i, source) in spec.env_from.iter().enumerate() {
        check_source(&format!("spec.envFrom[{i}]"), source, problems);
    }
}

fn check_variable(at: &str, variable: &EnvVar, problems: &mut Problems) {
    if !syntax::is_environment_name(&variable.name) {
        problems.error(
            format!("{at}.name"),
            format!(
                "{:?} cannot name an environment variable: use printable characters without '='",
                variable.name
            ),
        );
    }
    let Some(from) = &variable.value_from else {
        return;
    };
    if variable.value.as_ref().is_some_and(|value| !value.is_empty()) {
        problems.error(at, "value and valueFrom are both set: keep one");
    }
    check_value_from(&format!("{at}.valueFrom"), from, problems);
}

fn check_value_from(at: &str, from: &EnvVarSource, problems: &mut Problems) {
    let EnvVarSource {
        config_map_key_ref,
        field_ref,
        file_key_ref,
        resource_field_ref,
        secret_key_ref,
    } = from;
    let set = [
        config_map_key_ref.is_some(),
        field_ref.is_some(),
        file_key_ref.is_some(),
        resource_field_ref.is_some(),
        secret_key_ref.is_some(),
    ];
    if set.into_iter().filter(|set| *set).count() != 1 {
        problems.error(
            at,
            "must have exactly one source: set one of secretKeyRef, configMapKeyRef, fieldRef, resourceFieldRef",
        );
    }
    let references = [
        secret_key_ref
            .as_ref()
            .map(|reference| ("secretKeyRef", &reference.name, &reference.key)),
        config_map_key_ref
            .as_ref()
            .map(|reference| ("configMapKeyRef", &reference.name, &reference.key)),
    ];
    for (kind, name, key) in references.into_iter().flatten() {
        check_reference(&format!("{at}.{kind}.name"), name, problems);
        if !syntax::is_config_key(key) {
            problems.error(
                format!("{at}.{kind}.key"),
                format!("{key:?} is no key: use letters, digits, '-', '_' and '.'"),
            );
        }
    }
}

fn check_source(at: &str, source: &EnvFromSource, problems: &mut Problems) {
    let references = [
        source
            .secret_ref
            .as_ref()
            .map(|reference| ("secretRef", &reference.name)),
        source
            .config_map_ref
            .as_ref()
            .map(|reference| ("configMapRef", &reference.name)),
    ];
    if references.iter().flatten().count() != 1 {
        problems.error(at, "must have exactly one source: set secretRef or configMapRef");
    }
    for (kind, name) in references.into_iter().flatten() {
        check_reference(&format!("{at}.{kind}.name"), name, problems);
    }
    if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty())
        && !syntax::is_environment_name(prefix)
    {
        problems.error(
            format!("{at}.prefix"),
            format!("{prefix:?} cannot start an environment variable: use printable characters without '='"),
        );
    }
}

/// The name of a Secret or ConfigMap.
pub(super) fn check_reference(field: &str, name: &str, problems: &mut Problems) {
    if !syntax::is_dns_subdomain(name) {
        problems.error(
            field,
            format!("{name:?} is no name of an object: use a-z, 0-9, '-' and '.', start and end with a letter or digit"),
        );
    }
}
