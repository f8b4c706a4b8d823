//! What the operator counts. `docs/reference/operator-metrics.md` lists it for users.
//!
//! Names of controller-runtime and client-go are kept where they exist, so that dashboards made for other operators
//! work. Labels are bounded: kinds, verbs and outcomes, never names of objects.

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

mod queue;
mod reconciles;
mod stream;

pub use self::{
    queue::Queue,
    reconciles::{Reconciles, Result},
    stream::{Answer, Refusal, Sent, Stream},
};

/// Value of the labels `controller` and `name`.
const CONTROLLER: &str = "microservice";

/// Bounds in seconds: those of controller-runtime's `reconcile_time_seconds`, thinned out.
const SECONDS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// The operator's metrics; clones count into the same families.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Passes.
    pub reconciles: Reconciles,
    /// The queue of due objects.
    pub queue: Queue,
    /// Writes to the API server, by kind.
    pub writes: Family<WriteLabels, Counter>,
    /// Requests to the API server.
    pub requests: Family<RequestLabels, Counter>,
    /// Whether this replica leads.
    pub leader: Gauge,
    /// Seconds since a list or watch of a resource was last answered.
    pub watch_age: Family<ResourceLabels, Gauge>,
    /// Events that were not written because too many waited.
    pub events_dropped: Counter,
    /// The configuration stream.
    pub stream: Stream,
}

/// What was done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Verb {
    /// Server-side apply of a child.
    Apply,
    /// Server-side apply of a status.
    Status,
    /// Delete with preconditions.
    Delete,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// No request was made: the live object is as wanted.
    Skipped,
    /// The object changed.
    Changed,
    /// The API server found nothing to change.
    Unchanged,
    /// The API server refused.
    Failed,
}

/// Labels of a write.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    /// Kind of the object.
    pub kind: String,
    /// What was done.
    pub verb: &'static str,
    /// What came of it.
    pub outcome: &'static str,
}

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// HTTP method.
    pub method: &'static str,
    /// HTTP status; `<error>` if there was no answer.
    pub code: String,
}

/// Labels of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResourceLabels {
    /// Plural name of the resource.
    pub resource: String,
}

#[derive(Debug, Clone, Copy)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

impl Metrics {
    /// Registers everything; once per registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Reconciles::register(registry),
            queue: Queue::register(registry),
            writes: Family::default(),
            requests: Family::default(),
            leader: Gauge::default(),
            watch_age: Family::default(),
            events_dropped: Counter::default(),
            stream: Stream::register(registry),
        };
        registry.register(
            "trellis_operator_writes",
            "Writes to the API server, and those spared",
            metrics.writes.clone(),
        );
        registry.register(
            "rest_client_requests",
            "Requests to the API server",
            metrics.requests.clone(),
        );
        registry.register(
            "trellis_operator_leader",
            "1 if this replica leads",
            metrics.leader.clone(),
        );
        registry.register_with_unit(
            "trellis_operator_watch_age",
            "Time since a list or watch was last answered",
            Unit::Seconds,
            metrics.watch_age.clone(),
        );
        registry.register(
            "trellis_operator_events_dropped",
            "Kubernetes Events not written because too many waited",
            metrics.events_dropped.clone(),
        );
        metrics
    }

    /// Counts a write.
    pub fn wrote(&self, kind: &str, verb: Verb, outcome: Outcome) {
        let labels = WriteLabels {
            kind: kind.to_owned(),
            verb: verb.into(),
            outcome: outcome.into(),
        };
        self.writes.get_or_create(&labels).inc();
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
