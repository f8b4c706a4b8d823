//! From a Microservice without faults and what was read to [`Validated`]: defaults and references.

use std::{iter, sync::Arc};

use k8s_openapi::{
    api::apps::v1::Deployment,
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, OwnerReference},
};
use kube::Resource as _;
use trellis_api::{Microservice, Problem, RateLimitPolicy, names};
use trellis_proxy_config::Document;

use super::{
    Fetched, Key, Settings, dependencies, gateways, interests, ports, resilience, routes,
    validated::{
        DeclaredRoutes, DocumentOrder, GRACE_PERIOD, GatewayRole, Listener, LiveDeployment, PRE_STOP_DELAY,
        PodSettings, ProxySettings, Role, Scaling, ServiceRole, Validated,
    },
};
use crate::rate_limit;

/// Fills in what the spec leaves open.
pub(super) fn resolve(
    cr: &Microservice,
    fetched: &Fetched,
    settings: &Settings,
    warnings: Vec<Problem>,
) -> Validated {
    let spec = &cr.spec;
    let key = Key::of(cr);
    let live_document = fetched.proxy_config.as_ref().and_then(document);
    // The cache may hold an older version of the one in question.
    let others: Vec<&Microservice> = fetched
        .microservices
        .iter()
        .map(Arc::as_ref)
        .filter(|other| Key::of(other) != key)
        .collect();
    let role = match &spec.gateway {
        Some(gateway) => {
            let mut table = routes::table(&key.namespace, gateway, &others, live_document.as_ref());
            let resilience = spec.resilience.clone().unwrap_or_default();
            for cluster in table.clusters.values_mut() {
                cluster.policy = resilience::policy_of_gateway(&resilience);
                cluster.fallback = resilience::fallback(&resilience, iter::empty());
            }
            let listeners = ports::of(cr)
                .into_iter()
                .zip(&gateway.listeners)
                .map(|(port, listener)| Listener {
                    port,
                    node_port: listener.node_port,
                })
                .collect();
            Role::Gateway(GatewayRole {
                listeners,
                routes: table.routes,
                clusters: table.clusters,
                resources: spec.resources.clone().unwrap_or_default(),
                image_pull_policy: spec.image_pull_policy,
                host: settings.gateway_host.clone(),
            })
        }
        None => Role::Service(Box::new(service(
            cr,
            fetched,
            settings,
            &others,
            live_document.as_ref(),
        ))),
    };
    let scaling = scaling(cr, fetched);
    let limits = rate_limit::resolve(
        cr,
        &fetched.rate_limit_policies,
        live_document.as_ref(),
        scaling.most_replicas(),
        &settings.namespace,
    );
    Validated {
        owner: owner(cr),
        role,
        scaling,
        limits,
        pod: PodSettings {
            metadata: spec.pod_metadata.clone().unwrap_or_default(),
            pull_secrets: spec.image_pull_secrets.clone(),
            grace_period: spec.termination_grace_period.unwrap_or(GRACE_PERIOD),
        },
        proxy: ProxySettings {
            image: settings.proxy_image.clone(),
            stream_address: settings.config_stream_address.clone(),
            quota_address: settings.quota_address.clone(),
            telemetry_endpoint: settings.telemetry_endpoint.clone(),
        },
        document: DocumentOrder {
            newest_input: newest_input(cr, &others, &fetched.rate_limit_policies.known),
            live: live_document,
        },
        live: fetched.deployment.as_ref().map(live).unwrap_or_default(),
        warnings,
        key,
    }
}

fn service(
    cr: &Microservice,
    fetched: &Fetched,
    settings: &Settings,
    others: &[&Microservice],
    live_document: Option<&Document>,
) -> ServiceRole {
    let spec = &cr.spec;
    let known = ports::known(live_document, fetched.deployment.as_ref());
    let (has_gateway, lost) = routes::declared(cr, others);
    let pre_stop_delay = spec.pre_stop_delay.unwrap_or(PRE_STOP_DELAY);
    ServiceRole {
        image: spec.image.clone().unwrap_or_default(),
        image_pull_policy: spec.image_pull_policy,
        command: spec.command.clone(),
        args: spec.args.clone(),
        ports: ports::assign(&spec.ports, &known),
        env: spec.env.clone(),
        env_from: spec.env_from.clone(),
        bindings: spec.bindings.clone(),
        dependencies: dependencies::resolve(cr, others, live_document, fetched.deployment.as_ref()),
        participants: dependencies::participants(cr, &fetched.participants, others, live_document),
        gateways: gateways::resolve(cr, others, live_document, &settings.trusted_gateway_namespaces),
        probes: spec.probes.clone().unwrap_or_default(),
        resources: spec.resources.clone().unwrap_or_default(),
        security: spec.security_context.clone().unwrap_or_default(),
        api_token: spec.automount_service_account_token,
        token_audiences: spec.token_audiences.clone(),
        pre_stop_delay: (pre_stop_delay.as_millis() > 0).then_some(pre_stop_delay),
        routes: DeclaredRoutes {
            count: spec.routes.len(),
            has_gateway,
            lost,
        },
    }
}

fn owner(cr: &Microservice) -> Option<OwnerReference> {
    cr.controller_owner_ref(&())
        .filter(|reference| !reference.uid.is_empty())
        .map(|reference| OwnerReference {
            block_owner_deletion: Some(true),
            ..reference
        })
}

/// The document in a live ConfigMap. One that cannot be read is replaced like one that is not there.
fn document(config_map: &k8s_openapi::api::core::v1::ConfigMap) -> Option<Document> {
    let text = config_map.data.as_ref()?.get(names::KEY_PROXY_CONFIG)?;
    serde_json::from_str(text).ok()
}

fn scaling(cr: &Microservice, fetched: &Fetched) -> Scaling {
    let live = fetched
        .deployment
        .as_ref()
        .and_then(|deployment| deployment.spec.as_ref()?.replicas);
    let Some(autoscaling) = &cr.spec.autoscaling else {
        // The count that an autoscaler left stays. None at all is only ever asked for in the spec.
        let running = live.filter(|live| *live >= 1);
        return Scaling::Fixed(cr.spec.replicas.or(running).unwrap_or(1));
    };
    let owned = fetched
        .deployment
        .as_ref()
        .is_some_and(|deployment| owns_replicas(deployment, fetched.autoscaler.is_some()));
    let handover = match live {
        // An autoscaler leaves a Deployment alone that was scaled to zero by hand, whoever did it.
        Some(0) => Some(autoscaling.min),
        live => live.filter(|_| owned),
    };
    Scaling::Auto {
        autoscaling: autoscaling.clone(),
        handover,
    }
}

/// Whether this operator sent `spec.replicas` last. Without `managedFields`, as long as there is no autoscaler.
fn owns_replicas(deployment: &Deployment, has_autoscaler: bool) -> bool {
    let Some(managed) = &deployment.metadata.managed_fields else {
        return !has_autoscaler;
    };
    managed.iter().any(|entry: &ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(names::FIELD_MANAGER)
            && entry
                .fields_v1
                .as_ref()
                .is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    })
}

/// Whether every pod is of the live Deployment's template, as `kubectl rollout status` reads it, and none of another is
/// still on its way out.
fn live(deployment: &Deployment) -> LiveDeployment {
    let template_digest = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.template.metadata.as_ref()?.annotations.as_ref())
        .and_then(|annotations| annotations.get(names::ANNOTATION_TEMPLATE_DIGEST))
        .cloned();
    let settled = deployment.status.as_ref().is_some_and(|status| {
        let replicas = status.replicas.unwrap_or_default();
        status.observed_generation >= deployment.metadata.generation
            && status.updated_replicas.unwrap_or_default() == replicas
            && status.terminating_replicas.unwrap_or_default() == 0
    });
    LiveDeployment {
        template_digest,
        settled,
    }
}

/// Highest resourceVersion of the Microservice and of those that its document is made from. Resource versions of one
/// cluster are comparable numbers (KEP-5504).
fn newest_input(cr: &Microservice, others: &[&Microservice], policies: &[Arc<RateLimitPolicy>]) -> u64 {
    let interests = interests(cr);
    let for_document = |other: &&&Microservice| {
        interests.by_name(other)
            || interests.by_gateway(other)
            || (cr.spec.gateway.is_some() && interests.by_routes(other))
    };
    others
        .iter()
        .filter(for_document)
        .copied()
        .chain([cr])
        .map(|cr| &cr.metadata)
        .chain(policies.iter().map(|policy| &policy.metadata))
        .filter_map(|metadata| metadata.resource_version.as_deref()?.parse().ok())
        .max()
        .unwrap_or_default()
}
