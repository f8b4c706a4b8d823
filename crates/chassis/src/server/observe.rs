//! What surrounds every request of a domain service, from outside in:
//!
//! ```text
//! trailing slash -> route -> server span (parent: traceparent) -> metrics -> panic guard -> deadline -> handler
//! ```
//!
//! The span is an edge span, made with the OpenTelemetry API; it is current while the handler runs, so log
//! lines, inner spans and calls of dependencies all join its trace. Log lines: debug for an answer, warn for
//! a 5xx; the sidecar writes the access log.
//!
//! It does not protect against slow readers or many connections: that is the sidecar's.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri, Version, header};
use opentelemetry::context::FutureExt as _;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};
use tokio::time;
use tower::ServiceBuilder;
use tower::util::MapRequestLayer;

use crate::metrics::{Requests, UNMATCHED, known_method};
use crate::problem::{Kind, Problem};
use crate::readiness::Readiness;
use crate::trace;

/// Most bytes of a request's body.
pub const MAX_BODY: usize = 64 * 1024;
/// A handler that takes longer is given up. Everything that a handler waits for has a shorter bound.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
struct Observer {
    service: Arc<str>,
    requests: Requests,
    readiness: Readiness,
}

pub(super) fn around(service: &str, router: Router, requests: Requests, readiness: Readiness) -> Router {
    let observer = Observer {
        service: service.into(),
        requests,
        readiness,
    };
    let routes = router
        .fallback(async || Problem::new(Kind::NoRoute))
        .method_not_allowed_fallback(async || Problem::new(Kind::MethodNotAllowed))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(observer, observe));
    // A layer of the router itself would run after routing, too late to change the path.
    Router::new().fallback_service(
        ServiceBuilder::new()
            .layer(MapRequestLayer::new(without_slash))
            .service(routes),
    )
}

async fn observe(State(observer): State<Observer>, request: Request, next: Next) -> Response {
    let route: Arc<str> = match request.extensions().get::<MatchedPath>() {
        Some(matched) => matched.as_str().into(),
        None => UNMATCHED.into(),
    };
    let (version, method) = (request.version(), request.method().clone());
    let cx = server_span(&request, &method, &route);
    let in_flight = observer
        .requests
        .begin(Arc::clone(&observer.service), Arc::clone(&route), &method);

    let mut response = guarded(request, next).with_context(cx.clone()).await;

    let status = response.status();
    in_flight.finish(status);
    let span = cx.span();
    span.set_attribute(KeyValue::new(
        "http.response.status_code",
        i64::from(status.as_u16()),
    ));
    let _current = cx.clone().attach();
    if status.is_server_error() {
        span.set_status(Status::error(""));
        tracing::warn!(method = known_method(&method), %route, status = status.as_u16(), "request failed");
    } else {
        tracing::debug!(method = known_method(&method), %route, status = status.as_u16(), "request answered");
    }
    span.end();
    // HTTP/2 has GOAWAY instead and forbids this header.
    if version <= Version::HTTP_11 && observer.readiness.is_draining() {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn server_span(request: &Request, method: &Method, route: &str) -> Context {
    let parent = trace::extract(request.headers());
    let tracer = global::tracer("trellis");
    let method = known_method(method);
    let span = tracer
        .span_builder(if route == UNMATCHED {
            method.to_owned()
        } else {
            format!("{method} {route}")
        })
        .with_kind(SpanKind::Server)
        .with_attributes([
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route.to_owned()),
            KeyValue::new("url.scheme", "http"),
        ])
        .start_with_context(&tracer, &parent);
    parent.with_span(span)
}

async fn guarded(request: Request, next: Next) -> Response {
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    match time::timeout(REQUEST_TIMEOUT, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            tracing::error!(panic = panic_text(panic.as_ref()), "handler panicked");
            Problem::new(Kind::Internal).into_response()
        }
        Err(_) => {
            tracing::error!(timeout_s = REQUEST_TIMEOUT.as_secs(), "handler took too long");
            Problem::unavailable("the service took too long", Duration::from_secs(1)).into_response()
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not a text")
}

/// `/users/` becomes `/users`; the query stays.
fn without_slash<B>(mut request: http::Request<B>) -> http::Request<B> {
    let path = request.uri().path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() == path.len() || trimmed.is_empty() {
        return request;
    }
    let path_and_query = match request.uri().query() {
        Some(query) => PathAndQuery::try_from(format!("{trimmed}?{query}")),
        None => PathAndQuery::try_from(trimmed),
    };
    let mut parts = request.uri().clone().into_parts();
    // Both are pieces of a URI that was parsed before; if not, the request goes on as it came.
    if let Ok(path_and_query) = path_and_query {
        parts.path_and_query = Some(path_and_query);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::extract::Request;
    use axum::routing::get;
    use http::StatusCode;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    struct App {
        router: Router,
        registry: Registry,
        readiness: Readiness,
    }

    fn app() -> App {
        let (mut registry, readiness) = (Registry::default(), Readiness::new());
        let router = Router::new()
            .route("/users", get(async |request: Request| request.uri().to_string()))
            .route(
                "/users/{username}",
                get(async || trace::trace_id(&Context::current()).unwrap_or_default()),
            )
            .route("/slow", get(std::future::pending::<()>))
            .route("/panic", get(async || -> StatusCode { panic!("boom") }));
        let router = around(
            "user",
            router,
            Requests::register(&mut registry),
            readiness.clone(),
        );
        App {
            router,
            registry,
            readiness,
        }
    }

    impl App {
        async fn send(&self, request: Request) -> (http::response::Parts, String) {
            let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            (parts, String::from_utf8(body.to_vec()).unwrap())
        }

        async fn get(&self, path: &str) -> (http::response::Parts, String) {
            self.send(Request::get(path).body(Body::empty()).unwrap()).await
        }
    }

    #[tokio::test]
    async fn a_trailing_slash_is_equal_and_the_query_stays() {
        let app = app();
        assert_eq!(app.get("/users/?limit=1").await.1, "/users?limit=1");
        assert_eq!(app.get("/users").await.1, "/users");
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_problems() {
        let app = app();
        let (head, body) = app.get("/nowhere/").await;
        assert_eq!(head.status, StatusCode::NOT_FOUND);
        assert_eq!(
            serde_json::from_str::<Value>(&body).unwrap()["type"],
            "urn:trellis:problem:no-route"
        );
        let (head, _) = app.get("/").await;
        assert_eq!(head.status, StatusCode::NOT_FOUND);
        let (head, body) = app
            .send(Request::delete("/users").body(Body::empty()).unwrap())
            .await;
        assert_eq!(head.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(head.headers["allow"], "GET,HEAD");
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["status"], 405);
    }

    #[tokio::test]
    async fn the_trace_of_the_caller_is_current_in_the_handler() {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let request = Request::get("/users/ada")
            .header("traceparent", traceparent)
            .body(Body::empty())
            .unwrap();
        assert_eq!(app().send(request).await.1, "0af7651916cd43dd8448eb211c80319c");
    }

    #[tokio::test]
    async fn labels_are_templates_never_paths() {
        let app = app();
        for path in ["/users/ada", "/users/bob/", "/etc/passwd"] {
            app.get(path).await;
        }
        let mut text = String::new();
        encode(&mut text, &app.registry).unwrap();
        assert!(text.contains(
            r#"request_total{service="user",route="/users/{username}",method="GET",status="200"} 2"#
        ));
        assert!(
            text.contains(r#"request_total{service="user",route="_unmatched",method="GET",status="404"} 1"#)
        );
        assert!(!text.contains("passwd") && !text.contains("ada"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_panics_or_hangs_is_answered_for() {
        let app = app();
        assert_eq!(
            app.get("/panic").await.0.status,
            StatusCode::INTERNAL_SERVER_ERROR
        );
        let (head, _) = app.get("/slow").await;
        assert_eq!(head.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(head.headers["retry-after"], "1");
    }

    #[tokio::test]
    async fn responses_ask_to_close_only_while_draining() {
        let app = app();
        assert!(!app.get("/users").await.0.headers.contains_key("connection"));
        app.readiness.drain();
        assert_eq!(app.get("/users").await.0.headers["connection"], "close");
    }
}
