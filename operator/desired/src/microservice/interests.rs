//! Which other Microservices a Microservice depends on for its objects and its status.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trellis_api::{
    Microservice,
    microservice::{Exposure, FromNamespaces, Gateway, Route},
};

use super::{
    ports::{self, MeshPort},
    validate,
};

/// Namespace and name of a Microservice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    #[must_use]
    pub fn of(cr: &Microservice) -> Self {
        Self {
            namespace: cr.metadata.namespace.clone().unwrap_or_default(),
            name: cr.metadata.name.clone().unwrap_or_default(),
        }
    }
}

/// The Microservices that one reads: a change of any of them is a reason to look at it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interests {
    /// Those in `dependsOn`.
    pub dependencies: BTreeSet<Key>,
    /// Those whose routes meet its own in a gateway.
    pub routes: Scope,
}

/// A set of namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// No namespace.
    None,
    /// This namespace.
    Namespace(String),
    /// Every namespace.
    All,
}

impl Interests {
    /// Whether a change of the Microservice `other` matters.
    #[must_use]
    pub fn covers(&self, other: &Key) -> bool {
        let by_routes = match &self.routes {
            Scope::None => false,
            Scope::Namespace(namespace) => *namespace == other.namespace,
            Scope::All => true,
        };
        by_routes || self.dependencies.contains(other)
    }
}

/// What others see of a Microservice: equal before and after a change, the change concerns nobody else.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    uid: Option<String>,
    created: Option<Time>,
    /// An object that is being deleted offers nothing.
    deleted: bool,
    /// One with faults goes on with what it had.
    faulty: bool,
    ports: Vec<MeshPort>,
    routes: Vec<Route>,
    exposure: Exposure,
    gateway: Option<Gateway>,
}

/// What others see of a Microservice. Its image, environment and replicas are not among it, so that a new image of one
/// service visits nobody else.
#[must_use]
pub fn seen(cr: &Microservice) -> Seen {
    Seen {
        uid: cr.metadata.uid.clone(),
        created: cr.metadata.creation_timestamp.clone(),
        deleted: cr.metadata.deletion_timestamp.is_some(),
        faulty: validate::has_errors(&validate::problems(cr)),
        ports: ports::of(cr),
        routes: cr.spec.routes.clone(),
        exposure: cr.spec.exposure.unwrap_or_default(),
        gateway: cr.spec.gateway.clone(),
    }
}

/// What a Microservice reads of others.
///
/// A gateway reads the namespaces that it serves. A Microservice with declared routes reads all: a gateway of any
/// namespace may serve it, and there an older route of yet another namespace may win.
#[must_use]
pub fn interests(cr: &Microservice) -> Interests {
    let key = Key::of(cr);
    let dependencies = cr
        .spec
        .depends_on
        .iter()
        .map(|dependency| Key {
            namespace: dependency
                .namespace
                .clone()
                .unwrap_or_else(|| key.namespace.clone()),
            name: dependency.microservice.clone(),
        })
        .collect();
    let routes = match &cr.spec.gateway {
        Some(gateway) => match gateway.from_namespaces() {
            FromNamespaces::Same => Scope::Namespace(key.namespace),
            FromNamespaces::All => Scope::All,
        },
        None if cr.spec.routes.is_empty() => Scope::None,
        None => Scope::All,
    };
    Interests { dependencies, routes }
}
