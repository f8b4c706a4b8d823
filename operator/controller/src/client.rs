//! The client of the API server, with a layer that every request passes.
//!
//! The layer counts requests and notes when a list or watch of a resource was last answered, which is how the process
//! knows that its eyes are open (`liveness`). It answers to nothing and changes nothing.
//!
//! Time limits: a response that does not come within [`READ_TIMEOUT`] of the request breaks the connection. Watches are
//! asked to end before that, so a dead connection is noticed within it, lists included (kube itself sets none).
//! Retries: kube's own (15 tries, up to 1000 s, also for POST) are off. One request could outlive the leader's claim;
//! passes are retried as a whole, with backoff, and watches have their own.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Method, Request, Response};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tower::{Layer, Service};

use crate::metrics::{Metrics, RequestLabels};

#[cfg(feature = "faults")]
mod faults;

/// Longest silence on a connection that owes an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(90);
/// Label of a request that got no answer, as in client-go.
const NO_ANSWER: &str = "<error>";

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a kubeconfig nor a ServiceAccount.
    #[error("failed to find out where the API server is; set KUBECONFIG or run in a pod")]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration is of no use.
    #[error("failed to make a client of the API server")]
    Client(#[from] kube::Error),
    /// What is to go wrong cannot be read.
    #[cfg(feature = "faults")]
    #[error(transparent)]
    Faults(#[from] faults::Error),
}

/// When each resource that is to be listed or watched all the time was last answered for, whatever the answer was.
///
/// Only what is [expected](Self::expect) counts. A list that is made now and then (Events of a failing pod) has an old
/// answer most of the time, and nothing is wrong with that.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<HashMap<String, Instant>>>);

impl Progress {
    /// Time since the last answer, by plural name of the resource.
    pub fn ages(&self, now: Instant) -> Vec<(String, Duration)> {
        self.answers()
            .iter()
            .map(|(resource, at)| (resource.clone(), now.saturating_duration_since(*at)))
            .collect()
    }

    /// From now on the resource is listed and watched without end; its first list may hang as well as any other.
    pub fn expect(&self, resource: &str, now: Instant) {
        self.answers().insert(resource.to_owned(), now);
    }

    /// Notes an answer about a resource that is expected.
    pub fn note(&self, resource: &str, now: Instant) {
        if let Some(at) = self.answers().get_mut(resource) {
            *at = now;
        }
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client by kubeconfig or by the pod's ServiceAccount.
///
/// # Errors
/// No configuration, or one that cannot be used.
pub async fn connect(metrics: Metrics, progress: Progress) -> Result<Client, Error> {
    let mut config = Config::infer().await?;
    config.default_retry = false;
    config.read_timeout = Some(READ_TIMEOUT);
    // Otherwise a pooled connection's idle time counts towards the next response.
    config.reset_reader_on_write = true;
    let builder = ClientBuilder::try_from(config)?;
    #[cfg(feature = "faults")]
    let builder = builder.with_layer(&faults::Faults::from_environment()?);
    Ok(builder.with_layer(&Observe { metrics, progress }).build())
}

struct Observe {
    metrics: Metrics,
    progress: Progress,
}

/// The service of the layer that counts requests.
struct Observing<S> {
    inner: S,
    metrics: Metrics,
    progress: Progress,
}

impl<S> Layer<S> for Observe {
    type Service = Observing<S>;

    fn layer(&self, inner: S) -> Observing<S> {
        Observing {
            inner,
            metrics: self.metrics.clone(),
            progress: self.progress.clone(),
        }
    }
}

impl<S, B> Service<Request<Body>> for Observing<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send,
    B: Send,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = known_method(request.method());
        let watched = watched_resource(&request).map(str::to_owned);
        let (metrics, progress) = (self.metrics.clone(), self.progress.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let result = answer.await;
            let code = result.as_ref().map_or_else(
                |_| NO_ANSWER.to_owned(),
                |response| response.status().as_str().to_owned(),
            );
            metrics
                .requests
                .get_or_create(&RequestLabels { method, code })
                .inc();
            if let Some(resource) = watched {
                progress.note(&resource, Instant::now());
            }
            result
        })
    }
}

/// Plural name of the resource that a request lists page by page or watches; None for any other request.
fn watched_resource(request: &Request<Body>) -> Option<&str> {
    let query = request.uri().query()?;
    let collection = query
        .split('&')
        .any(|pair| pair.starts_with("watch=") || pair.starts_with("limit="));
    (collection && request.method() == Method::GET)
        .then(|| request.uri().path().rsplit('/').next())
        .flatten()
}

fn known_method(method: &Method) -> &'static str {
    trellis_chassis::metrics::known_method(method)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(method: &str, uri: &str) -> Option<String> {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .body(Body::empty())
            .unwrap();
        watched_resource(&request).map(str::to_owned)
    }

    #[test]
    fn a_list_that_is_made_now_and_then_does_not_look_like_a_hanging_watch() {
        let (progress, start) = (Progress::default(), Instant::now());
        progress.expect("pods", start);
        progress.note("events", start);
        progress.note("pods", start + Duration::from_secs(60));
        let ages = progress.ages(start + Duration::from_secs(400));
        assert_eq!(ages, [("pods".to_owned(), Duration::from_secs(340))]);
    }

    #[test]
    fn lists_and_watches_are_progress_and_nothing_else_is() {
        assert_eq!(
            watched("GET", "/api/v1/pods?limit=500&labelSelector=a").as_deref(),
            Some("pods")
        );
        assert_eq!(
            watched(
                "GET",
                "/apis/trellis.dev/v1alpha1/microservices?watch=true&timeoutSeconds=60"
            )
            .as_deref(),
            Some("microservices")
        );
        assert_eq!(
            watched("GET", "/api/v1/namespaces/shop/events?fieldSelector=x"),
            None
        );
        assert_eq!(
            watched("PATCH", "/apis/apps/v1/namespaces/shop/deployments/user?limit=1"),
            None
        );
    }
}
