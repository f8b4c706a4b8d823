//! Request metrics with the same names in every process, so that one dashboard serves all.
//!
//! | name | labels |
//! |---|---|
//! | `request_total` | service, route, method, status |
//! | `response_time_seconds` | service, route, method |
//! | `active_connections` (requests being answered) | service, route, method |
//! | `http_server_request_duration_seconds` | http_request_method, http_route, http_response_status_code |
//!
//! The last one is the OpenTelemetry semantic convention in Prometheus' spelling. Labels are bounded: a
//! route is a template, never a raw path, and a method outside the registered ones is `_OTHER`. Whoever
//! calls [`Requests::begin`] vouches for the route.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Route label of a request that no route matches.
pub const UNMATCHED: &str = "_unmatched";

/// Bounds in seconds, from OpenTelemetry's semantic conventions for `http.server.request.duration`.
const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// The request metrics of a process; clones count into the same families.
#[derive(Clone, Debug)]
pub struct Requests {
    total: Family<AnsweredLabels, Counter>,
    response_time: Family<RouteLabels, Histogram, Seconds>,
    active: Family<RouteLabels, Gauge>,
    duration: Family<ConventionLabels, Histogram, Seconds>,
}

/// A request being answered; it counts as active until it is finished or dropped.
#[derive(Debug)]
#[must_use = "an unfinished request is counted as cancelled at once"]
pub struct InFlight {
    metrics: Requests,
    labels: RouteLabels,
    started: Instant,
    finished: bool,
}

/// Builds histograms with [`SECONDS`].
#[derive(Clone, Copy, Debug)]
struct Seconds;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    service: Arc<str>,
    route: Arc<str>,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnsweredLabels {
    service: Arc<str>,
    route: Arc<str>,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConventionLabels {
    http_request_method: &'static str,
    http_route: Arc<str>,
    http_response_status_code: u16,
}

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

impl Requests {
    /// Registers the families; once per registry.
    pub fn register(registry: &mut Registry) -> Self {
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

    /// Counts a request in. `route` is a template such as `/users/{username}`.
    pub fn begin(&self, service: Arc<str>, route: Arc<str>, method: &Method) -> InFlight {
        let labels = RouteLabels {
            service,
            route,
            method: known_method(method),
        };
        self.active.get_or_create(&labels).inc();
        InFlight {
            metrics: self.clone(),
            labels,
            started: Instant::now(),
            finished: false,
        }
    }
}

impl InFlight {
    /// Counts the request out with the status of its response.
    pub fn finish(mut self, status: StatusCode) {
        self.count_out(status.as_u16());
    }

    fn count_out(&mut self, status: u16) {
        self.finished = true;
        let seconds = self.started.elapsed().as_secs_f64();
        let RouteLabels {
            service,
            route,
            method,
        } = self.labels.clone();
        let convention = ConventionLabels {
            http_request_method: method,
            http_route: Arc::clone(&route),
            http_response_status_code: status,
        };
        self.metrics.active.get_or_create(&self.labels).dec();
        self.metrics
            .response_time
            .get_or_create(&self.labels)
            .observe(seconds);
        self.metrics.duration.get_or_create(&convention).observe(seconds);
        self.metrics
            .total
            .get_or_create(&AnsweredLabels {
                service,
                route,
                method,
                status,
            })
            .inc();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.finished {
            // The client went away before a response: nginx's 499, which access logs of proxies use too.
            self.count_out(499);
        }
    }
}

/// The method as a label: the nine registered ones by name, anything else `_OTHER`.
pub fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn names_and_labels_are_those_of_the_contract() {
        let mut registry = Registry::default();
        let metrics = Requests::register(&mut registry);
        let request = metrics.begin("user".into(), "/users".into(), &Method::POST);
        assert!(
            text(&registry).contains(r#"active_connections{service="user",route="/users",method="POST"} 1"#)
        );
        request.finish(StatusCode::CREATED);
        let text = text(&registry);
        for line in [
            r#"request_total{service="user",route="/users",method="POST",status="201"} 1"#,
            r#"response_time_seconds_count{service="user",route="/users",method="POST"} 1"#,
            r#"active_connections{service="user",route="/users",method="POST"} 0"#,
            r#"http_server_request_duration_seconds_count{http_request_method="POST",http_route="/users",http_response_status_code="201"} 1"#,
        ] {
            assert!(text.contains(line), "{line}\nnot in\n{text}");
        }
    }

    #[test]
    fn a_request_whose_client_left_is_counted_out() {
        let mut registry = Registry::default();
        let metrics = Requests::register(&mut registry);
        drop(metrics.begin(
            "user".into(),
            UNMATCHED.into(),
            &Method::from_bytes(b"BREW").unwrap(),
        ));
        let text = text(&registry);
        assert!(text.contains(r#"method="_OTHER",status="499"} 1"#), "{text}");
        assert!(text.contains(r#"active_connections{service="user",route="_unmatched",method="_OTHER"} 0"#));
    }
}
