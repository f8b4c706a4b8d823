//! What is decided about a request before anything is done with it.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    failure::Failure,
    route::{Labels, Route},
};

/// Where a request goes, or why it goes nowhere. Travels in the request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Names for logs and metrics; also of a request that goes nowhere.
    pub(crate) labels: Labels,
    /// The decision.
    pub(crate) route: Result<Arc<Route>, Failure>,
}

/// Which endpoint answered. Travels in the response's extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upstream(pub(crate) SocketAddr);

impl Target {
    /// A request that takes a route.
    pub(crate) fn to(route: &Arc<Route>) -> Self {
        Self {
            labels: route.labels.clone(),
            route: Ok(Arc::clone(route)),
        }
    }

    /// A request that goes nowhere.
    pub(crate) fn refused(labels: Labels, failure: Failure) -> Self {
        Self {
            labels,
            route: Err(failure),
        }
    }
}
