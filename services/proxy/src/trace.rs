//! W3C trace context: every hop is a span of its caller's trace.
//!
//! A span costs more than the rest of a small request. So OpenTelemetry spans are made only when they are exported;
//! otherwise the proxy draws the ids and passes them on, and log lines join just the same.
//!
//! What is not done: `tracestate` and `baggage` pass through unread.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    KeyValue, global,
    trace::{Span as _, SpanKind, Status, Tracer as _},
};
use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use crate::direction::Direction;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Where the parts of a `traceparent`'s text are.
const TRACE_ID: Range<usize> = 3..35;
const PARENT_ID: Range<usize> = 36..52;
const FLAGS: Range<usize> = 53..55;

/// Whether spans are exported; decided once, when the proxy starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Export {
    /// Spans are made.
    On,
    /// Only ids are.
    Off,
}

/// The span of one request through the proxy. Travels in the request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    span: Option<Arc<Mutex<global::BoxedSpan>>>,
}

/// Names a trace; 32 lowercase hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
impl TraceId {
    /// One for tests.
    pub(crate) const fn of(number: u128) -> Self {
        Self(number)
    }
}

impl Trace {
    /// Begins a span whose parent is the caller's, or a trace of its own.
    pub(crate) fn begin(
        export: Export,
        direction: Direction,
        name: impl FnOnce() -> String,
        headers: &HeaderMap,
    ) -> Self {
        if export == Export::On {
            let kind = if direction == Direction::Outbound {
                SpanKind::Client
            } else {
                SpanKind::Server
            };
            let tracer = global::tracer("trellis-proxy");
            let parent = trellis_chassis::trace::extract(headers);
            let span = tracer
                .span_builder(name())
                .with_kind(kind)
                .start_with_context(&tracer, &parent);
            let context = span.span_context();
            if context.is_valid() {
                return Self {
                    trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
                    span_id: u64::from_be_bytes(context.span_id().to_bytes()),
                    flags: context.trace_flags().to_u8(),
                    span: Some(Arc::new(Mutex::new(span))),
                };
            }
        }
        let (trace_id, flags) = parent(headers).unwrap_or_else(|| (some_id(), 1));
        Self {
            trace_id,
            span_id: some_id(),
            flags,
            span: None,
        }
    }

    /// Makes the span the parent of what the next hop does.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        let mut text = *b"00-                                -                -  ";
        write_hex(&mut text[TRACE_ID], &self.trace_id.to_be_bytes());
        write_hex(&mut text[PARENT_ID], &self.span_id.to_be_bytes());
        write_hex(&mut text[FLAGS], &[self.flags]);
        // Digits and dashes are valid in a header.
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// Ends the span.
    pub(crate) fn end(&self, failed: bool, attributes: impl FnOnce() -> Vec<KeyValue>) {
        let Some(span) = &self.span else { return };
        let mut span = span.lock().unwrap_or_else(PoisonError::into_inner);
        span.set_attributes(attributes());
        if failed {
            span.set_status(Status::error(""));
        }
        span.end();
    }

    /// The trace that it is a part of.
    pub(crate) const fn trace_id(&self) -> TraceId {
        TraceId(self.trace_id)
    }

    /// 16 lowercase hexadecimal digits.
    pub(crate) fn span_id(&self) -> impl fmt::Display {
        let id = self.span_id;
        fmt::from_fn(move |f| write!(f, "{id:016x}"))
    }
}

/// Trace id and flags of a valid `traceparent` (W3C Trace Context 3.2). A broken one starts a new trace.
fn parent(headers: &HeaderMap) -> Option<(u128, u8)> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let text = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let mut fields = text.split('-');
    let (version, trace_id, parent_id, flags) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    // Later versions may append fields; version 00 may not.
    let version = hex(version, 2).filter(|version| *version != 0xff)?;
    if version == 0 && fields.next().is_some() {
        return None;
    }
    let trace_id = hex(trace_id, 32).filter(|id| *id != 0)?;
    hex(parent_id, 16).filter(|id| *id != 0)?;
    let flags = u8::try_from(hex(flags, 2)?).ok()?;
    Some((trace_id, flags & 1))
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let lowercase = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    (text.len() == digits && text.bytes().all(lowercase))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

/// As `{:02x}` of each byte, without what formatting costs.
fn write_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (digits, byte) in text.chunks_exact_mut(2).zip(bytes) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// A random id that is not zero.
fn some_id<T: Default + PartialEq>() -> T
where
    rand::distr::StandardUniform: rand::distr::Distribution<T>,
{
    loop {
        let id = rand::random();
        if id != T::default() {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn begin(values: &[&str]) -> (Trace, String) {
        let trace = Trace::begin(Export::Off, Direction::Inbound, String::new, &headers(values));
        let mut sent = HeaderMap::new();
        trace.inject(&mut sent);
        let sent = sent[TRACEPARENT].to_str().unwrap().to_owned();
        (trace, sent)
    }

    #[test]
    fn the_trace_goes_on_with_a_new_parent() {
        let (trace, sent) = begin(&[&format!("00-{ID}-b7ad6b7169203331-00")]);
        assert_eq!(trace.trace_id().to_string(), ID);
        assert_eq!(sent, format!("00-{ID}-{}-00", trace.span_id()));
        assert_ne!(trace.span_id().to_string(), "b7ad6b7169203331");
    }

    #[test]
    fn without_a_valid_parent_a_sampled_trace_begins() {
        let zero = "0".repeat(32);
        for bad in [
            &[][..],
            &[""],
            &["00-xyz"],
            &[&format!("00-{zero}-b7ad6b7169203331-01")],
            &[&format!("00-{ID}-0000000000000000-01")],
            &[&format!("ff-{ID}-b7ad6b7169203331-01")],
            &[&format!("00-{ID}-b7ad6b7169203331-01-x")],
            &[&format!("00-{}-b7ad6b7169203331-01", ID.to_uppercase())],
            &[&format!("00-{ID}-b7ad6b7169203331-01"), "00-x"],
        ] {
            let (trace, sent) = begin(bad);
            assert_ne!(trace.trace_id().to_string(), ID, "{bad:?}");
            assert!(sent.ends_with("-01"), "{sent}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let (trace, sent) = begin(&[&format!("01-{ID}-b7ad6b7169203331-03-later")]);
        assert_eq!(trace.trace_id().to_string(), ID);
        assert!(sent.starts_with("00-") && sent.ends_with("-01"));
    }
}
