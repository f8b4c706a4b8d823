//! How a cache keeps an object: as its type, or as JSON.
//!
//! The types of Kubernetes have room for every field that there is, set or not: a `Volume` takes 3.2 kB and a container
//! 2.1 kB, so a Deployment of ours takes more than 40 kB and its JSON a tenth of that. Children are read a few times a
//! pass, which makes requests of milliseconds; reading one out of its JSON takes some tens of microseconds.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

/// An object, ready to be read.
pub enum Kept<K> {
    /// As its type.
    Whole(Arc<K>),
    /// As JSON, and how to read it.
    Packed(Arc<[u8]>, fn(&[u8]) -> serde_json::Result<K>),
}

/// How to make JSON of an object, and an object of JSON.
pub struct Form<K> {
    write: fn(&K) -> serde_json::Result<Vec<u8>>,
    read: fn(&[u8]) -> serde_json::Result<K>,
}

impl<K: Serialize + DeserializeOwned> Form<K> {
    /// serde's.
    pub fn json() -> Self {
        Self {
            write: serde_json::to_vec,
            read: |bytes| serde_json::from_slice(bytes),
        }
    }
}

impl<K> Kept<K> {
    /// Keeps an object in a form, or else as it is.
    pub fn new(object: &Arc<K>, form: Option<&Form<K>>) -> Self {
        form.and_then(|form| Some(Self::Packed((form.write)(object).ok()?.into(), form.read)))
            .unwrap_or_else(|| Self::Whole(Arc::clone(object)))
    }

    /// The object. None if its type cannot read what it has written; who asks then finds none, and looks for itself.
    pub fn read(&self) -> Option<Arc<K>> {
        match self {
            Self::Whole(object) => Some(Arc::clone(object)),
            Self::Packed(bytes, read) => read(bytes)
                .inspect_err(|error| tracing::error!(%error, "failed to read an object that was kept"))
                .ok()
                .map(Arc::new),
        }
    }
}

impl<K> Clone for Kept<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Whole(object) => Self::Whole(Arc::clone(object)),
            Self::Packed(bytes, read) => Self::Packed(Arc::clone(bytes), *read),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_that_was_kept_as_json_is_read_as_it_was() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {
                "name": "user",
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "managedFields": [{"manager": "a", "fieldsV1": {"f:spec": {"f:replicas": {}}}}],
            },
            "spec": {"selector": {}, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}, "template": {
                "spec": {"containers": [{"name": "app", "resources": {"limits": {"cpu": "0.5"}}}]},
            }},
        }))
        .unwrap();
        let kept = Kept::new(&Arc::new(deployment.clone()), Some(&Form::json()));
        assert!(matches!(kept, Kept::Packed(..)));
        assert_eq!(kept.read().as_deref(), Some(&deployment));
    }
}
