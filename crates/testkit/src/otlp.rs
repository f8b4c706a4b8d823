//! A collector of spans that keeps what it is sent.
//!
//! It speaks just enough gRPC for `TraceService/Export` and does not decode protobuf: names, ids and attribute
//! values lie in the message as they are, and that they arrived is what a test wants to know.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;

/// An empty message: not compressed, length 0.
const EMPTY: &[u8] = &[0, 0, 0, 0, 0];

/// The collector; it ends with the test's runtime.
#[derive(Clone, Debug)]
pub struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Collector {
    /// Starts on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = Self {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
        };
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        let router = Router::new()
            .route(path, post(export))
            .with_state(collector.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        collector
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether these bytes were in any message.
    pub fn received(&self, bytes: &[u8]) -> bool {
        self.received
            .lock()
            .unwrap()
            .windows(bytes.len())
            .any(|window| window == bytes)
    }
}

async fn export(State(collector): State<Collector>, message: Bytes) -> Response {
    collector.received.lock().unwrap().extend_from_slice(&message);
    let ok = async {
        Some(Ok(HeaderMap::from_iter([(
            header::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )])))
    };
    let body = Full::new(Bytes::from_static(EMPTY)).with_trailers(ok);
    ([(header::CONTENT_TYPE, "application/grpc")], Body::new(body)).into_response()
}
