//! One JSON object per log line.
//!
//! `tracing-subscriber`'s own JSON format nests fields and spans and knows no trace ids; log stores want
//! flat, predictable keys. The keys of this format win over fields of the same name, and fields of the
//! event win over fields of the spans around it (inner before outer).

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Formats an event as `{"timestamp", "level", "target", "message", fields..., "trace_id", "span_id"}`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(Map::new());
        for span in ctx.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(text) = span.extensions().get::<FormattedFields<N>>()
                && let Ok(Value::Object(of_span)) = serde_json::from_str(&text.fields)
            {
                fields.0.extend(of_span);
            }
        }
        event.record(&mut fields);

        let metadata = event.metadata();
        let Fields(mut line) = fields;
        // Microseconds: enough to order lines of one process, stable in width.
        line.insert(
            "timestamp".to_owned(),
            format!("{:.6}", jiff::Timestamp::now()).into(),
        );
        line.insert("level".to_owned(), metadata.level().as_str().into());
        line.insert("target".to_owned(), metadata.target().into());
        Context::map_current(|cx| {
            let span = cx.span();
            let context = span.span_context();
            if context.is_valid() {
                line.insert("trace_id".to_owned(), context.trace_id().to_string().into());
                line.insert("span_id".to_owned(), context.span_id().to_string().into());
            }
        });
        let text = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writer.write_str(&text)?;
        writer.write_char('\n')
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        // `r#type` and the like are the language's business, not the reader's.
        let name = field.name().strip_prefix("r#").unwrap_or(field.name());
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        match i64::try_from(value) {
            Ok(value) => self.insert(field, value),
            Err(_) => self.insert(field, value.to_string()),
        }
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        match u64::try_from(value) {
            Ok(value) => self.insert(field, value),
            Err(_) => self.insert(field, value.to_string()),
        }
    }

    /// The whole chain of causes. Our texts never repeat their source; those of libraries often do.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.ends_with(&next) {
                text = format!("{text}: {next}");
            }
            cause = error.source();
        }
        self.insert(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::fmt::format::JsonFields;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Memory {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// As libraries do: the text repeats the source.
    #[derive(Debug, thiserror::Error)]
    #[error("failed to connect: {0}")]
    struct Outer(#[source] io::Error);

    fn lines_of(work: impl FnOnce(&SdkTracerProvider)) -> Vec<Value> {
        let provider = SdkTracerProvider::builder().build();
        let memory = Memory::default();
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Lines)
            .fmt_fields(JsonFields::new())
            .with_writer(memory.clone());
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(spans).with(lines);
        tracing::subscriber::with_default(subscriber, || work(&provider));
        let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_line_is_flat_and_typed() {
        let lines = lines_of(|_| {
            let error: &dyn std::error::Error = &Outer(io::Error::other("no route"));
            let retry_ms = std::time::Duration::from_secs(1).as_millis();
            tracing::warn!(
                attempt = 2,
                ready = false,
                retry_ms,
                error,
                "failed to reach the database"
            );
        });
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["message"], "failed to reach the database");
        assert_eq!(lines[0]["attempt"], 2);
        assert_eq!(lines[0]["ready"], false);
        assert_eq!(lines[0]["retry_ms"], 1000);
        assert_eq!(lines[0]["error"], "failed to connect: no route");
        assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(lines[0].get("trace_id").is_none());
    }

    #[test]
    fn lines_of_one_request_carry_its_trace_and_the_fields_of_its_spans() {
        let lines = lines_of(|provider| {
            let edge = provider.tracer("test").start("GET /users/{username}");
            let cx = Context::new().with_span(edge);
            let trace_id = crate::trace::trace_id(&cx).unwrap();
            let _current = cx.attach();
            tracing::info!(expected = trace_id, "outside");
            let _inner = tracing::info_span!("store", table = "users").entered();
            tracing::info!(expected = trace_id, "inside");
        });
        for line in &lines {
            assert_eq!(line["trace_id"], line["expected"]);
            assert_eq!(line["span_id"].as_str().unwrap().len(), 16);
        }
        assert_ne!(lines[0]["span_id"], lines[1]["span_id"]);
        assert_eq!(lines[1]["table"], "users");
    }
}
