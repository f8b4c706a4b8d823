//! Volumes of the pods.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIProjection, DownwardAPIVolumeFile,
    EmptyDirVolumeSource, KeyToPath, ObjectFieldSelector, ProjectedVolumeSource, SecretVolumeSource,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use trellis_api::names::{
    KEY_PROXY_TOKEN, KEY_QUOTA_TOKEN, PATH_API_TOKEN, PATH_BINDINGS, PATH_PROXY_CONFIG, PATH_PROXY_STATE,
    PATH_PROXY_TOKEN, PATH_TOKENS, QUOTA_TOKEN_AUDIENCE, TOKEN_AUDIENCE, proxy_config_map,
};

use crate::microservice::validated::{ServiceRole, Validated};

const TMP: &str = "tmp";
const PROXY_CONFIG: &str = "trellis-proxy-config";
const PROXY_STATE: &str = "trellis-proxy-state";
const PROXY_TOKEN: &str = "trellis-proxy-token";
const API_TOKEN: &str = "kube-api-access";
const TOKENS: &str = "trellis-tokens";
/// Prefix of the volume of a binding; the kubelet's Events name the volume.
pub(in crate::microservice) const BINDING_PREFIX: &str = "binding-";
/// Seconds that a token lives; the kubelet renews it in time.
const TOKEN_LIFETIME: i64 = 3600;
/// The same for the Kubernetes API, by which the API server knows a token that Kubernetes itself would have mounted and
/// lets it live on if nobody reads the file anew.
const API_TOKEN_LIFETIME: i64 = 3607;
/// ConfigMap that Kubernetes puts into every namespace, and its key with the certificates of the API server.
const API_CERTIFICATES: (&str, &str) = ("kube-root-ca.crt", "ca.crt");

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
        projected(
            PROXY_TOKEN,
            vec![
                token(Some(TOKEN_AUDIENCE), TOKEN_LIFETIME, KEY_PROXY_TOKEN),
                token(Some(QUOTA_TOKEN_AUDIENCE), TOKEN_LIFETIME, KEY_QUOTA_TOKEN),
            ],
        ),
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
pub(super) fn of_app(service: &ServiceRole) -> Vec<Volume> {
    let secrets = service.bindings.iter().map(|binding| Volume {
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
    [empty_dir(TMP)]
        .into_iter()
        .chain(secrets)
        .chain(service.api_token.then(api_access))
        .chain((!service.token_audiences.is_empty()).then(|| tokens(&service.token_audiences)))
        .collect()
}

/// Mounts of the app.
pub(super) fn mounts_of_app(service: &ServiceRole) -> Vec<VolumeMount> {
    let secrets = service.bindings.iter().map(|binding| {
        mount(
            &format!("{BINDING_PREFIX}{}", binding.name),
            &format!("{PATH_BINDINGS}/{}", binding.name),
            true,
        )
    });
    let api = service.api_token.then(|| mount(API_TOKEN, PATH_API_TOKEN, true));
    [mount(TMP, "/tmp", false)]
        .into_iter()
        .chain(secrets)
        .chain(api)
        .chain((!service.token_audiences.is_empty()).then(|| mount(TOKENS, PATH_TOKENS, true)))
        .collect()
}

/// A file for each audience.
fn tokens(audiences: &[String]) -> Volume {
    let of = |audience: &String| token(Some(audience), TOKEN_LIFETIME, audience);
    projected(TOKENS, audiences.iter().map(of).collect())
}

/// What Kubernetes would mount into every container of the pod, the sidecar's too, were it asked to.
fn api_access() -> Volume {
    let (certificates, key) = API_CERTIFICATES;
    projected(
        API_TOKEN,
        vec![
            token(None, API_TOKEN_LIFETIME, "token"),
            VolumeProjection {
                config_map: Some(ConfigMapProjection {
                    name: certificates.to_owned(),
                    items: Some(vec![KeyToPath {
                        key: key.to_owned(),
                        path: key.to_owned(),
                        mode: None,
                    }]),
                    optional: None,
                }),
                ..Default::default()
            },
            VolumeProjection {
                downward_api: Some(DownwardAPIProjection {
                    items: Some(vec![DownwardAPIVolumeFile {
                        path: "namespace".to_owned(),
                        field_ref: Some(ObjectFieldSelector {
                            field_path: "metadata.namespace".to_owned(),
                            api_version: None,
                        }),
                        ..Default::default()
                    }]),
                }),
                ..Default::default()
            },
        ],
    )
}

fn projected(name: &str, sources: Vec<VolumeProjection>) -> Volume {
    Volume {
        name: name.to_owned(),
        projected: Some(ProjectedVolumeSource {
            sources: Some(sources),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// None as the audience: the Kubernetes API.
fn token(audience: Option<&str>, lifetime: i64, key: &str) -> VolumeProjection {
    VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            audience: audience.map(str::to_owned),
            expiration_seconds: Some(lifetime),
            path: key.to_owned(),
        }),
        ..Default::default()
    }
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
