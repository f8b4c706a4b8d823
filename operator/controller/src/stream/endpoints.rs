//! From EndpointSlices to the endpoints of clusters: pure.
//!
//! A cluster is a port of a Microservice's main Service. Its endpoints are the addresses of every slice of that Service
//! that are ready and not terminating: a pod on its way out still answers, and must get no new requests.
//!
//! The slice controller copies the Service's labels to its slices, which is how they are found. Labels alone make no
//! endpoint: a copy of the Service, made to debug it, has them too. So a slice counts only if the slice controller made
//! it for the Service of the Microservice's name. What this does not protect against: somebody who may write
//! EndpointSlices in the namespace and claims all of that; Kubernetes' own roles give that right to nobody.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use trellis_api::names;
use trellis_config_stream::v1;
use trellis_proxy_config::{ClusterName, Endpoints};

use crate::key::Key;

/// Slices of main Services: those of headless ones show the same pods again.
pub const SELECTOR: &str = "app.kubernetes.io/managed-by=trellis,!service.kubernetes.io/headless";

/// Label of a slice with the Service that it is of.
const LABEL_SERVICE: &str = "kubernetes.io/service-name";
/// Label of a slice with who writes it.
const LABEL_WRITER: &str = "endpointslice.kubernetes.io/managed-by";
/// Value of [`LABEL_WRITER`]: the controller that makes slices of a Service's selector.
const WRITER: &str = "endpointslice-controller.k8s.io";

/// Addresses by name of the port.
type Ports = BTreeMap<String, Vec<SocketAddr>>;

/// Every slice, by Microservice and name.
#[derive(Debug, Default)]
pub struct Slices(HashMap<Key, HashMap<String, Ports>>);

impl Slices {
    /// Takes a slice in; answers the endpoints of every cluster that it may have changed.
    pub fn set(&mut self, slice: &EndpointSlice) -> Vec<(ClusterName, Endpoints)> {
        let Some(key) = microservice(slice) else {
            return Vec::new();
        };
        let slices = self.0.entry(key.clone()).or_default();
        let name = slice.metadata.name.clone().unwrap_or_default();
        let before = slices.insert(name, ports(slice)).unwrap_or_default();
        self.changed(&key, &before)
    }

    /// Takes a slice out; answers the endpoints of every cluster that it was part of.
    pub fn remove(&mut self, slice: &EndpointSlice) -> Vec<(ClusterName, Endpoints)> {
        let Some(key) = microservice(slice) else {
            return Vec::new();
        };
        let Some(slices) = self.0.get_mut(&key) else {
            return Vec::new();
        };
        let before = slices
            .remove(slice.metadata.name.as_deref().unwrap_or_default())
            .unwrap_or_default();
        let changed = self.changed(&key, &before);
        if self.0.get(&key).is_some_and(HashMap::is_empty) {
            self.0.remove(&key);
        }
        changed
    }

    /// Endpoints of the clusters of a Microservice: those that it has, and those that it had `before`.
    fn changed(&self, key: &Key, before: &Ports) -> Vec<(ClusterName, Endpoints)> {
        let slices = || self.0.get(key).into_iter().flat_map(HashMap::values);
        let names: HashSet<&String> = before.keys().chain(slices().flat_map(BTreeMap::keys)).collect();
        names
            .into_iter()
            .map(|port| {
                let cluster = ClusterName {
                    namespace: key.namespace.clone(),
                    microservice: key.name.clone(),
                    port: port.clone(),
                };
                let addresses = slices().filter_map(|ports| ports.get(port)).flatten().copied();
                (cluster, addresses.collect())
            })
            .collect()
    }
}

/// Key of the Microservice whose endpoints are in the slice; None: nobody's.
pub fn microservice(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let is = |label: &str, value: &str| labels.get(label).is_some_and(|found| found == value);
    let key = Key::of_microservice(slice)?;
    // The main Service of a Microservice has its name.
    let counts = is(names::LABEL_MANAGED_BY, names::MANAGED_BY)
        && is(LABEL_SERVICE, &key.name)
        && is(LABEL_WRITER, WRITER);
    counts.then_some(key)
}

/// The message with the endpoints of a cluster.
pub fn message(cluster: &ClusterName, endpoints: &Endpoints) -> v1::SubscribeResponse {
    let endpoints = v1::ClusterEndpoints {
        cluster: cluster.to_string(),
        endpoints: endpoints
            .endpoints
            .iter()
            .map(|endpoint| v1::Endpoint {
                address: endpoint.address.ip().to_string(),
                port: u32::from(endpoint.address.port()),
            })
            .collect(),
    };
    v1::SubscribeResponse {
        message: Some(v1::subscribe_response::Message::Endpoints(endpoints)),
    }
}

fn ports(slice: &EndpointSlice) -> Ports {
    let addresses: Vec<IpAddr> = slice
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            // Unset means ready, and not terminating (the API's own rule).
            let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            let terminating = conditions
                .and_then(|conditions| conditions.terminating)
                .unwrap_or(false);
            ready && !terminating
        })
        // The first address is the endpoint's; more than one has never had a meaning.
        .filter_map(|endpoint| endpoint.addresses.first()?.parse().ok())
        .collect();
    slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let number = port.port.and_then(|number| u16::try_from(number).ok())?;
            let addresses = addresses.iter().map(|ip| SocketAddr::new(*ip, number)).collect();
            Some((port.name.clone().unwrap_or_default(), addresses))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(name: &str, endpoints: Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {
                "trellis.dev/microservice": "user",
                "app.kubernetes.io/managed-by": "trellis",
                "kubernetes.io/service-name": "user",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            }},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 15100}, {"name": "grpc", "port": 15101}],
            "endpoints": endpoints,
        }))
        .unwrap()
    }

    fn endpoint(address: &str, ready: bool, terminating: bool) -> Value {
        json!({"addresses": [address], "conditions": {"ready": ready, "terminating": terminating}})
    }

    fn of(changed: &[(ClusterName, Endpoints)], port: &str) -> Vec<String> {
        let (_, endpoints) = changed.iter().find(|(cluster, _)| cluster.port == port).unwrap();
        endpoints
            .endpoints
            .iter()
            .map(|endpoint| endpoint.address.to_string())
            .collect()
    }

    #[test]
    fn endpoints_are_ready_addresses_that_do_not_terminate() {
        let changed = Slices::default().set(&slice(
            "a",
            json!([
                endpoint("10.0.0.2", true, false),
                endpoint("10.0.0.1", true, false),
                endpoint("10.0.0.3", false, false),
                endpoint("10.0.0.4", true, true),
                {"addresses": ["10.0.0.5"]},
            ]),
        ));
        assert_eq!(
            of(&changed, "http"),
            ["10.0.0.1:15100", "10.0.0.2:15100", "10.0.0.5:15100"]
        );
        assert_eq!(of(&changed, "grpc").len(), 3);
        assert_eq!(changed[0].0.microservice, "user");
    }

    #[test]
    fn a_slice_of_a_copied_service_or_of_somebody_elses_making_is_no_endpoint() {
        let good = slice("a", json!([endpoint("10.0.0.1", true, false)]));
        assert_eq!(microservice(&good), Some(Key::new("shop", "user")));
        for (label, value) in [
            ("kubernetes.io/service-name", Some("user-debug")),
            ("kubernetes.io/service-name", Some("user-headless")),
            ("kubernetes.io/service-name", None),
            (
                "endpointslice.kubernetes.io/managed-by",
                Some("endpointslicemirroring-controller.k8s.io"),
            ),
            ("endpointslice.kubernetes.io/managed-by", None),
            ("app.kubernetes.io/managed-by", Some("somebody")),
            ("trellis.dev/microservice", None),
        ] {
            let mut other = good.clone();
            let labels = other.metadata.labels.as_mut().unwrap();
            labels.remove(label);
            labels.extend(value.map(|value| (label.to_owned(), value.to_owned())));
            let mut slices = Slices::default();
            assert!(slices.set(&other).is_empty(), "{label}: {value:?}");
            assert!(slices.0.is_empty(), "{label}: {value:?}");
        }
    }

    #[test]
    fn the_slices_of_a_service_add_up_and_a_lost_one_is_taken_off() {
        let mut slices = Slices::default();
        slices.set(&slice("a", json!([endpoint("10.0.0.1", true, false)])));
        let changed = slices.set(&slice("b", json!([endpoint("10.0.0.2", true, false)])));
        assert_eq!(of(&changed, "http").len(), 2);
        let changed = slices.remove(&slice("a", json!([])));
        assert_eq!(of(&changed, "http"), ["10.0.0.2:15100"]);
        let changed = slices.remove(&slice("b", json!([])));
        assert!(of(&changed, "http").is_empty(), "an empty set is told");
        assert!(slices.0.is_empty());
    }

    #[test]
    fn a_port_that_goes_is_told_as_empty() {
        let mut slices = Slices::default();
        slices.set(&slice("a", json!([endpoint("10.0.0.1", true, false)])));
        let mut after = slice("a", json!([endpoint("10.0.0.1", true, false)]));
        after.ports.as_mut().unwrap().pop();
        let changed = slices.set(&after);
        assert!(of(&changed, "grpc").is_empty());
        assert_eq!(of(&changed, "http").len(), 1);
    }

    #[test]
    fn the_message_has_the_clusters_name_and_addresses() {
        let endpoints = Endpoints::from_iter(["10.0.0.1:15100".parse().unwrap()]);
        let message = message(&"shop/user/http".parse().unwrap(), &endpoints);
        let Some(v1::subscribe_response::Message::Endpoints(message)) = message.message else {
            panic!("another message");
        };
        assert_eq!(message.cluster, "shop/user/http");
        assert_eq!(
            (&*message.endpoints[0].address, message.endpoints[0].port),
            ("10.0.0.1", 15100)
        );
    }
}
