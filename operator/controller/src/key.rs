//! Name of a Microservice in the cluster: what queues, caches and streams are keyed by.

use std::fmt;

use kube::Resource;
use trellis_api::names;

/// Namespace and name of a namespaced object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name in the namespace.
    pub name: String,
}

impl Key {
    /// A key of its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }

    /// Key of the Microservice that an object is labelled with, whoever owns it.
    pub fn of_microservice<K: Resource>(object: &K) -> Option<Self> {
        let meta = object.meta();
        let name = meta.labels.as_ref()?.get(names::LABEL_MICROSERVICE)?;
        Some(Self::new(meta.namespace.clone()?, name.clone()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
