//! The queue of due objects, named as client-go names it.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{CONTROLLER, Seconds, whole};

const BY_QUEUE: QueueLabels = QueueLabels { name: CONTROLLER };

/// The queue, named as client-go names it.
#[derive(Debug, Clone)]
pub struct Queue {
    depth: Family<QueueLabels, Gauge>,
    adds: Family<QueueLabels, Counter>,
    retries: Family<QueueLabels, Counter>,
    waited: Family<QueueLabels, Histogram, Seconds>,
    worked: Family<QueueLabels, Histogram, Seconds>,
    unfinished: Family<QueueLabels, Gauge<f64, AtomicU64>>,
    longest: Family<QueueLabels, Gauge<f64, AtomicU64>>,
    throttled: Gauge,
    failing: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    name: &'static str,
}

impl Queue {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            waited: Family::new_with_constructor(Seconds),
            worked: Family::new_with_constructor(Seconds),
            unfinished: Family::default(),
            longest: Family::default(),
            throttled: Gauge::default(),
            failing: Gauge::default(),
        };
        let prefix = registry.sub_registry_with_prefix("workqueue");
        prefix.register("depth", "Objects that are due", metrics.depth.clone());
        prefix.register("adds", "Times that an object became due", metrics.adds.clone());
        prefix.register(
            "retries",
            "Times that an object became due after a failure",
            metrics.retries.clone(),
        );
        prefix.register_with_unit(
            "queue_duration",
            "Time from due to started",
            Unit::Seconds,
            metrics.waited.clone(),
        );
        prefix.register_with_unit(
            "work_duration",
            "Time from started to ended",
            Unit::Seconds,
            metrics.worked.clone(),
        );
        prefix.register_with_unit(
            "unfinished_work",
            "Time that passes under way have taken in all",
            Unit::Seconds,
            metrics.unfinished.clone(),
        );
        prefix.register_with_unit(
            "longest_running_processor",
            "Time that the longest pass under way has taken",
            Unit::Seconds,
            metrics.longest.clone(),
        );
        registry.register(
            "trellis_operator_throttled_passes",
            "Passes put off because their object had spent its budget",
            metrics.throttled.clone(),
        );
        registry.register(
            "trellis_operator_failing",
            "Microservices whose last pass failed, and that wait for another",
            metrics.failing.clone(),
        );
        metrics
    }

    /// Counts an object that became due.
    pub fn added(&self) {
        self.adds.get_or_create(&BY_QUEUE).inc();
    }

    /// Counts an object that will be tried again.
    pub fn retried(&self) {
        self.retries.get_or_create(&BY_QUEUE).inc();
    }

    /// Counts an object that a worker took.
    pub fn taken(&self, waited: f64) {
        self.waited.get_or_create(&BY_QUEUE).observe(waited);
    }

    /// Counts an object that a worker is through with.
    pub fn finished(&self, worked: f64) {
        self.worked.get_or_create(&BY_QUEUE).observe(worked);
    }

    /// Shows the state of the queue.
    pub fn show(&self, queue: &crate::queue::Queue, unfinished: f64, longest: f64) {
        self.depth.get_or_create(&BY_QUEUE).set(whole(queue.depth()));
        self.throttled
            .set(i64::try_from(queue.throttled()).unwrap_or(i64::MAX));
        self.failing.set(whole(queue.failing()));
        self.unfinished.get_or_create(&BY_QUEUE).set(unfinished);
        self.longest.get_or_create(&BY_QUEUE).set(longest);
    }
}
