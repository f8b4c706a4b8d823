//! Which other Microservices a Microservice depends on for its objects and its status.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trellis_api::{
    Microservice,
    microservice::{Exposure, FromNamespaces, Gateway, Route},
};

use super::{
    ports::{self, MeshPort},
    routes, validate,
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
    /// The namespace in which gateways may serve it, and then it reads those that do: its sidecar may believe what they
    /// say about callers. None: no gateway serves it.
    pub offered_in: Option<String>,
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
    /// Whether the Microservice `other` is read.
    #[must_use]
    pub fn covers(&self, other: &Microservice) -> bool {
        self.by_name(other) || self.by_gateway(other) || self.by_routes(other)
    }

    /// Whether `other` is a dependency.
    #[must_use]
    pub fn by_name(&self, other: &Microservice) -> bool {
        self.dependencies.contains(&Key::of(other))
    }

    /// Whether `other` is a gateway that may serve it.
    #[must_use]
    pub fn by_gateway(&self, other: &Microservice) -> bool {
        let namespace = other.metadata.namespace.as_deref().unwrap_or_default();
        match (&self.offered_in, &other.spec.gateway) {
            (Some(own), Some(gateway)) => routes::serves(gateway, namespace, Some(own)),
            _ => false,
        }
    }

    /// Whether `other` may have routes beside its own, or be served by it.
    #[must_use]
    pub fn by_routes(&self, other: &Microservice) -> bool {
        match &self.routes {
            Scope::None => false,
            Scope::Namespace(namespace) => other.metadata.namespace.as_ref() == Some(namespace),
            Scope::All => true,
        }
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
/// namespace may serve it, and there an older route of yet another namespace may win. One that is only served by name
/// reads the gateways that serve it.
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
    let offers = cr.spec.exposure.unwrap_or_default() == Exposure::Gateway || !cr.spec.routes.is_empty();
    let offered_in = (cr.spec.gateway.is_none() && offers).then(|| key.namespace.clone());
    let routes = match &cr.spec.gateway {
        Some(gateway) => match gateway.from_namespaces() {
            FromNamespaces::Same => Scope::Namespace(key.namespace),
            FromNamespaces::All => Scope::All,
        },
        None if cr.spec.routes.is_empty() => Scope::None,
        None => Scope::All,
    };
    Interests {
        dependencies,
        routes,
        offered_in,
    }
}
