//! The pod template.

use k8s_openapi::{
    api::core::v1::{HostAlias, PodSpec, PodTemplateSpec, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use trellis_api::names::ANNOTATION_TEMPLATE_DIGEST;

use super::{app, gateway, metadata, security, sidecar, volumes};
use crate::microservice::validated::{Role, ServiceRole, Validated};

const LOOPBACK: &str = "127.0.0.1";

/// The template without its digest.
pub(super) fn build(validated: &Validated) -> PodTemplateSpec {
    let settings = &validated.pod;
    let mut labels = settings.metadata.labels.clone();
    labels.extend(metadata::labels(validated));
    let annotations = settings.metadata.annotations.clone();
    let common = PodSpec {
        service_account_name: Some(validated.key.name.clone()),
        automount_service_account_token: Some(false),
        // A Service `order` would otherwise give every pod of the namespace a variable ORDER_PORT.
        enable_service_links: Some(false),
        image_pull_secrets: (!settings.pull_secrets.is_empty()).then(|| settings.pull_secrets.clone()),
        termination_grace_period_seconds: Some(
            i64::try_from(settings.grace_period.as_secs_ceil()).unwrap_or(i64::MAX),
        ),
        topology_spread_constraints: Some(vec![spread_over_nodes(validated)]),
        ..Default::default()
    };
    let spec = match &validated.role {
        Role::Service(service) => PodSpec {
            init_containers: Some(vec![sidecar::build(validated, service)]),
            containers: vec![app::build(validated, service)],
            host_aliases: host_aliases(service),
            security_context: Some(security::pod(service.security.fs_group)),
            volumes: Some(
                volumes::of_app(service)
                    .into_iter()
                    .chain(volumes::of_proxy(validated))
                    .collect(),
            ),
            ..common
        },
        Role::Gateway(gateway) => PodSpec {
            containers: vec![gateway::build(validated, gateway)],
            security_context: Some(security::pod(None)),
            volumes: Some(volumes::of_proxy(validated)),
            ..common
        },
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..Default::default()
        }),
        spec: Some(spec),
    }
}

/// Digest of a template, by which its pods are known.
pub(super) fn digest(template: &PodTemplateSpec) -> String {
    trellis_proxy_config::digest::of(template)
}

/// Writes the digest into the template.
pub(super) fn stamp(mut template: PodTemplateSpec, digest: String) -> PodTemplateSpec {
    template
        .metadata
        .get_or_insert_default()
        .annotations
        .get_or_insert_default()
        .insert(ANNOTATION_TEMPLATE_DIGEST.to_owned(), digest);
    template
}

/// Names of dependencies lead to the sidecar's outbound listener.
fn host_aliases(service: &ServiceRole) -> Option<Vec<HostAlias>> {
    let hostnames: Vec<String> = service
        .dependencies
        .iter()
        .flat_map(|dependency| dependency.hosts.clone())
        .collect();
    (!hostnames.is_empty()).then(|| {
        vec![HostAlias {
            ip: LOOPBACK.to_owned(),
            hostnames: Some(hostnames),
        }]
    })
}

/// Pods of one revision go to different nodes where they can.
fn spread_over_nodes(validated: &Validated) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(metadata::label_selector(validated)),
        match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
        ..Default::default()
    }
}
