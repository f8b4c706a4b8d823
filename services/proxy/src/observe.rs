//! Telemetry of a request: span, metrics, access log. The second layer, so that it sees everything that is answered.
//!
//! A request is over when its response's body is: streams are logged when they end, with the bytes that passed. A request
//! whose caller goes away first is logged too, because everything happens when the record is dropped.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use opentelemetry::KeyValue;
use tower::Service;
use trellis_resilience::{breaker::Phase, fallback::layer::Fell, retry::layer::Attempt};

use crate::{
    access_log::{AccessLog, Line},
    body::{Body, BoxError, Request, Response},
    connection::{Busy, Peer},
    direction::Direction,
    failure::{GRPC_STATUS, MadeHere},
    forwarded::Client,
    metrics::{Active, Metrics, RequestLabels},
    route::Labels,
    target::{Target, Upstream},
    trace::{Export, Trace},
};

/// Status of a request whose caller went away before the response: nginx' 499, which other proxies log too.
const CALLER_GONE: u16 = 499;

/// Where telemetry goes.
#[derive(Debug, Clone)]
pub(crate) struct Telemetry {
    pub(crate) metrics: Metrics,
    pub(crate) access_log: AccessLog,
    pub(crate) export: Export,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Observe<S> {
    direction: Direction,
    telemetry: Arc<Telemetry>,
    inner: S,
}

/// The answer to a request that is recorded.
pub(crate) struct Observing<F> {
    answered: F,
    recorded: Option<Box<Recorded>>,
}

/// What is known of a request. Written out when it is dropped.
struct Record {
    telemetry: Arc<Telemetry>,
    direction: Direction,
    started: Instant,
    trace: Trace,
    labels: Labels,
    active: Active,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    peer: Option<SocketAddr>,
    client: Option<IpAddr>,
    cluster: Option<Arc<str>>,
    /// None of a request without a body.
    bytes_in: Option<Arc<AtomicU64>>,
    bytes_out: u64,
    answer: Option<Answer>,
    grpc_status: Option<HeaderValue>,
    /// The caller's connection is busy until the record is gone.
    _busy: Option<Busy>,
}

struct Answer {
    status: u16,
    to_head: Duration,
    upstream: Option<SocketAddr>,
    made_here: Option<MadeHere>,
    again: Option<Attempt>,
    breaker: Option<Phase>,
    fallback: bool,
}

/// A request's body, counted.
struct Counted {
    body: Body,
    bytes: Arc<AtomicU64>,
}

/// A response's body with the record of its request. It is made with the request, to be allocated once.
struct Recorded {
    body: Body,
    record: Record,
}

/// Makes the layer.
pub(crate) fn layer<S>(
    direction: Direction,
    telemetry: Telemetry,
) -> impl tower::Layer<S, Service = Observe<S>> + Clone {
    let telemetry = Arc::new(telemetry);
    tower::layer::layer_fn(move |inner| Observe {
        direction,
        telemetry: Arc::clone(&telemetry),
        inner,
    })
}

impl<S> Service<Request> for Observe<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Observing<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let mut recorded = Box::new(Recorded {
            body: Body::empty(),
            record: Record::begin(self.direction, &self.telemetry, &request),
        });
        let record = &mut recorded.record;
        request.extensions_mut().insert(record.trace.clone());
        if !request.body().is_end_stream() {
            let bytes = Arc::clone(record.bytes_in.insert(Arc::default()));
            request = request.map(|body| Body::boxed(Counted { body, bytes }));
        }
        Observing {
            answered: self.inner.call(request),
            recorded: Some(recorded),
        }
    }
}

impl<F: Future<Output = Result<Response, Infallible>> + Unpin> Future for Observing<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut response = ready!(Pin::new(&mut self.answered).poll(cx))?;
        if let Some(mut recorded) = self.recorded.take() {
            recorded.record.head(&response);
            recorded.body = std::mem::take(response.body_mut());
            *response.body_mut() = Body::from_box(recorded);
        }
        Poll::Ready(Ok(response))
    }
}

impl Record {
    fn begin(direction: Direction, telemetry: &Arc<Telemetry>, request: &Request) -> Self {
        let target = request.extensions().get::<Target>();
        let labels = target.map(|target| target.labels.clone());
        let labels = labels.unwrap_or_else(|| Labels {
            service: "".into(),
            route: "".into(),
        });
        let cluster = target
            .and_then(|target| target.route.as_ref().ok())
            .map(|route| Arc::clone(&route.cluster.name));
        let headers = request.headers();
        let name = || format!("{} {}", request.method(), labels.route);
        let active = RequestLabels::new(&labels, request.method(), direction);
        Self {
            telemetry: Arc::clone(telemetry),
            active: telemetry.metrics.begin(active),
            direction,
            started: Instant::now(),
            trace: Trace::begin(telemetry.export, direction, name, headers),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            host: headers.get(header::HOST).cloned(),
            user_agent: headers.get(header::USER_AGENT).cloned(),
            peer: request.extensions().get::<Peer>().map(|peer| peer.address),
            client: request.extensions().get::<Client>().map(|client| client.address),
            cluster,
            bytes_in: None,
            bytes_out: 0,
            answer: None,
            grpc_status: None,
            _busy: request.extensions().get::<Busy>().cloned(),
            labels,
        }
    }

    fn head(&mut self, response: &Response) {
        let extensions = response.extensions();
        self.answer = Some(Answer {
            status: response.status().as_u16(),
            to_head: self.started.elapsed(),
            upstream: extensions.get::<Upstream>().map(|Upstream(address)| *address),
            made_here: extensions.get::<MadeHere>().copied(),
            again: extensions.get::<Attempt>().copied(),
            breaker: extensions.get::<Phase>().copied(),
            fallback: extensions.get::<Fell>().is_some(),
        });
        self.note_grpc_status(response.headers());
    }

    fn note_grpc_status(&mut self, fields: &HeaderMap) {
        if let Some(status) = fields.get(GRPC_STATUS) {
            self.grpc_status = Some(status.clone());
        }
    }

    fn attributes(&self, status: u16) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new(
                "http.request.method",
                trellis_chassis::metrics::known_method(&self.method),
            ),
            KeyValue::new("http.response.status_code", i64::from(status)),
            KeyValue::new("http.route", self.labels.route.to_string()),
            KeyValue::new("url.path", self.uri.path().to_owned()),
            KeyValue::new("trellis.direction", self.direction.as_str()),
            KeyValue::new("trellis.service", self.labels.service.to_string()),
        ];
        if let Some(client) = self.client {
            attributes.push(KeyValue::new("client.address", client.to_string()));
        }
        if let Some(upstream) = self.answer.as_ref().and_then(|answer| answer.upstream) {
            attributes.push(KeyValue::new("network.peer.address", upstream.ip().to_string()));
            attributes.push(KeyValue::new("network.peer.port", i64::from(upstream.port())));
        }
        attributes
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let answer = self.answer.take();
        let status = answer.as_ref().map_or(CALLER_GONE, |answer| answer.status);
        let to_head = answer
            .as_ref()
            .map_or_else(|| self.started.elapsed(), |answer| answer.to_head);
        self.telemetry.metrics.end(&self.active, status, to_head);
        self.trace.end(status >= 500, || self.attributes(status));
        let access_log = &self.telemetry.access_log;
        if !access_log.is_on() {
            return;
        }
        access_log.add(&Line {
            direction: self.direction.as_str(),
            method: self.method.as_str(),
            path: self.uri.path(),
            host: text(self.host.as_ref()).unwrap_or_default(),
            protocol: protocol(self.version),
            status,
            grpc_status: text(self.grpc_status.as_ref()),
            duration_ms: (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e3,
            bytes_in: self
                .bytes_in
                .as_ref()
                .map_or(0, |bytes| bytes.load(Ordering::Relaxed)),
            bytes_out: self.bytes_out,
            service: &self.labels.service,
            route: &self.labels.route,
            cluster: self.cluster.as_deref(),
            upstream: answer.as_ref().and_then(|answer| answer.upstream),
            fallback: answer.as_ref().is_some_and(|answer| answer.fallback),
            tries: answer
                .as_ref()
                .and_then(|answer| answer.again)
                .map(|Attempt(number)| number),
            breaker: answer
                .as_ref()
                .and_then(|answer| answer.breaker)
                .map(Phase::as_str),
            reason: answer
                .and_then(|answer| answer.made_here)
                .map(|MadeHere(reason)| reason.as_str()),
            peer: self.peer,
            client: self.client,
            user_agent: text(self.user_agent.as_ref()),
            trace_id: format_args!("{}", self.trace.trace_id()),
            span_id: format_args!("{}", self.trace.span_id()),
        });
    }
}

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok())
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            if let Some(data) = frame.data_ref() {
                self.record.bytes_out += data.len() as u64;
            } else if let Some(trailers) = frame.trailers_ref() {
                self.record.note_grpc_status(trailers);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
