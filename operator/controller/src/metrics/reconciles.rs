//! Passes, named as controller-runtime names them.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{CONTROLLER, Seconds, whole};

const BY_CONTROLLER: ControllerLabels = ControllerLabels {
    controller: CONTROLLER,
};

/// Passes, named as controller-runtime names them.
#[derive(Debug, Clone)]
pub struct Reconciles {
    total: Family<ReconcileLabels, Counter>,
    errors: Family<ControllerLabels, Counter>,
    panics: Family<ControllerLabels, Counter>,
    timeouts: Family<ControllerLabels, Counter>,
    seconds: Family<ControllerLabels, Histogram, Seconds>,
    active: Family<ControllerLabels, Gauge>,
    most: Family<ControllerLabels, Gauge>,
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Result {
    /// Well.
    Success,
    /// With an error; it is tried again.
    Error,
    /// With a panic, which is caught.
    Panic,
    /// Not in time.
    Timeout,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabels {
    controller: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    controller: &'static str,
    result: &'static str,
}

impl Reconciles {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            total: Family::default(),
            errors: Family::default(),
            panics: Family::default(),
            timeouts: Family::default(),
            seconds: Family::new_with_constructor(Seconds),
            active: Family::default(),
            most: Family::default(),
        };
        let prefix = registry.sub_registry_with_prefix("controller_runtime");
        prefix.register("reconcile", "Passes, by result", metrics.total.clone());
        prefix.register("reconcile_errors", "Passes that failed", metrics.errors.clone());
        prefix.register("reconcile_panics", "Passes that panicked", metrics.panics.clone());
        prefix.register(
            "reconcile_timeouts",
            "Passes that took too long",
            metrics.timeouts.clone(),
        );
        prefix.register_with_unit(
            "reconcile_time",
            "Length of a pass",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        prefix.register("active_workers", "Passes under way", metrics.active.clone());
        prefix.register(
            "max_concurrent_reconciles",
            "Most passes at once",
            metrics.most.clone(),
        );
        metrics
    }

    /// Says how many passes may run at once.
    pub fn bound(&self, most: usize) {
        self.most.get_or_create(&BY_CONTROLLER).set(whole(most));
    }

    /// Says how many passes run.
    pub fn active(&self, now: usize) {
        self.active.get_or_create(&BY_CONTROLLER).set(whole(now));
    }

    /// Counts a pass that ended.
    pub fn ended(&self, result: Result, seconds: f64) {
        self.total
            .get_or_create(&ReconcileLabels {
                controller: CONTROLLER,
                result: result.into(),
            })
            .inc();
        self.seconds.get_or_create(&BY_CONTROLLER).observe(seconds);
        match result {
            Result::Success => return,
            Result::Error => {}
            Result::Panic => _ = self.panics.get_or_create(&BY_CONTROLLER).inc(),
            Result::Timeout => _ = self.timeouts.get_or_create(&BY_CONTROLLER).inc(),
        }
        self.errors.get_or_create(&BY_CONTROLLER).inc();
    }
}
