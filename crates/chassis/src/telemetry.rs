//! Logs and traces of a process, set up once at its start.
//!
//! ```text
//! tracing event --> JSON line on stdout, with trace_id and span_id of the current OpenTelemetry span
//! tracing span  --> bridge --> OpenTelemetry span --+--> OTLP, only if OTEL_EXPORTER_OTLP_ENDPOINT is set
//! edge span (OpenTelemetry API, see `trace`) -------+
//! ```
//!
//! - Span ids are made also when nothing is exported, so that log lines of one request can be joined and
//!   callees see one trace, whatever the backends.
//! - The ids in a log line are top-level and lowercase hexadecimal, as in OpenTelemetry's "Trace Context in
//!   non-OTLP Log Formats".
//! - The exporter runs on a thread and a runtime of its own: a flush at exit works from any context and a
//!   slow collector never takes a worker from requests.
//!
//! Caveat: spans that are open when the process is killed are lost; [`Telemetry::shutdown`] flushes those
//! that have ended.

mod json;

use std::env;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::{self, Runtime};
use tracing::subscriber::SetGlobalDefaultError;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::{Layer, SubscriberExt};

pub use crate::trace;

/// Environment variable with the log filter, in `tracing-subscriber`'s directive syntax.
pub const LOG: &str = "LOG";
/// Environment variable that turns span export on; write the scheme (`http://collector:4317`).
pub const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// How long the last flush may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// Crates that narrate every frame; the exporter's own requests would even be traced in circles.
const NOISY: [&str; 8] = [
    "h2",
    "hyper",
    "hyper_util",
    "tower",
    "tonic",
    "rustls",
    "sqlx",
    "opentelemetry",
];

/// Keeps the exporter running; drop it last.
#[derive(Debug)]
pub struct Telemetry {
    provider: SdkTracerProvider,
    exporting: Option<Runtime>,
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The variable `LOG` cannot be parsed.
    #[error("failed to parse LOG={directives:?}; write for example LOG=info,trellis_proxy=debug")]
    Filter {
        /// What the variable holds.
        directives: String,
        /// The parser's reason.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The OTLP exporter cannot be built.
    #[error("failed to set up span export; OTEL_EXPORTER_OTLP_ENDPOINT must be http://host:port")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The exporter's thread cannot be started.
    #[error("failed to start the span exporter's thread")]
    Runtime(#[source] std::io::Error),
    /// Telemetry was set up before.
    #[error("failed to install the log subscriber")]
    Install(#[from] SetGlobalDefaultError),
}

/// Sets up logs and traces for the process: JSON lines on stdout, the W3C propagator and the tracer
/// provider as OpenTelemetry's globals.
///
/// # Errors
/// A bad `LOG` filter, a bad OTLP endpoint, or a second call in one process.
pub fn init(service_name: &str) -> Result<Telemetry, Error> {
    let filter = filter(&env::var(LOG).unwrap_or_default())?;
    let telemetry = Telemetry::build(service_name)?;
    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(telemetry.provider.clone());

    let lines = tracing_subscriber::fmt::layer()
        .event_format(json::Lines)
        .fmt_fields(JsonFields::new());
    let spans = tracing_opentelemetry::layer()
        .with_tracer(telemetry.provider.tracer("trellis"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false);
    // Not `try_init`: where some crate of the build asks for `tracing-log`, that takes over the `log` crate as well. What
    // a process logs must not depend on what is built beside it.
    let subscriber = tracing_subscriber::registry().with(spans.and_then(lines).with_filter(filter));
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(telemetry)
}

impl Telemetry {
    fn build(service_name: &str) -> Result<Self, Error> {
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(service_name))
            .with_id_generator(trace::Ids::default());
        if env::var_os(OTLP_ENDPOINT).is_none_or(|endpoint| endpoint.is_empty()) {
            return Ok(Self {
                provider: provider.build(),
                exporting: None,
            });
        }
        let exporting = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("span-export")
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        let exporter = {
            let _entered = exporting.enter();
            SpanExporter::builder()
                .with_tonic()
                .build()
                .map_err(Error::Exporter)?
        };
        Ok(Self {
            provider: provider.with_batch_exporter(exporter).build(),
            exporting: Some(exporting),
        })
    }

    /// Sends what has not been sent yet, waiting a few seconds at most.
    pub fn shutdown(self) {
        if self.exporting.is_some()
            && let Err(error) = self.provider.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            tracing::warn!(%error, "failed to flush spans");
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // Dropping a runtime inside another one would panic; this does not wait.
        if let Some(exporting) = self.exporting.take() {
            exporting.shutdown_background();
        }
    }
}

fn filter(directives: &str) -> Result<EnvFilter, Error> {
    let quiet = NOISY.map(|name| format!("{name}=warn")).join(",");
    // Of two directives for one target the later wins, so LOG can turn a noisy crate on again.
    EnvFilter::builder()
        .parse(format!("info,{quiet},{directives}"))
        .map_err(|source| Error::Filter {
            directives: directives.to_owned(),
            source,
        })
}

fn resource(service_name: &str) -> Resource {
    let from_env = [
        ("service.namespace", "POD_NAMESPACE"),
        ("service.instance.id", "POD_NAME"),
    ];
    let attributes = from_env
        .into_iter()
        .filter_map(|(attribute, variable)| Some(KeyValue::new(attribute, env::var(variable).ok()?)));
    Resource::builder()
        .with_service_name(service_name.to_owned())
        .with_attributes(attributes)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_directives_add_to_the_defaults() {
        let text = filter("debug,sqlx=trace").unwrap().to_string();
        assert!(text.contains("sqlx=trace"), "{text}");
        assert!(text.contains("h2=warn"), "{text}");
        assert!(text.contains("debug") && !text.contains("info"), "{text}");
        assert!(filter("").unwrap().to_string().contains("info"));
    }

    #[test]
    fn a_bad_filter_is_refused_with_an_example() {
        let error = filter("user=loud").unwrap_err();
        assert!(error.to_string().contains("LOG="), "{error}");
    }
}
