//! Where a request goes: a route, compiled from the document.

use std::{collections::BTreeSet, sync::Arc};

use http::{HeaderValue, Method};
use trellis_proxy_config::Rewrite;

use crate::cluster::Cluster;

/// Names for logs and metrics. Bounded, because they come from the document, never from a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Labels {
    /// `namespace/microservice` that serves the request.
    pub(crate) service: Arc<str>,
    /// Name of the route, or of the port where there are no routes.
    pub(crate) route: Arc<str>,
}

/// Where a request goes, and what happens to it on the way.
#[derive(Debug)]
pub(crate) struct Route {
    /// Names for logs and metrics.
    pub(crate) labels: Labels,
    /// Who serves it.
    pub(crate) cluster: Arc<Cluster>,
    /// Methods served.
    pub(crate) methods: Methods,
    /// What happens to the path.
    pub(crate) rewrite: Rewrite,
    /// Elements of the route's own path.
    pub(crate) depth: usize,
}

/// Methods that a route serves. HEAD is served wherever GET is (RFC 9110 9.3.2).
#[derive(Debug, Clone, Default)]
pub(crate) struct Methods {
    /// Empty: all.
    listed: Vec<Method>,
}

impl Route {
    /// A route that takes every request as it is.
    pub(crate) fn all(labels: Labels, cluster: Arc<Cluster>) -> Self {
        Self {
            labels,
            cluster,
            methods: Methods::default(),
            rewrite: Rewrite::None,
            depth: 0,
        }
    }
}

impl Methods {
    /// Methods by name; none at all means every method.
    pub(crate) fn new(names: &[String]) -> Self {
        let mut methods: Vec<Method> = names
            .iter()
            .filter_map(|name| Method::from_bytes(name.as_bytes()).ok())
            .collect();
        if methods.contains(&Method::GET) && !methods.contains(&Method::HEAD) {
            methods.push(Method::HEAD);
        }
        Self { listed: methods }
    }

    /// Whether `method` is served.
    pub(crate) fn serve(&self, method: &Method) -> bool {
        self.listed.is_empty() || self.listed.contains(method)
    }

    /// The value of `Allow` for a path that several share.
    pub(crate) fn allow<'a>(all: impl Iterator<Item = &'a Self>) -> HeaderValue {
        let names: BTreeSet<&str> = all
            .flat_map(|methods| &methods.listed)
            .map(Method::as_str)
            .collect();
        let names: Vec<&str> = names.into_iter().collect();
        // Methods are tokens, and tokens are valid in a header.
        HeaderValue::try_from(names.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_served_where_get_is_and_allow_says_so() {
        let methods = Methods::new(&["GET".to_owned(), "POST".to_owned()]);
        assert!(methods.serve(&Method::HEAD) && !methods.serve(&Method::DELETE));
        assert_eq!(Methods::allow([&methods].into_iter()), "GET, HEAD, POST");
        assert!(Methods::new(&[]).serve(&Method::DELETE));
    }
}
