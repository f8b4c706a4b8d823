//! W3C trace context on HTTP headers, and the names of spans at the edges of a process.
//!
//! Edge spans (a request comes in, a request goes out) use the OpenTelemetry API directly, because a
//! `tracing` span can carry neither a remote parent nor a span kind without tricks. Work inside the process
//! uses `tracing`; the bridge makes those spans children of the edge span that is current.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;

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
