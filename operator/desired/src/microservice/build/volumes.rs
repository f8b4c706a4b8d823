//! Volumes of the pods.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, KeyToPath, ProjectedVolumeSource, SecretVolumeSource,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use trellis_api::{
    microservice::Binding,
    names::{
        KEY_PROXY_TOKEN, PATH_BINDINGS, PATH_PROXY_CONFIG, PATH_PROXY_STATE, PATH_PROXY_TOKEN,
        TOKEN_AUDIENCE, proxy_config_map,
    },
};

use crate::microservice::validated::Validated;

const TMP: &str = "tmp";
const PROXY_CONFIG: &str = "trellis-proxy-config";
const PROXY_STATE: &str = "trellis-proxy-state";
const PROXY_TOKEN: &str = "trellis-proxy-token";
/// Prefix of the volume of a binding; the kubelet's Events name the volume.
pub(in crate::microservice) const BINDING_PREFIX: &str = "binding-";
/// Seconds that a token lives; the kubelet renews it in time.
const TOKEN_LIFETIME: i64 = 3600;

/// Volumes of the proxy.
pub(super) fn of_proxy(validated: &Validated) -> Vec<Volume> {
    vec![
        Volume {
            name: PROXY_CONFIG.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: proxy_config_map(&validated.key.name),
                ..Default::default()
            }),
            ..Default::default()
        },
        empty_dir(PROXY_STATE),
        Volume {
            name: PROXY_TOKEN.to_owned(),
            projected: Some(ProjectedVolumeSource {
                sources: Some(vec![VolumeProjection {
                    service_account_token: Some(ServiceAccountTokenProjection {
                        audience: Some(TOKEN_AUDIENCE.to_owned()),
                        expiration_seconds: Some(TOKEN_LIFETIME),
                        path: KEY_PROXY_TOKEN.to_owned(),
                    }),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        },
    ]
}

/// Mounts of the proxy. The document's folder is mounted whole: a single file would never be updated.
pub(super) fn mounts_of_proxy() -> Vec<VolumeMount> {
    vec![
        mount(PROXY_CONFIG, PATH_PROXY_CONFIG, true),
        mount(PROXY_STATE, PATH_PROXY_STATE, false),
        mount(PROXY_TOKEN, PATH_PROXY_TOKEN, true),
    ]
}

/// Volumes of the app.
pub(super) fn of_app(bindings: &[Binding]) -> Vec<Volume> {
    let secrets = bindings.iter().map(|binding| Volume {
        name: format!("{BINDING_PREFIX}{}", binding.name),
        secret: Some(SecretVolumeSource {
            secret_name: Some(binding.secret.clone()),
            items: (!binding.keys.is_empty()).then(|| {
                binding
                    .keys
                    .iter()
                    .map(|key| KeyToPath {
                        key: key.clone(),
                        path: key.clone(),
                        mode: None,
                    })
                    .collect()
            }),
            ..Default::default()
        }),
        ..Default::default()
    });
    [empty_dir(TMP)].into_iter().chain(secrets).collect()
}

/// Mounts of the app.
pub(super) fn mounts_of_app(bindings: &[Binding]) -> Vec<VolumeMount> {
    let secrets = bindings.iter().map(|binding| {
        mount(
            &format!("{BINDING_PREFIX}{}", binding.name),
            &format!("{PATH_BINDINGS}/{}", binding.name),
            true,
        )
    });
    [mount(TMP, "/tmp", false)].into_iter().chain(secrets).collect()
}

fn empty_dir(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Default::default()
    }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..Default::default()
    }
}
