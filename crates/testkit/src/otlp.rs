//! A collector of spans that keeps what it is sent, for tests that ask who called whom.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, span::SpanKind, status::StatusCode},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, service::Routes};

/// The collector; it ends with the test's runtime.
#[derive(Clone, Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

/// A span that has ended, with what its process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Name of the span.
    pub name: String,
    /// Who called whom: `Server`, `Client`, or another.
    pub kind: SpanKind,
    /// 32 lowercase hexadecimal digits.
    pub trace_id: String,
    /// 16 lowercase hexadecimal digits.
    pub span_id: String,
    /// The same of the parent; None at the root of a trace.
    pub parent_id: Option<String>,
    /// Spans that it links to: their trace and their own id.
    pub links: Vec<(String, String)>,
    /// Whether it says that it failed.
    pub is_error: bool,
    /// Nanoseconds since the Unix epoch: its beginning and its end.
    pub times: (u64, u64),
    /// Attributes that are text or whole numbers, of the process first.
    pub attributes: Vec<(String, String)>,
}

impl Collector {
    /// Starts on a free port of the loopback interface.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts at an address, whose port may be 0.
    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let collector = Self {
            address: listener.local_addr().unwrap(),
            spans: Arc::default(),
        };
        let router = Routes::new(TraceServiceServer::new(collector.clone())).into_axum_router();
        tokio::spawn(axum::serve(listener, router).into_future());
        collector
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans of a trace that have come so far.
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        let spans = self.spans.lock().unwrap();
        spans
            .iter()
            .filter(|span| span.trace_id == trace_id)
            .cloned()
            .collect()
    }
}

impl Span {
    /// The value of an attribute; empty if there is none that is text or a whole number.
    pub fn attribute(&self, name: &str) -> &str {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(read);
        self.spans.lock().unwrap().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn read(of_process: ResourceSpans) -> impl Iterator<Item = Span> {
    let process = text_attributes(of_process.resource.unwrap_or_default().attributes);
    let spans = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
    spans.map(move |span| Span {
        kind: span.kind(),
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        links: span
            .links
            .iter()
            .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
            .collect(),
        is_error: span
            .status
            .is_some_and(|status| status.code() == StatusCode::Error),
        times: (span.start_time_unix_nano, span.end_time_unix_nano),
        parent_id: (!span.parent_span_id.is_empty()).then(|| hex(&span.parent_span_id)),
        attributes: [process.clone(), text_attributes(span.attributes)].concat(),
        name: span.name,
    })
}

fn text_attributes(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    let text = |attribute: KeyValue| match attribute.value?.value? {
        Value::StringValue(value) => Some((attribute.key, value)),
        Value::IntValue(value) => Some((attribute.key, value.to_string())),
        _ => None,
    };
    attributes.into_iter().filter_map(text).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
