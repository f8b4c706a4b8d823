//! One trace a run, whichever replicas look after it and however long it takes.
//!
//! ```text
//! POST .../runs  <--link-->  place-order                        root: emitted when the run has ended
//! (of the caller's trace)      +-- reserve action       attempt 1
//!                              +-- reserve action       attempt 2 --link--> attempt 1
//!                              |     +-- the participant's spans, by `traceparent`
//!                              +-- reserve compensation attempt 1
//! ```
//!
//! Nothing is stored for it: the trace's id is the run's, which is a ULID, and spans have ids that follow from what they are of. So another
//! replica that goes on with a run goes on with its trace. Whether it is sampled follows from the trace's id as well, by
//! `OTEL_TRACES_SAMPLER`, and not from the caller's trace.
//!
//! Caveats: a try that a replica does not see the end of has no span, and one that is made again after that has the same id. If a
//! replica dies as a run ends, its root is missing. Payloads, and what participants say, are not in spans.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, StatusCode};
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceId, Tracer as _,
};
use opentelemetry::{Context, KeyValue, global};
use parking_lot::Mutex;
use siphasher::sip::SipHasher13;
use trellis_chassis::trace;
use trellis_saga_core::event::{CallId, End, Op, Outcome};
use trellis_saga_engine::definitions::Compiled;
use trellis_saga_engine::id::RunId;
use trellis_saga_engine::observe::Observe;
use trellis_saga_engine::participants::{Asked, Try, op_of};

use crate::shown::{outcome_of, word};

/// Most callers that are remembered; those of the oldest runs are forgotten first.
const MOST_CALLERS: usize = 10_000;

/// Emits the roots, and knows who started runs here.
#[derive(Debug, Default)]
pub struct Traces(Mutex<BTreeMap<RunId, SpanContext>>);

/// The span of a try. One that is given up, because its time is over, ends as that.
pub struct Attempt {
    cx: Context,
    has_ended: bool,
}

impl Traces {
    /// The current span has started a run: each links to the other.
    pub fn started(&self, run: RunId) {
        let cx = Context::current();
        let span = cx.span();
        if !span.span_context().is_valid() {
            return;
        }
        span.set_attribute(KeyValue::new("saga.run", run.to_string()));
        span.add_link(root(run), Vec::new());
        let mut callers = self.0.lock();
        callers.insert(run, span.span_context().clone());
        if callers.len() > MOST_CALLERS {
            callers.pop_first();
        }
    }
}

impl Observe for Traces {
    fn ended(&self, compiled: &Compiled, run: RunId, end: End) {
        let caller = self.0.lock().remove(&run);
        let outcome = outcome_of(end);
        let tracer = global::tracer("trellis");
        let builder = tracer
            .span_builder(compiled.saga().to_owned())
            .with_kind(SpanKind::Internal)
            .with_start_time(UNIX_EPOCH + Duration::from_millis(run.time()))
            .with_attributes([
                KeyValue::new("saga.namespace", compiled.namespace().to_owned()),
                KeyValue::new("saga.name", compiled.saga().to_owned()),
                KeyValue::new("saga.revision", compiled.revision.clone()),
                KeyValue::new("saga.run", run.to_string()),
                KeyValue::new("saga.outcome", outcome),
            ])
            .with_links(caller.map(Link::with_context).into_iter().collect());
        let mut span = trace::with_ids(trace_of(run), id_of(run, None), || {
            tracer.build_with_context(builder, &Context::new())
        });
        span.set_status(if outcome == "completed" {
            Status::Ok
        } else {
            Status::error(outcome)
        });
        span.end();
    }
}

impl Attempt {
    /// A try begins.
    pub fn begin(a_try: &Try) -> Self {
        let Try {
            run,
            compiled,
            call,
            attempt,
            ..
        } = a_try;
        let root = root(*run);
        let before = (*attempt > 1).then(|| {
            let id = id_of(*run, Some((*call, attempt - 1)));
            let (flags, state) = (root.trace_flags(), root.trace_state().clone());
            Link::with_context(SpanContext::new(root.trace_id(), id, flags, true, state))
        });
        let op = op_of(call.op);
        let tracer = global::tracer("trellis");
        let builder = tracer
            .span_builder(format!("{} {op}", a_try.step()))
            .with_kind(SpanKind::Client)
            .with_attributes([
                KeyValue::new("saga.namespace", compiled.namespace().to_owned()),
                KeyValue::new("saga.name", compiled.saga().to_owned()),
                KeyValue::new("saga.run", run.to_string()),
                KeyValue::new("saga.step", a_try.step().to_owned()),
                KeyValue::new("saga.index", i64::from(call.item)),
                KeyValue::new("saga.op", op),
                KeyValue::new("saga.incarnation", i64::from(call.incarnation)),
                KeyValue::new("saga.attempt", i64::from(*attempt)),
                KeyValue::new("saga.poll", matches!(a_try.request, Asked::Poll(_))),
            ])
            .with_links(before.into_iter().collect());
        let parent = Context::new().with_remote_span_context(root);
        let id = id_of(*run, Some((*call, *attempt)));
        let span = trace::with_ids(trace_of(*run), id, || tracer.build_with_context(builder, &parent));
        Self {
            cx: parent.with_span(span),
            has_ended: false,
        }
    }

    /// Makes what the participant does a part of the trace.
    pub fn inject(&self, headers: &mut HeaderMap) {
        trace::inject(&self.cx, headers);
    }

    /// The try has ended, with the status of an answer if there is one.
    pub fn end(mut self, status: Option<StatusCode>, outcome: &Outcome) {
        let span = self.cx.span();
        if let Some(status) = status {
            span.set_attribute(KeyValue::new(
                "http.response.status_code",
                i64::from(status.as_u16()),
            ));
        }
        self.finish(
            word(outcome),
            match outcome {
                Outcome::Done(_) | Outcome::Pending { .. } => None,
                Outcome::Failed(_) => Some("Refused".to_owned()),
                Outcome::Retry { condition, .. } => Some(format!("{condition:?}")),
            },
        );
    }

    fn finish(&mut self, outcome: &'static str, error: Option<String>) {
        let span = self.cx.span();
        span.set_attribute(KeyValue::new("saga.outcome", outcome));
        if let Some(error) = error {
            span.set_status(Status::error(error.clone()));
            span.set_attribute(KeyValue::new("error.type", error));
        }
        span.end();
        self.has_ended = true;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.has_ended {
            self.finish("retry", Some("Timeout".to_owned()));
        }
    }
}

fn trace_of(run: RunId) -> TraceId {
    TraceId::from(run.0)
}

fn root(run: RunId) -> SpanContext {
    trace::root(trace_of(run), id_of(run, None))
}

/// The span of a try, or of the run: the same in every process and every release.
fn id_of(run: RunId, attempt: Option<(CallId, u32)>) -> SpanId {
    let mut hasher = SipHasher13::new();
    hasher.write(&run.0.to_le_bytes());
    if let Some((call, attempt)) = attempt {
        let CallId {
            step,
            item,
            op,
            incarnation,
        } = call;
        let op = match op {
            Op::Action => 0,
            Op::Compensation => 1,
        };
        for number in [step, item, op, incarnation, attempt] {
            hasher.write(&number.to_le_bytes());
        }
    }
    // 0 is none.
    SpanId::from(hasher.finish().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_an_id_of_its_own_and_the_same_in_every_release() {
        let run = RunId(0x0193_4e5f_6071_8293_a4b5_c6d7_e8f9_0a0b);
        let first = CallId {
            step: 0,
            item: 0,
            op: Op::Action,
            incarnation: 0,
        };
        let calls = [
            None,
            Some((first, 1)),
            Some((first, 2)),
            Some((CallId { step: 1, ..first }, 1)),
            Some((CallId { item: 1, ..first }, 1)),
            Some((
                CallId {
                    op: Op::Compensation,
                    ..first
                },
                1,
            )),
            Some((
                CallId {
                    incarnation: 1,
                    ..first
                },
                1,
            )),
        ];
        let ids: Vec<String> = calls.iter().map(|call| id_of(run, *call).to_string()).collect();
        let mut distinct = ids.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), calls.len());
        assert_eq!((&*ids[0], &*ids[1]), ("edebaf5a124db64d", "1e759faa47477151"));
        assert_eq!(trace_of(run).to_string(), "01934e5f60718293a4b5c6d7e8f90a0b");
    }
}
