//! Request metrics of the proxy. Names are those of every Trellis process ([`trellis_chassis::metrics`]); the proxy adds
//! the direction, because one proxy sees its service from both sides.
//!
//! | name | labels |
//! |---|---|
//! | `request_total` | service, route, method, status, direction |
//! | `response_time_seconds` | service, route, method, direction |
//! | `active_connections` (requests being answered) | service, route, method, direction |
//! | `http_server_request_duration_seconds` | http_request_method, http_route, http_response_status_code, direction |
//!
//! Bounded: service and route come from the document, methods are the registered ones or `_OTHER`.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use crate::{direction::Direction, route::Labels};

/// Bounds in seconds, from OpenTelemetry's semantic conventions, and one millisecond, which is much inside a mesh.
const SECONDS: [f64; 15] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Request metrics; clones count into the same families.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    total: Family<AnsweredLabels, Counter>,
    response_time: Family<RequestLabels, Histogram, Seconds>,
    active: Family<RequestLabels, Gauge>,
    duration: Family<ConventionLabels, Histogram, Seconds>,
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

#[derive(Debug, Clone, Copy)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
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
            total: Family::default(),
            response_time: Family::new_with_constructor(Seconds),
            active: Family::default(),
            duration: Family::new_with_constructor(Seconds),
        };
        registry.register("request", "Requests answered", metrics.total.clone());
        registry.register_with_unit(
            "response_time",
            "Time from the request's head to the response's head",
            Unit::Seconds,
            metrics.response_time.clone(),
        );
        registry.register(
            "active_connections",
            "Requests being answered now",
            metrics.active.clone(),
        );
        registry.register_with_unit(
            "http_server_request_duration",
            "Duration of HTTP server requests (OpenTelemetry semantic convention)",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        metrics
    }

    /// Counts a request in.
    pub(crate) fn begin(&self, labels: &RequestLabels) {
        self.active.get_or_create(labels).inc();
    }

    /// Counts a request out.
    pub(crate) fn end(&self, labels: RequestLabels, status: u16, to_head: Duration) {
        self.active.get_or_create(&labels).dec();
        let seconds = to_head.as_secs_f64();
        self.response_time.get_or_create(&labels).observe(seconds);
        let convention = ConventionLabels {
            http_request_method: labels.method,
            http_route: Arc::clone(&labels.route),
            http_response_status_code: status,
            direction: labels.direction,
        };
        self.duration.get_or_create(&convention).observe(seconds);
        let RequestLabels {
            service,
            route,
            method,
            direction,
        } = labels;
        self.total
            .get_or_create(&AnsweredLabels {
                service,
                route,
                method,
                status,
                direction,
            })
            .inc();
    }
}
