//! From a wire document to one that a proxy may run by.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use http::{HeaderValue, StatusCode};

use crate::{API_VERSION, Document, Fallback, ListenerKind, Role, Route, digest, limit::Rule, path};

/// A document whose every reference leads somewhere. Only [`ValidDocument::check`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidDocument(Document);

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path in the document, for example `config.listeners[0].port`.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl ValidDocument {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// Every fault, not the first.
    pub fn parse(json: &[u8]) -> Result<Self, Vec<Fault>> {
        let document: Document = serde_json::from_slice(json).map_err(|error| {
            vec![Fault {
                path: String::new(),
                message: format!("failed to read the document: {error}"),
            }]
        })?;
        Self::check(document)
    }

    /// Checks a document.
    ///
    /// # Errors
    /// Every fault, not the first.
    pub fn check(document: Document) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        if document.api_version != API_VERSION {
            faults.add(
                "apiVersion",
                format!("this proxy reads {API_VERSION}, not {:?}", document.api_version),
            );
        }
        let config = &document.config;
        // A digest made by a release with more fields than this one knows cannot be recomputed here, so a difference
        // is a fault only if there is none at all.
        if document.digest.is_empty() {
            faults.add(
                "digest",
                format!("is empty; expected something like {:?}", digest::of(config)),
            );
        }
        if config.identity.namespace.is_empty() || config.identity.microservice.is_empty() {
            faults.add("config.identity", "names no Microservice");
        }
        if config.role == Role::Gateway && config.listeners.is_empty() {
            faults.add("config.listeners", "a gateway without a listener serves nobody");
        }
        check_listeners(&document, &mut faults);
        check_outbound(&document, &mut faults);
        check_gateways(&document, &mut faults);
        check_leases(&document, &mut faults);
        check_clusters(&document, &mut faults);
        if faults.0.is_empty() {
            Ok(Self(document))
        } else {
            Err(faults.0)
        }
    }

    /// The document.
    #[must_use]
    pub const fn document(&self) -> &Document {
        &self.0
    }
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault {
            path: path.into(),
            message: message.into(),
        });
    }
}

fn check_listeners(document: &Document, faults: &mut Faults) {
    let config = &document.config;
    let mut ports = BTreeSet::new();
    for (i, listener) in config.listeners.iter().enumerate() {
        let at = format!("config.listeners[{i}]");
        if let ListenerKind::Inbound(inbound) = &listener.kind
            && let Some(bulkhead) = &inbound.bulkhead
        {
            for fault in bulkhead.faults() {
                faults.add(format!("{at}.inbound"), fault.to_string());
            }
        }
        if listener.port == 0 {
            faults.add(format!("{at}.port"), "is 0");
        }
        if !ports.insert(listener.port) {
            faults.add(format!("{at}.port"), format!("{} is used twice", listener.port));
        }
        match &listener.kind {
            ListenerKind::Inbound(inbound) => {
                if inbound.app_port == 0 {
                    faults.add(format!("{at}.inbound.appPort"), "is 0");
                }
                if config.role == Role::Gateway {
                    faults.add(format!("{at}.inbound"), "a gateway has no app");
                }
            }
            ListenerKind::Gateway { routes } => {
                let mut seen: BTreeMap<_, Vec<&Route>> = BTreeMap::new();
                for (j, route) in routes.iter().enumerate() {
                    let at = format!("{at}.gateway.routes[{j}]");
                    if let Err(ambiguity) = path::check(&route.path) {
                        faults.add(format!("{at}.path"), ambiguity.detail());
                    }
                    if !route.path.starts_with('/') {
                        faults.add(
                            format!("{at}.path"),
                            format!("{:?} does not start with /", route.path),
                        );
                    }
                    if !config.clusters.contains_key(&route.cluster) {
                        faults.add(
                            format!("{at}.cluster"),
                            format!("{} is not in config.clusters", route.cluster),
                        );
                    }
                    let as_matched = path::canonical(&route.path).unwrap_or_else(|_| route.path.clone());
                    let key = (route.origin, as_matched);
                    let equal = seen.entry(key).or_default();
                    if let Some(other) = equal.iter().find(|other| other.shares_a_method_with(route)) {
                        faults.add(
                            format!("{at}.path"),
                            format!("{} is served by {} too", route.path, other.name),
                        );
                    }
                    equal.push(route);
                }
            }
        }
    }
}

fn check_outbound(document: &Document, faults: &mut Faults) {
    let config = &document.config;
    let mut hosts = BTreeSet::new();
    for (i, route) in config.outbound.iter().enumerate() {
        let at = format!("config.outbound[{i}]");
        if !config.clusters.contains_key(&route.cluster) {
            faults.add(
                format!("{at}.cluster"),
                format!("{} is not in config.clusters", route.cluster),
            );
        }
        for (j, host) in route.hosts.iter().enumerate() {
            if host.is_empty() || host.bytes().any(|b| b.is_ascii_uppercase() || b == b':') {
                faults.add(
                    format!("{at}.hosts[{j}]"),
                    format!("{host:?} is no lower-case host without a port"),
                );
            }
            if !hosts.insert(host) {
                faults.add(
                    format!("{at}.hosts[{j}]"),
                    format!("{host} leads to two clusters"),
                );
            }
        }
    }
}

fn check_gateways(document: &Document, faults: &mut Faults) {
    for (i, gateway) in document.config.gateways.iter().enumerate() {
        if !document.config.clusters.contains_key(gateway) {
            faults.add(
                format!("config.gateways[{i}]"),
                format!("{gateway} is not in config.clusters"),
            );
        }
    }
}

fn check_leases(document: &Document, faults: &mut Faults) {
    let config = &document.config;
    for (i, limit) in config.limits.iter().enumerate() {
        let Some(lease) = limit.lease else { continue };
        let at = format!("config.limits[{i}].lease");
        if lease.replicas == 0 {
            faults.add(format!("{at}.replicas"), "is 0");
        }
        if matches!(limit.rule, Rule::Concurrency(_)) {
            faults.add(
                &at,
                "requests under way are counted by each pod and cannot be leased",
            );
        }
        if config.quota.is_none() {
            faults.add(&at, "there is no config.quota to lease from");
        }
    }
}

fn check_clusters(document: &Document, faults: &mut Faults) {
    let clusters = &document.config.clusters;
    for (name, cluster) in clusters {
        let at = format!("config.clusters[{name}]");
        for fault in cluster.policy.faults() {
            faults.add(format!("{at}.policy"), fault.to_string());
        }
        match &cluster.fallback {
            Some(Fallback::Cluster(other)) if other == name => {
                faults.add(format!("{at}.fallback"), "is the cluster itself");
            }
            Some(Fallback::Cluster(other)) if !clusters.contains_key(other) => {
                faults.add(
                    format!("{at}.fallback"),
                    format!("{other} is not in config.clusters"),
                );
            }
            Some(Fallback::Static(answer)) => {
                if StatusCode::from_u16(answer.status).is_err() {
                    faults.add(
                        format!("{at}.fallback.status"),
                        format!("{} is no status", answer.status),
                    );
                }
                if HeaderValue::from_str(&answer.content_type).is_err() {
                    let message = format!("{:?} cannot be in a header", answer.content_type);
                    faults.add(format!("{at}.fallback.contentType"), message);
                }
            }
            Some(Fallback::Cluster(_)) | None => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::limit::{Lease, OnLoss};

    const SIDECAR: &str = include_str!("../tests/golden/v1-sidecar.json");
    const GATEWAY: &str = include_str!("../tests/golden/v1-gateway.json");

    #[test]
    fn documents_of_earlier_releases_stay_readable() {
        for text in [SIDECAR, GATEWAY] {
            let document = ValidDocument::parse(text.as_bytes()).unwrap();
            let again = serde_json::to_vec(document.document()).unwrap();
            assert_eq!(ValidDocument::parse(&again).unwrap(), document);
        }
    }

    #[test]
    fn an_unknown_field_is_ignored() {
        let text = SIDECAR.replacen("\"role\"", "\"inventedLater\": {\"a\": 1}, \"role\"", 1);
        assert!(ValidDocument::parse(text.as_bytes()).is_ok());
    }

    #[test]
    fn every_fault_is_named_with_its_path() {
        let text = GATEWAY
            .replace("proxy.trellis.dev/v1", "proxy.trellis.dev/v9")
            .replace("\"path\": \"/orders\"", "\"path\": \"orders\"")
            .replace("\"shop/order/http\": {", "\"shop/gone/http\": {");
        let faults = ValidDocument::parse(text.as_bytes()).unwrap_err();
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "apiVersion",
                "config.listeners[0].gateway.routes[0].path",
                "config.listeners[0].gateway.routes[0].cluster",
                "config.listeners[0].gateway.routes[1].cluster",
            ]
        );
    }

    #[test]
    fn a_gateway_that_is_believed_has_a_cluster() {
        let with = |gateway: &str| {
            let text = SIDECAR.replacen(
                "\"clusters\": {",
                &format!("\"gateways\": [\"{gateway}\"], \"clusters\": {{"),
                1,
            );
            ValidDocument::parse(text.as_bytes())
        };
        assert!(with("shop/user/http").is_ok());
        assert_eq!(
            with("shop/gateway/http").unwrap_err()[0].path,
            "config.gateways[0]"
        );
    }

    #[test]
    fn a_leased_limit_has_a_lender_and_pods_and_counts_rates() {
        let rates =
            r#"{"rates": {"algorithm": "SlidingWindow", "rates": [{"limit": 100, "window": 60000}]}}"#;
        let with = |rule: &str, lease: &str, quota: &str| {
            let limit = format!(
                r#"{{"policy": "limits", "generation": 1, "name": "all", "rule": {rule}, "lease": {lease}}}"#
            );
            let text = SIDECAR.replacen(
                "\"clusters\": {",
                &format!("\"limits\": [{limit}], {quota} \"clusters\": {{"),
                1,
            );
            ValidDocument::parse(text.as_bytes())
        };
        let quota = r#""quota": {"address": "http://quota:8080"},"#;
        let good = with(rates, r#"{"replicas": 3}"#, quota).unwrap();
        let config = &good.document().config;
        assert_eq!(
            config.limits[0].lease,
            Some(Lease {
                replicas: 3,
                on_loss: OnLoss::Share,
            })
        );
        for (rule, lease, quota, path) in [
            (
                rates,
                r#"{"replicas": 3, "onLoss": "Open"}"#,
                "",
                "config.limits[0].lease",
            ),
            (
                rates,
                r#"{"replicas": 0}"#,
                quota,
                "config.limits[0].lease.replicas",
            ),
            (
                r#"{"concurrency": 5}"#,
                r#"{"replicas": 3}"#,
                quota,
                "config.limits[0].lease",
            ),
        ] {
            let faults = with(rule, lease, quota).unwrap_err();
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert_eq!(faults[0].path, path);
        }
    }

    #[test]
    fn a_route_path_that_no_request_has_is_a_fault_and_not_a_document_that_only_the_proxy_refuses() {
        for path in [
            "/a%2fb",
            r"/a\\b",
            "/a%zz",
            "/a%00",
            "/%2e%2e/a",
            "/..;x/a",
            "/a//b",
        ] {
            let text = GATEWAY.replace("\"path\": \"/orders\"", &format!("\"path\": \"{path}\""));
            let faults = ValidDocument::parse(text.as_bytes()).unwrap_err();
            assert_eq!(faults.len(), 1, "{path}: {faults:?}");
            assert_eq!(
                faults[0].path, "config.listeners[0].gateway.routes[0].path",
                "{path}"
            );
        }
    }

    #[test]
    fn routes_that_differ_only_in_escapes_are_one_path() {
        let other = r#"{"name": "shop/order/more", "origin": "Declared", "path": "/%6Frders", "cluster": "shop/order/http"}, {"name": "shop/order", "#;
        let text = GATEWAY.replacen(r#"{"name": "shop/order", "#, other, 1);
        assert_eq!(ValidDocument::parse(text.as_bytes()).unwrap_err().len(), 1);
    }

    #[test]
    fn routes_of_one_path_may_share_it_out_by_method() {
        let faults_with = |methods: &str| {
            let other = format!(
                r#"{{"name": "shop/order/more", "origin": "Declared", "path": "/orders/", "methods": {methods}, "cluster": "shop/order/http"}}, {{"name": "shop/order", "#
            );
            let text = GATEWAY.replacen(r#"{"name": "shop/order", "#, &other, 1);
            ValidDocument::parse(text.as_bytes())
                .err()
                .unwrap_or_default()
                .len()
        };
        assert_eq!(faults_with(r#"["DELETE"]"#), 0);
        assert_eq!(faults_with(r#"["DELETE", "POST"]"#), 1);
        assert_eq!(faults_with("[]"), 1);
    }
}
