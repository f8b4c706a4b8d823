//! Routes of a gateway.

use serde::{Deserialize, Serialize};

use crate::ClusterName;

/// A path that leads to a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Name for logs, metrics and policies: `shop/order/orders` (declared) or `shop/order` (by service).
    pub name: String,
    /// Why the route is there.
    pub origin: Origin,
    /// Start of the path, matched by whole elements: `/orders` matches `/orders` and `/orders/7`, not `/orders2`.
    pub path: String,
    /// Methods served; others get 405. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// What happens to the path before the request is forwarded.
    #[serde(default)]
    pub rewrite: Rewrite,
    /// Where requests go.
    pub cluster: ClusterName,
}

impl Route {
    /// Whether some request method is served by both. Two routes of a document may have the same path if not: the
    /// request's method then chooses.
    #[must_use]
    pub fn shares_a_method_with(&self, other: &Self) -> bool {
        methods_overlap(&self.methods, &other.methods)
    }
}

/// Whether two lists of methods, of which an empty one stands for all, have one in common.
#[must_use]
pub fn methods_overlap<T: PartialEq>(left: &[T], right: &[T]) -> bool {
    left.is_empty() || right.is_empty() || left.iter().any(|method| right.contains(method))
}

/// Why a route is there. Of equal paths a declared route wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// A Microservice declares it.
    Declared,
    /// Every exposed Microservice has one at `/{service}`.
    ByService,
}

/// What happens to the path of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Rewrite {
    /// Nothing.
    #[default]
    None,
    /// The route's own path is cut off: `/order/orders/7` becomes `/orders/7`.
    StripPrefix,
}
