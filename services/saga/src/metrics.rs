//! What the engine counts. Labels are names of sagas and their steps: as many as there are definitions.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use trellis_saga_core::event::{CallId, Cause, End, Outcome};
use trellis_saga_engine::definitions::Compiled;
use trellis_saga_engine::id::RunId;
use trellis_saga_engine::observe::Observe;
use trellis_saga_engine::participants::op_of;

use crate::shown::{outcome_of, word};

/// Seconds of an append.
const BUCKETS: [f64; 10] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0];

/// Seconds that a call waits.
const WAITS: [f64; 8] = [0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];

/// Counters of the engine.
#[derive(Debug)]
pub struct Metrics {
    started: Family<OfSaga, Counter>,
    ended: Family<Ended, Counter>,
    stuck: Family<OfSaga, Counter>,
    attempts: Family<Attempt, Counter>,
    records: Counter,
    append: Histogram,
    failed: Counter,
    waited: Family<Called, Histogram, fn() -> Histogram>,
    webhooks: Webhooks,
}

/// What became of POSTs to those who want to know of stuck runs.
#[derive(Debug, Clone, Default)]
pub struct Webhooks(Family<Posted, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSaga {
    namespace: String,
    saga: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    namespace: String,
    microservice: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Posted {
    namespace: String,
    saga: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    namespace: String,
    saga: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    namespace: String,
    saga: String,
    step: String,
    op: &'static str,
    outcome: &'static str,
}

impl Metrics {
    /// Counters in `registry`, under `trellis_saga_`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("trellis_saga");
        let metrics = Self {
            started: Family::default(),
            ended: Family::default(),
            stuck: Family::default(),
            attempts: Family::default(),
            records: Counter::default(),
            append: Histogram::new(BUCKETS),
            failed: Counter::default(),
            waited: Family::new_with_constructor(|| Histogram::new(WAITS)),
            webhooks: Webhooks::default(),
        };
        let Self {
            started,
            ended,
            stuck,
            attempts,
            records,
            append,
            failed,
            waited,
            webhooks,
        } = &metrics;
        registry.register("runs_started", "Runs that began", started.clone());
        registry.register("runs_ended", "Runs that ended, by how", ended.clone());
        registry.register(
            "runs_stuck",
            "Runs that could not go on by themselves",
            stuck.clone(),
        );
        registry.register(
            "attempts",
            "Tries of calls and questions after their work, by what came of them",
            attempts.clone(),
        );
        registry.register("records", "Records that were stored", records.clone());
        registry.register_with_unit(
            "append",
            "How long records took to be stored",
            Unit::Seconds,
            append.clone(),
        );
        registry.register(
            "appends_failed",
            "Appends of which nobody knows whether they were stored",
            failed.clone(),
        );
        registry.register_with_unit(
            "call_wait",
            "How long calls waited for others of their participant, before they were made",
            Unit::Seconds,
            waited.clone(),
        );
        registry.register(
            "webhooks",
            "POSTs to those who want to know of stuck runs, by what came of them",
            webhooks.0.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// Counts POSTs.
    pub fn webhooks(&self) -> Webhooks {
        self.webhooks.clone()
    }
}

impl Webhooks {
    /// `delivered`, `retry`, `lost`.
    pub fn count(&self, namespace: &str, saga: &str, outcome: &'static str) {
        let posted = Posted {
            namespace: namespace.to_owned(),
            saga: saga.to_owned(),
            outcome,
        };
        self.0.get_or_create(&posted).inc();
    }
}

fn of(compiled: &Compiled) -> OfSaga {
    OfSaga {
        namespace: compiled.namespace().to_owned(),
        saga: compiled.saga().to_owned(),
    }
}

impl Observe for Metrics {
    fn started(&self, compiled: &Compiled, _: RunId) {
        self.started.get_or_create(&of(compiled)).inc();
    }

    fn answered(&self, compiled: &Compiled, _: RunId, call: CallId, outcome: &Outcome) {
        let step = compiled.program.definition.steps.get(call.step as usize);
        let OfSaga { namespace, saga } = of(compiled);
        let attempt = Attempt {
            namespace,
            saga,
            step: step.map(|step| step.name.clone()).unwrap_or_default(),
            op: op_of(call.op),
            outcome: word(outcome),
        };
        self.attempts.get_or_create(&attempt).inc();
    }

    fn waited(&self, compiled: &Compiled, participant: &str, waited: Duration) {
        let called = Called {
            namespace: compiled.namespace().to_owned(),
            microservice: participant.to_owned(),
        };
        self.waited.get_or_create(&called).observe(waited.as_secs_f64());
    }

    fn stuck(&self, compiled: &Compiled, run: RunId, _: &[Cause]) {
        let (namespace, saga) = (compiled.namespace(), compiled.saga());
        tracing::warn!(%run, namespace, saga, "a run is stuck");
        self.stuck.get_or_create(&of(compiled)).inc();
    }

    fn ended(&self, compiled: &Compiled, _: RunId, end: End) {
        let OfSaga { namespace, saga } = of(compiled);
        self.ended
            .get_or_create(&Ended {
                namespace,
                saga,
                outcome: outcome_of(end),
            })
            .inc();
    }

    fn appended(&self, records: usize, took: Duration, is_stored: bool) {
        if is_stored {
            self.records.inc_by(records as u64);
            self.append.observe(took.as_secs_f64());
        } else {
            self.failed.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn what_was_stored_and_what_was_not_is_counted_apart() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.appended(3, Duration::from_millis(1), true);
        metrics.appended(2, Duration::from_millis(1), false);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "trellis_saga_records_total 3",
            "trellis_saga_appends_failed_total 1",
            "trellis_saga_append_seconds_count 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
