//! The admin port: what Kubernetes and Prometheus ask, apart from the port that serves users.
//!
//! | path | 200 when | 503 body |
//! |---|---|---|
//! | `/livez` | nothing called `fail_live` | the reason |
//! | `/readyz` | every task is ready and the process is not draining | the names of what is missing |
//! | `/startupz` | every task was ready at least once | the names of what is missing |
//! | `/metrics` | always | |
//!
//! It goes on serving while the process drains: a probe that finds the port closed would report a crash
//! instead of a leave.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::drain;
use crate::readiness::Readiness;

/// Media type of the OpenMetrics text format, version 1.0.0.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Answers the three health paths.
    pub readiness: Readiness,
    /// Answers `/metrics`.
    pub registry: Arc<Registry>,
}

/// The router of the admin port; callers may `.merge()` routes of their own.
pub fn router(readiness: Readiness, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/metrics", get(metrics))
        .with_state(Admin { readiness, registry })
}

/// Serves `router` until `shutdown` is signaled, then closes idle connections and lets running requests end.
///
/// # Errors
/// The listener's, when it cannot accept any more.
pub async fn serve(listener: TcpListener, router: Router, shutdown: drain::Watch) -> io::Result<()> {
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { shutdown.signaled().await })
        .await
}

async fn livez(State(admin): State<Admin>) -> Response {
    match admin.readiness.live_fault() {
        None => (StatusCode::OK, "live\n").into_response(),
        Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("not live: {fault}\n")).into_response(),
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    if admin.readiness.is_ready() {
        (StatusCode::OK, "ready\n").into_response()
    } else if admin.readiness.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: draining\n").into_response()
    } else {
        pending(&admin.readiness, "not ready")
    }
}

async fn startupz(State(admin): State<Admin>) -> Response {
    if admin.readiness.is_started() {
        (StatusCode::OK, "started\n").into_response()
    } else {
        pending(&admin.readiness, "not started")
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &admin.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn pending(readiness: &Readiness, what: &str) -> Response {
    let tasks = readiness.pending().join(", ");
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("{what}: waiting for {tasks}\n"),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn get(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn health_follows_readiness_and_names_what_is_missing() {
        let readiness = Readiness::new();
        let database = readiness.task("database");
        let router = router(readiness.clone(), Arc::new(Registry::default()));
        let waiting = (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: waiting for database\n".to_owned(),
        );
        assert_eq!(get(&router, "/readyz").await, waiting);
        assert_eq!(get(&router, "/startupz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(get(&router, "/livez").await.0, StatusCode::OK);
        database.ready();
        assert_eq!(get(&router, "/readyz").await.0, StatusCode::OK);
        readiness.drain();
        assert_eq!(get(&router, "/readyz").await.1, "not ready: draining\n");
        assert_eq!(get(&router, "/startupz").await.0, StatusCode::OK);
        readiness.fail_live("lease lost");
        assert_eq!(get(&router, "/livez").await.1, "not live: lease lost\n");
    }

    #[tokio::test]
    async fn metrics_are_a_complete_exposition() {
        let router = router(Readiness::new(), Arc::new(Registry::default()));
        assert_eq!(
            get(&router, "/metrics").await,
            (StatusCode::OK, "# EOF\n".to_owned())
        );
    }
}
