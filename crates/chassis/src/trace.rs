//! W3C trace context on HTTP headers, and the names of spans at the edges of a process.
//!
//! Edge spans (a request comes in, a request goes out) use the OpenTelemetry API directly, because a
//! `tracing` span can carry neither a remote parent nor a span kind without tricks. Work inside the process
//! uses `tracing`; the bridge makes those spans children of the edge span that is current.

use std::cell::Cell;
use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, TraceContextExt, TraceId, Tracer as _, TracerProvider as _,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracerProvider};

/// Reads `traceparent` and `tracestate`. Absent or malformed headers give a context without a span, so that
/// the next span becomes a root: a broken caller never breaks the request.
pub fn extract(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &ReadHeaders(headers))
}

/// Writes `traceparent` and `tracestate` of the span in `cx`, replacing what is there. Without a valid span
/// the headers stay as they are.
pub fn inject(cx: &Context, headers: &mut HeaderMap) {
    if cx.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(cx, &mut WriteHeaders(headers));
    }
}

/// The trace id of the span in `cx`: 32 lowercase hexadecimal digits.
pub fn trace_id(cx: &Context) -> Option<String> {
    let span = cx.span();
    let context = span.span_context();
    context.is_valid().then(|| context.trace_id().to_string())
}

/// Builds a span that has these ids: for what is known by an id of its own, so that whoever goes on with it, here or elsewhere, knows the
/// ids of its spans. `build` makes that span and no other; the trace's id counts only if the span has no parent.
///
/// (A span builder cannot be told its ids; the provider's generator, which is asked for them, is.)
pub fn with_ids<T>(trace: TraceId, span: SpanId, build: impl FnOnce() -> T) -> T {
    GIVEN.set(Some((trace, span)));
    let built = build();
    GIVEN.set(None);
    built
}

/// The context of a root span by its ids, sampled or not as the span itself is or will be: `OTEL_TRACES_SAMPLER` decides by the trace's
/// id alone. For spans that are children of one that ends after them, or in another process.
pub fn root(trace: TraceId, span: SpanId) -> SpanContext {
    // Asks the sampler and exports nothing.
    static ASKED: OnceLock<SdkTracerProvider> = OnceLock::new();
    let asked = ASKED.get_or_init(|| {
        SdkTracerProvider::builder()
            .with_id_generator(Ids::default())
            .build()
    });
    let tracer = asked.tracer("trellis");
    let built = with_ids(trace, span, || tracer.start_with_context("", &Context::new()));
    built.span_context().clone()
}

thread_local! {
    static GIVEN: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Random ids, but for spans that were given theirs.
#[derive(Debug, Default)]
pub(crate) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        GIVEN
            .get()
            .map_or_else(|| self.0.new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        GIVEN.get().map_or_else(|| self.0.new_span_id(), |(_, span)| span)
    }
}

struct ReadHeaders<'a>(&'a HeaderMap);

impl Extractor for ReadHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct WriteHeaders<'a>(&'a mut HeaderMap);

impl Injector for WriteHeaders<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty `tracestate` says nothing; some servers refuse it.
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_extracted_is_injected_again() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static(PARENT));
        let cx = extract(&headers);
        assert_eq!(trace_id(&cx).as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        let mut sent = HeaderMap::new();
        inject(&cx, &mut sent);
        assert_eq!(sent["traceparent"], PARENT);
        assert!(!sent.contains_key("tracestate"));
    }

    #[test]
    fn a_span_has_the_ids_that_it_was_given_and_the_next_one_others() {
        let provider = SdkTracerProvider::builder()
            .with_id_generator(Ids::default())
            .build();
        let tracer = provider.tracer("test");
        let (trace, span) = (TraceId::from(7), SpanId::from(8));
        let build = || tracer.start_with_context("given", &Context::new());
        let given = with_ids(trace, span, build);
        assert_eq!(
            (given.span_context().trace_id(), given.span_context().span_id()),
            (trace, span)
        );
        let other = build();
        assert_ne!(other.span_context().trace_id(), trace);
        assert_ne!(other.span_context().span_id(), span);

        let root = root(trace, span);
        assert_eq!((root.trace_id(), root.span_id()), (trace, span));
        assert_eq!(root.is_sampled(), given.span_context().is_sampled());
        let parent = Context::new().with_remote_span_context(root);
        let child = SpanId::from(9);
        let child = with_ids(TraceId::from(10), child, || {
            tracer.start_with_context("child", &parent)
        });
        assert_eq!(child.span_context().trace_id(), trace);
        assert_eq!(child.span_context().span_id(), SpanId::from(9));
    }

    #[test]
    fn malformed_parents_are_ignored() {
        for bad in [
            "",
            "00-xyz",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_static(bad));
            assert_eq!(trace_id(&extract(&headers)), None, "{bad}");
        }
        let mut untouched = HeaderMap::new();
        inject(&Context::new(), &mut untouched);
        assert!(untouched.is_empty());
    }
}
