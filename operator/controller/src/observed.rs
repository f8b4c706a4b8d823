//! An object of one of Trellis' kinds as the API server sends it: readable, or not by this release.
//!
//! One object that this release cannot parse (written by a newer one, say) must not stop the watch of all others, and
//! must get a status that says so. kube's `DeserializeGuard` keeps the two apart; here the readable ones are shared
//! besides, because a gateway's pass reads hundreds of them.

use std::{borrow::Cow, sync::Arc};

use kube::{
    Resource,
    api::ObjectMeta,
    core::{DeserializeGuard, error_boundary::InvalidObject},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use trellis_api::Microservice;

/// What a watch shows of an object.
#[derive(Debug, Clone)]
pub enum Observed<K = Microservice> {
    /// As its type.
    Readable(Arc<K>),
    /// Its metadata, and why the rest cannot be read.
    Unreadable(Arc<InvalidObject>),
}

impl<K> Observed<K> {
    /// The object, if it is readable.
    pub const fn readable(&self) -> Option<&Arc<K>> {
        match self {
            Self::Readable(object) => Some(object),
            Self::Unreadable(_) => None,
        }
    }
}

impl<K> From<K> for Observed<K> {
    fn from(object: K) -> Self {
        Self::Readable(Arc::new(object))
    }
}

impl<'de, K: DeserializeOwned + Resource> Deserialize<'de> for Observed<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let DeserializeGuard(result) = DeserializeGuard::<K>::deserialize(deserializer)?;
        Ok(result.map_or_else(|invalid| Self::Unreadable(Arc::new(invalid)), Self::from))
    }
}

impl<K: Resource<DynamicType = ()> + Clone> Resource for Observed<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(dt: &()) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &()) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &()) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &()) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Readable(object) => object.meta(),
            Self::Unreadable(invalid) => &invalid.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Readable(object) => Arc::make_mut(object).meta_mut(),
            Self::Unreadable(invalid) => &mut Arc::make_mut(invalid).metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_of_another_shape_keeps_its_metadata_and_says_why() {
        let observed: Observed = serde_json::from_value(json!({
            "apiVersion": "trellis.dev/v1alpha1",
            "kind": "Microservice",
            "metadata": {"name": "user", "namespace": "shop", "generation": 7},
            "spec": {"image": "user:1", "replicas": "many"},
        }))
        .unwrap();
        assert_eq!(observed.meta().generation, Some(7));
        let Observed::Unreadable(invalid) = observed else {
            panic!("readable")
        };
        assert!(invalid.error.contains("many"), "{}", invalid.error);
    }
}
