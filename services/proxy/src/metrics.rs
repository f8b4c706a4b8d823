//! Request metrics of the proxy. Names are those of every Trellis process ([`trellis_chassis::metrics`]); the proxy adds
//! the direction, because one proxy sees its service from both sides.
//!
//! | name | labels |
//! |---|---|
//! | `request_total` | service, route, method, status, direction |
//! | `response_time_seconds` | service, route, method, direction |
//! | `active_connections` (requests being answered) | service, route, method, direction |
//! | `http_server_request_duration_seconds` | http_request_method, http_route, http_response_status_code, direction |
//! | `caller_connections`, `caller_connections_full_total` | direction, port |
//! | `refused_heads_total` | direction, port, reason |
//! | `circuit_breaker_state`, `circuit_breaker_opened_total` | cluster |
//! | `endpoint_circuit_breaker_state` | cluster, endpoint |
//! | `retries_total`, `retries_out_of_budget_total`, `fallbacks_total` | cluster |
//! | `bulkhead_requests`, `bulkhead_waiting` | cluster |
//! | `inbound_bulkhead_requests`, `inbound_bulkhead_waiting` | port |
//! | `rate_limit_refused_total`, `rate_limit_shadow_refused_total`, `rate_limit_keys`, `rate_limit_keys_evicted_total`, `rate_limit_leased_keys` | policy, limit, route |
//!
//! Bounded: service and route come from the document in use, methods are the registered ones or `_OTHER`. What a new
//! document has no longer goes from the metrics as well ([`Metrics::retain`]).

mod connections;
mod policies;
mod series;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use self::series::Series;
pub(crate) use self::{
    connections::{BadHead, Connections, PortLabels},
    policies::OfPolicies,
};
use crate::{direction::Direction, route::Labels};

/// Bounds in seconds, from OpenTelemetry's semantic conventions, and one millisecond, which is much inside a mesh.
const SECONDS: [f64; 15] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Request metrics; clones count into the same families.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    total: Series<AnsweredLabels, Counter>,
    response_time: Series<RequestLabels, Histogram>,
    active: Series<RequestLabels, Gauge>,
    duration: Series<ConventionLabels, Histogram>,
    members: Arc<RwLock<HashMap<RequestLabels, Arc<Members>>>>,
    connections: Connections,
}

/// A request that is counted in.
#[derive(Debug)]
pub(crate) struct Active {
    labels: RequestLabels,
    /// The members that it counts into, which may be removed meanwhile.
    members: Arc<Members>,
}

/// The members of a route and method. They are looked up once a request, and not once a family.
#[derive(Debug)]
struct Members {
    active: Gauge,
    response_time: Histogram,
    /// By status; there are few.
    answered: RwLock<Vec<(u16, Answered)>>,
}

#[derive(Debug, Clone)]
struct Answered {
    total: Counter,
    duration: Histogram,
}

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    service: Arc<str>,
    route: Arc<str>,
    method: &'static str,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnsweredLabels {
    service: Arc<str>,
    route: Arc<str>,
    method: &'static str,
    status: u16,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConventionLabels {
    http_request_method: &'static str,
    http_route: Arc<str>,
    http_response_status_code: u16,
    direction: &'static str,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl RequestLabels {
    /// Labels of a request with `method`.
    pub(crate) fn new(labels: &Labels, method: &http::Method, direction: Direction) -> Self {
        Self {
            service: Arc::clone(&labels.service),
            route: Arc::clone(&labels.route),
            method: trellis_chassis::metrics::known_method(method),
            direction: direction.as_str(),
        }
    }
}

impl Metrics {
    /// Registers the families; once per registry.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            total: Series::default(),
            response_time: Series::of(seconds),
            active: Series::default(),
            duration: Series::of(seconds),
            members: Arc::default(),
            connections: Connections::register(registry),
        };
        registry.register("request", "Requests answered", metrics.total.family());
        registry.register_with_unit(
            "response_time",
            "Time from the request's head to the response's head",
            Unit::Seconds,
            metrics.response_time.family(),
        );
        registry.register(
            "active_connections",
            "Requests being answered now",
            metrics.active.family(),
        );
        registry.register_with_unit(
            "http_server_request_duration",
            "Duration of HTTP server requests (OpenTelemetry semantic convention)",
            Unit::Seconds,
            metrics.duration.family(),
        );
        metrics
    }

    /// Metrics of connections.
    pub(crate) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Counts a request in.
    pub(crate) fn begin(&self, labels: RequestLabels) -> Active {
        let members = self.members(&labels);
        members.active.inc();
        Active { labels, members }
    }

    fn members(&self, labels: &RequestLabels) -> Arc<Members> {
        if let Some(members) = self.members.read().get(labels) {
            return Arc::clone(members);
        }
        let mut all = self.members.write();
        let members = all.entry(labels.clone()).or_insert_with(|| {
            Arc::new(Members {
                active: self.active.member(labels),
                response_time: self.response_time.member(labels),
                answered: RwLock::default(),
            })
        });
        Arc::clone(members)
    }

    /// Counts a request out.
    pub(crate) fn end(&self, active: &Active, status: u16, to_head: Duration) {
        let Active { labels, members } = active;
        members.active.dec();
        let seconds = to_head.as_secs_f64();
        members.response_time.observe(seconds);
        let answered = self.answered(labels, members, status);
        answered.duration.observe(seconds);
        answered.total.inc();
    }

    fn answered(&self, labels: &RequestLabels, members: &Members, status: u16) -> Answered {
        let of_status = |all: &[(u16, Answered)]| {
            let found = all.iter().find(|(of, _)| *of == status);
            found.map(|(_, answered)| answered.clone())
        };
        if let Some(answered) = of_status(&members.answered.read()) {
            return answered;
        }
        let RequestLabels {
            service,
            route,
            method,
            direction,
        } = labels.clone();
        let duration = self.duration.member(&ConventionLabels {
            http_request_method: method,
            http_route: Arc::clone(&route),
            http_response_status_code: status,
            direction,
        });
        let total = self.total.member(&AnsweredLabels {
            service,
            route,
            method,
            status,
            direction,
        });
        let mut all = members.answered.write();
        if let Some(answered) = of_status(&all) {
            return answered;
        }
        let answered = Answered { total, duration };
        all.push((status, answered.clone()));
        answered
    }

    /// Forgets services, routes and ports that are not in use any more. Requests that are still being answered stay in
    /// `active_connections`.
    pub(crate) fn retain(&self, names: &HashSet<Labels>, ports: impl Fn(u16) -> bool) {
        let routes: HashSet<&Arc<str>> = names.iter().map(|labels| &labels.route).collect();
        let in_use = |service: &Arc<str>, route: &Arc<str>| {
            names.contains(&Labels {
                service: Arc::clone(service),
                route: Arc::clone(route),
            })
        };
        // Before the families: who comes now finds no members that are about to go.
        let mut members = self.members.write();
        members.retain(|labels, _| in_use(&labels.service, &labels.route));
        self.active
            .retain(|labels, active| in_use(&labels.service, &labels.route) || active.get() != 0);
        self.response_time
            .retain(|labels, _| in_use(&labels.service, &labels.route));
        self.total
            .retain(|labels, _| in_use(&labels.service, &labels.route));
        self.duration
            .retain(|labels, _| routes.contains(&labels.http_route));
        self.connections.retain(ports);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn labels(route: &str) -> Labels {
        Labels {
            service: "shop/order".into(),
            route: route.into(),
        }
    }

    #[test]
    fn what_is_not_in_use_any_more_goes_and_what_is_being_answered_is_not_counted_below_none() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        let request = |route| RequestLabels::new(&labels(route), &http::Method::GET, Direction::Gateway);
        let done = |route| metrics.end(&metrics.begin(request(route)), 200, Duration::ZERO);
        done("stays");
        done("goes");
        let running = metrics.begin(request("goes"));
        let stays = HashSet::from([labels("stays")]);
        metrics.retain(&stays, |_| true);
        let goes: Vec<String> = text()
            .lines()
            .filter(|line| line.contains("\"goes\""))
            .map(str::to_owned)
            .collect();
        assert_eq!(goes.len(), 1, "{goes:?}");
        assert!(
            goes[0].starts_with("active_connections") && goes[0].ends_with(" 1"),
            "{goes:?}"
        );

        metrics.end(&running, 200, Duration::ZERO);
        metrics.retain(&stays, |_| true);
        assert!(!text().contains("goes"), "{}", text());
        assert!(text().contains("\"stays\""));
    }

    #[test]
    fn a_port_goes_with_its_last_connection() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let port = PortLabels::new(Direction::Inbound, 15100);
        let open = metrics.connections().open(&port);
        metrics.connections().full(&port);
        open.inc();
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        metrics.retain(&HashSet::new(), |_| false);
        assert!(text().contains("15100"));
        open.dec();
        metrics.retain(&HashSet::new(), |_| false);
        assert!(!text().contains("15100"), "{}", text());
    }
}
