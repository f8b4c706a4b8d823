//! The caches of every kind that is read, and what each keeps.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1;
use kube::{Resource, ResourceExt, core::NamespaceResourceScope};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use trellis_api::{Microservice, RateLimitPolicy, Saga, names};
use trellis_operator_desired::rate_limit::{Policies, Unknown};

use crate::{cache::Cache, key::Key, observed::Observed, rate_limits, sagas, stream::index::Index};

/// Every cache.
pub struct Caches {
    /// The primary kind: all of them.
    pub microservices: Arc<Cache<Observed>>,
    /// All of them.
    pub rate_limit_policies: Arc<Cache<Observed<RateLimitPolicy>>>,
    /// All of them.
    pub sagas: Arc<Cache<Observed<Saga>>>,
    /// Children.
    pub deployments: Arc<Cache<Deployment>>,
    /// Children.
    pub services: Arc<Cache<Service>>,
    /// Children: boot documents; and revisions of sagas.
    pub config_maps: Arc<Cache<ConfigMap>>,
    /// Children.
    pub service_accounts: Arc<Cache<ServiceAccount>>,
    /// Children.
    pub autoscalers: Arc<Cache<HorizontalPodAutoscaler>>,
    /// Children.
    pub disruption_budgets: Arc<Cache<PodDisruptionBudget>>,
    /// Pods of Microservices.
    pub pods: Arc<Cache<Pod>>,
    /// Endpoints of their main Services.
    pub endpoint_slices: Arc<Cache<EndpointSlice>>,
}

impl Default for Caches {
    fn default() -> Self {
        Self {
            microservices: Arc::default(),
            rate_limit_policies: Arc::default(),
            sagas: Arc::default(),
            deployments: Arc::new(Cache::packed()),
            services: Arc::new(Cache::packed()),
            config_maps: Arc::new(Cache::packed()),
            service_accounts: Arc::new(Cache::packed()),
            autoscalers: Arc::new(Cache::packed()),
            disruption_budgets: Arc::new(Cache::packed()),
            pods: Arc::new(Cache::packed()),
            endpoint_slices: Arc::new(Cache::packed()),
        }
    }
}

impl Caches {
    /// Caches that publish documents in `index`, and tell `policies` and `sagas` what those are made from: what other replicas write,
    /// as the watch shows it, and what this one writes, of which the watch has nothing new to say.
    pub fn publishing(index: Arc<Index>, policies: rate_limits::Concerned, sagas: sagas::Concerned) -> Self {
        let caches = Self::default();
        let (of_policies, of_sagas) = (policies.clone(), sagas.clone());
        caches.config_maps.tell(move |change| {
            index.config_map(change);
            of_policies.config_map(change);
            of_sagas.config_map(change);
        });
        let (of_policies, of_sagas) = (policies.clone(), sagas.clone());
        let all = Arc::clone(&caches.sagas);
        caches.microservices.tell(move |change| {
            of_policies.microservice(change);
            of_sagas.microservice(change, || all.all().iter().map(|saga| Key::of(&**saga)).collect());
        });
        let (of_sagas, all) = (sagas.clone(), Arc::clone(&caches.sagas));
        caches.pods.tell(move |change| {
            of_sagas.pod(change, || all.all().iter().map(|saga| Key::of(&**saga)).collect());
        });
        caches.sagas.tell(move |change| sagas.saga(change));
        caches
            .rate_limit_policies
            .tell(move |change| policies.policy(change));
        caches
    }

    /// Every Microservice that could be read.
    pub fn readable_microservices(&self) -> Vec<Arc<Microservice>> {
        let all = self.microservices.all();
        all.iter()
            .filter_map(|observed| observed.readable().cloned())
            .collect()
    }

    /// The rate limit policies of a namespace.
    pub fn policies(&self, namespace: &str) -> Policies {
        let all = self.rate_limit_policies.all();
        let unreadable = all.iter().filter(|observed| observed.readable().is_none());
        let unreadable: BTreeSet<String> = unreadable
            .filter(|observed| observed.meta().namespace.as_deref() == Some(namespace))
            .map(|observed| observed.name_any())
            .collect();
        Policies {
            known: self.readable_policies(namespace),
            unknown: if !self.rate_limit_policies.was_listed() {
                Unknown::Everything
            } else if unreadable.is_empty() {
                Unknown::Nothing
            } else {
                Unknown::These(unreadable)
            },
        }
    }

    /// Every rate limit policy of a namespace that could be read.
    pub fn readable_policies(&self, namespace: &str) -> Vec<Arc<RateLimitPolicy>> {
        let all = self.rate_limit_policies.all();
        all.iter()
            .filter_map(|observed| observed.readable())
            .filter(|policy| policy.metadata.namespace.as_deref() == Some(namespace))
            .cloned()
            .collect()
    }
}

/// The object `key` of a cache, if `cr` owns it.
pub fn owned<K: Resource + Clone>(cr: &Microservice, cache: &Cache<K>, key: &Key) -> Option<K> {
    let live = cache.get(key)?;
    let owners = live.meta().owner_references.iter().flatten();
    let ours = owners
        .into_iter()
        .any(|owner| Some(&owner.uid) == cr.metadata.uid.as_ref() && owner.controller == Some(true));
    ours.then(|| (*live).clone())
}

/// A kind of child: what the Applier writes and prunes.
pub trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Where live children of this kind are.
    fn cache(caches: &Caches) -> &Arc<Cache<Self>>;

    /// Drops what nobody reads.
    fn trim(&mut self) {
        self.managed_fields_mut().clear();
    }
}

impl Child for Deployment {
    fn cache(caches: &Caches) -> &Arc<Cache<Self>> {
        &caches.deployments
    }

    /// Who owns `spec.replicas` decides about its handover. So of our own managers' entries that one field stays; the
    /// rest of `managedFields` is most of an object's memory.
    fn trim(&mut self) {
        self.managed_fields_mut().retain_mut(|entry| {
            let ours = matches!(
                entry.manager.as_deref(),
                Some(names::FIELD_MANAGER | names::FIELD_MANAGER_REPLICAS_HANDOVER)
            );
            let fields = entry.fields_v1.as_ref();
            let replicas = fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some());
            entry.fields_v1 = replicas.then(|| FieldsV1(json!({"f:spec": {"f:replicas": {}}})));
            ours && replicas
        });
    }
}

impl Child for Service {
    fn cache(caches: &Caches) -> &Arc<Cache<Self>> {
        &caches.services
    }
}

impl Child for ConfigMap {
    fn cache(caches: &Caches) -> &Arc<Cache<Self>> {
        &caches.config_maps
    }
}

impl Child for ServiceAccount {
    fn cache(caches: &Caches) -> &Arc<Cache<Self>> {
        &caches.service_accounts
    }
}

impl Child for HorizontalPodAutoscaler {
    fn cache(caches: &Caches) -> &Arc<Cache<Self>> {
        &caches.autoscalers
    }
}

impl Child for PodDisruptionBudget {
    fn cache(caches: &Caches) -> &Arc<Cache<Self>> {
        &caches.disruption_budgets
    }
}

/// Drops what nobody reads of an object that is no child.
pub fn trim<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_managed_fields_only_our_hold_on_the_number_of_replicas_stays() {
        let entry = |manager: &str, replicas: bool| {
            let spec = if replicas {
                json!({"f:replicas": {}, "f:template": {}})
            } else {
                json!({"f:template": {}})
            };
            json!({"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": spec}})
        };
        let mut deployment: Deployment = serde_json::from_value(json!({"metadata": {"managedFields": [
            entry(names::FIELD_MANAGER, true),
            entry(names::FIELD_MANAGER_REPLICAS_HANDOVER, false),
            entry("kubectl", true),
        ]}}))
        .unwrap();
        deployment.trim();
        let kept = serde_json::to_value(&deployment.metadata.managed_fields).unwrap();
        assert_eq!(
            kept,
            json!([{"manager": names::FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}])
        );
    }
}
