//! The newest document of every Microservice and the newest endpoints of every cluster, each in a watch channel.
//!
//! A channel holds one value: a session that is slow sees the newest and never a queue of old ones. A value that is set
//! again unchanged wakes nobody, which is how a change of one pod's annotations costs the proxies nothing.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::{core::v1::ConfigMap, discovery::v1::EndpointSlice};
use tokio::sync::watch;
use trellis_proxy_config::{ClusterName, Endpoints};

use super::{
    document::{self, Published},
    endpoints::{self, Slices},
};
use crate::{cache::Change, error::chain, key::Key};

/// What sessions read.
#[derive(Debug, Default)]
pub struct Index(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    documents: Topics<Key, Option<Arc<Published>>>,
    endpoints: Topics<ClusterName, Arc<Endpoints>>,
    slices: Slices,
}

/// A watch channel per key, as long as it has a value or a reader.
#[derive(Debug)]
struct Topics<K, V>(HashMap<K, watch::Sender<V>>);

impl Index {
    /// Takes a change of a ConfigMap in. A document that cannot be read leaves the one before it in place.
    pub fn config_map(&self, change: &Change<ConfigMap>) {
        let Some(key) = document::microservice(change.object()) else {
            return;
        };
        let document = match change {
            Change::Removed(_) => None,
            Change::Set { after, .. } => match document::read(after) {
                Ok(document) => Some(Arc::new(document)),
                Err(error) => {
                    tracing::warn!(microservice = %key, error = chain(&error), "a boot document is of no use");
                    return;
                }
            },
        };
        self.lock().documents.set(&key, document);
    }

    /// Takes a change of an EndpointSlice in.
    pub fn endpoint_slice(&self, change: &Change<EndpointSlice>) {
        let mut inner = self.lock();
        let mut changed = Vec::new();
        match change {
            Change::Removed(slice) => changed.extend(inner.slices.remove(slice)),
            Change::Set { before, after } => {
                if let Some(before) = before
                    && endpoints::microservice(before) != endpoints::microservice(after)
                {
                    changed.extend(inner.slices.remove(before));
                }
                changed.extend(inner.slices.set(after));
            }
        }
        for (cluster, endpoints) in changed {
            inner.endpoints.set(&cluster, Arc::new(endpoints));
        }
    }

    /// The document of a Microservice, from now on.
    pub fn document(&self, key: &Key) -> watch::Receiver<Option<Arc<Published>>> {
        self.lock().documents.subscribe(key)
    }

    /// The endpoints of a cluster, from now on; empty if there are none.
    pub fn endpoints(&self, cluster: &ClusterName) -> watch::Receiver<Arc<Endpoints>> {
        self.lock().endpoints.subscribe(cluster)
    }

    /// Forgets what nobody reads and has no value, after the readers of `clusters` and `key` are gone.
    pub fn release(&self, key: &Key, clusters: &[ClusterName]) {
        let mut inner = self.lock();
        inner.documents.release(key);
        for cluster in clusters {
            inner.endpoints.release(cluster);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Default for Topics<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone, V: PartialEq + Default> Topics<K, V> {
    fn set(&mut self, key: &K, value: V) {
        let sender = self
            .0
            .entry(key.clone())
            .or_insert_with(|| watch::Sender::new(V::default()));
        sender.send_if_modified(|current| {
            let different = *current != value;
            if different {
                *current = value;
            }
            different
        });
        self.release(key);
    }

    fn subscribe(&mut self, key: &K) -> watch::Receiver<V> {
        self.0
            .entry(key.clone())
            .or_insert_with(|| watch::Sender::new(V::default()))
            .subscribe()
    }

    fn release(&mut self, key: &K) {
        let idle = self
            .0
            .get(key)
            .is_some_and(|sender| sender.receiver_count() == 0 && *sender.borrow() == V::default());
        if idle {
            self.0.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(annotation: &str, addresses: &[&str]) -> Arc<EndpointSlice> {
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|address| json!({"addresses": [address]}))
            .collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "shop", "name": "user-1", "annotations": {"a": annotation},
                    "labels": {"trellis.dev/microservice": "user", "app.kubernetes.io/managed-by": "trellis",
                        "kubernetes.io/service-name": "user",
                        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 15100}],
                "endpoints": endpoints,
            }))
            .unwrap(),
        )
    }

    fn set<K>(after: Arc<K>) -> Change<K> {
        Change::Set { before: None, after }
    }

    #[test]
    fn readers_wake_for_other_endpoints_and_for_nothing_else() {
        let index = Index::default();
        let cluster: ClusterName = "shop/user/http".parse().unwrap();
        let mut reader = index.endpoints(&cluster);
        assert!(reader.borrow_and_update().endpoints.is_empty());
        index.endpoint_slice(&set(slice("1", &["10.0.0.1"])));
        assert!(reader.has_changed().unwrap());
        assert_eq!(reader.borrow_and_update().endpoints.len(), 1);
        index.endpoint_slice(&set(slice("2", &["10.0.0.1"])));
        assert!(!reader.has_changed().unwrap());
        index.endpoint_slice(&Change::Removed(slice("2", &["10.0.0.1"])));
        assert!(reader.borrow_and_update().endpoints.is_empty());
    }

    #[test]
    fn a_slice_that_becomes_another_services_takes_its_endpoints_along() {
        let index = Index::default();
        let reader = index.endpoints(&"shop/user/http".parse().unwrap());
        let before = slice("1", &["10.0.0.1"]);
        index.endpoint_slice(&set(Arc::clone(&before)));
        assert_eq!(reader.borrow().endpoints.len(), 1);
        let mut after = (*before).clone();
        let labels = after.metadata.labels.as_mut().unwrap();
        labels.insert("kubernetes.io/service-name".to_owned(), "user-debug".to_owned());
        index.endpoint_slice(&Change::Set {
            before: Some(before),
            after: Arc::new(after),
        });
        assert!(reader.borrow().endpoints.is_empty());
    }

    #[test]
    fn a_document_that_cannot_be_read_leaves_the_one_before_it() {
        let index = Index::default();
        let config_map = |text: &str| -> Change<ConfigMap> {
            set(Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"namespace": "shop", "name": "user-proxy", "labels": {"trellis.dev/microservice": "user"}},
                    "data": {"proxy.json": text},
                }))
                .unwrap(),
            ))
        };
        let good = json!({"apiVersion": "proxy.trellis.dev/v1", "version": 1, "digest": "abc", "config": {
            "role": "Sidecar", "identity": {"namespace": "shop", "microservice": "user"}}});
        let reader = index.document(&Key::new("shop", "user"));
        index.config_map(&config_map(&good.to_string()));
        index.config_map(&config_map("{"));
        assert_eq!(reader.borrow().as_ref().unwrap().version, 1);
    }

    #[test]
    fn what_has_neither_value_nor_reader_is_forgotten() {
        let index = Index::default();
        let key = Key::new("shop", "nobody");
        let cluster: ClusterName = "shop/nobody/http".parse().unwrap();
        drop((index.document(&key), index.endpoints(&cluster)));
        index.release(&key, &[cluster]);
        let inner = index.lock();
        assert!(inner.documents.0.is_empty() && inner.endpoints.0.is_empty());
    }
}
