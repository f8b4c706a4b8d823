//! What a request's way through the policies costs in process, without a socket: `cargo xtask bench limiter`.
//!
//! Each case is a layer of the proxy, as its stacks have it, around a service that answers at once. What making the request
//! and that answer takes is a case too, and taken off the others by whoever reads. Cases take turns in every round. Time is
//! the thread's own on a processor.
//!
//! Not in it: the breaker of each endpoint, which is asked where the endpoint is chosen.

use std::{
    hint::black_box,
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Uri};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tower::{Layer as _, Service, ServiceExt as _, util::BoxCloneSyncService};
use trellis_proxy_config::{Document, ValidDocument};
use trellis_resilience::drive::BoxFuture;

use crate::{
    body::{Body, Request, Response},
    cluster::Cluster,
    failure::Failure,
    limits,
    snapshot::{Listener, Snapshot, Source},
};

const ROUNDS: usize = 31;
const REQUESTS: usize = 20_000;
/// Callers that requests are from, in turns.
const CALLERS: usize = 1_000;

/// A way through some of the policies.
type Way = BoxCloneSyncService<Request, Response, Failure>;

/// Answers at once.
#[derive(Debug, Clone)]
struct Answers;

/// Goes by way of the policies of a cluster.
#[derive(Debug, Clone)]
struct ByWayOf(Arc<Cluster>);

/// Measures, and prints an object of nanoseconds a request, by case and round.
///
/// # Errors
/// If the process cannot measure.
pub fn run() -> anyhow::Result<()> {
    let (total, keyed) = (limit("total", &json!({})), keyed());
    let usual = json!({});
    let all = json!({
        "deadline": {"total": 10_000, "perTry": 2_000}, "retry": {"attempts": 3},
    });
    let mut cases = [
        ("nothing", Way::new(Answers)),
        ("a limit without key", limited(&json!([total]), Answers)?),
        (
            "a limit without key, no headers",
            limited(&json!([limit("total", &json!({"headers": "None"}))]), Answers)?,
        ),
        (
            "a limit with a key and a condition",
            limited(&json!([keyed]), Answers)?,
        ),
        ("both limits", limited(&json!([total, keyed]), Answers)?),
        ("policies of a cluster, by default", Way::new(policies(&usual)?)),
        ("policies of a cluster, all set", Way::new(policies(&all)?)),
        (
            "both limits and all policies",
            limited(&json!([total, keyed]), policies(&all)?)?,
        ),
    ];
    let mut rounds = vec![Vec::new(); cases.len()];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("failed to start a runtime")?;
    let requests = requests()?;
    runtime.block_on(tokio::task::unconstrained(async {
        // The first round is thrown away: tables grow, and callers are new.
        for round in 0..=ROUNDS {
            for place in 0..cases.len() {
                let case = (place + round) % cases.len();
                let nanos = measure(&mut cases[case].1, &requests).await?;
                if round > 0 {
                    rounds[case].push(nanos);
                }
            }
        }
        anyhow::Ok(())
    }))?;
    let of_case = cases
        .iter()
        .zip(rounds)
        .map(|((name, _), nanos)| json!({"case": name, "nanos": nanos}));
    serde_json::to_writer(io::stdout(), &of_case.collect::<Value>()).context("failed to print")
}

async fn measure(way: &mut Way, requests: &[(Uri, HeaderMap)]) -> anyhow::Result<f64> {
    let before = processor_time()?;
    for number in 0..REQUESTS {
        let (uri, headers) = &requests[number % requests.len()];
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        let answer = match way.ready().await {
            Ok(way) => way.call(request).await,
            Err(failure) => Err(failure),
        };
        let answer = answer.map_err(|failure| anyhow!("a request failed: {}", failure.reason.as_str()))?;
        black_box(answer);
    }
    Ok((processor_time()? - before).as_nanos() as f64 / REQUESTS as f64)
}

fn processor_time() -> anyhow::Result<Duration> {
    let time =
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("failed to read the thread's clock")?;
    Ok(time.into())
}

/// What comes in, as hyper would make it: one of every caller.
fn requests() -> anyhow::Result<Vec<(Uri, HeaderMap)>> {
    let of_caller = |caller: usize| {
        let mut headers = HeaderMap::new();
        let values = [
            ("host", "order.shop"),
            ("user-agent", "trellis-bench"),
            ("accept", "*/*"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
        ];
        for (name, value) in values {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("x-user", HeaderValue::from_str(&format!("caller-{caller:08}"))?);
        anyhow::Ok((Uri::from_static("/api/items/42?full=1"), headers))
    };
    (0..CALLERS).map(of_caller).collect()
}

/// A limit that refuses nobody.
fn limit(name: &str, more: &Value) -> Value {
    let rate = json!({"limit": 1_000_000, "window": 1_000});
    let mut limit = json!({
        "policy": "timing", "generation": 1, "name": name,
        "rule": {"rates": {"algorithm": "TokenBucket", "rates": [rate]}},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        limit[field] = value.clone();
    }
    limit
}

fn keyed() -> Value {
    let when = r#"request.method == "GET" && request.path.startsWith("/api/")"#;
    limit(
        "each",
        &json!({"counters": [r#"request.headers["x-user"]"#], "when": [when]}),
    )
}

fn compile(config: &Value) -> anyhow::Result<Snapshot> {
    let config = serde_json::from_value(config.clone()).context("failed to read the configuration")?;
    let text = serde_json::to_vec(&Document::new(1, config))?;
    let document =
        ValidDocument::parse(&text).map_err(|faults| anyhow!("the document is refused: {faults:?}"))?;
    let snapshot = Snapshot::compile(&document, Source::File, None, |_| None);
    let snapshot = snapshot.map_err(|faults| anyhow!("the document is refused: {faults:?}"))?;
    snapshot.settle();
    Ok(snapshot)
}

fn limited<S>(limits: &Value, inner: S) -> anyhow::Result<Way>
where
    S: Service<Request, Response = Response, Error = Failure, Future = BoxFuture<Result<Response, Failure>>>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let snapshot = compile(&json!({
        "role": "Sidecar",
        "identity": {"namespace": "shop", "microservice": "order"},
        "listeners": [{"name": "http", "port": 8080, "inbound": {"appPort": 9000, "protocol": "Http1"}}],
        "limits": limits,
    }))?;
    let listener = snapshot
        .listeners
        .first()
        .context("the document has no listener")?;
    let listener: Arc<ArcSwap<Listener>> = Arc::new(ArcSwap::new(Arc::clone(listener)));
    Ok(Way::new(limits::layer(&listener).layer(inner)))
}

fn policies(policy: &Value) -> anyhow::Result<ByWayOf> {
    let snapshot = compile(&json!({
        "role": "Sidecar",
        "identity": {"namespace": "shop", "microservice": "order"},
        "clusters": {"shop/user/http": {"protocol": "Http1", "policy": policy}},
    }))?;
    let cluster = snapshot.clusters.into_values().next();
    Ok(ByWayOf(cluster.context("the document has no cluster")?))
}

impl<B> Service<http::Request<B>> for Answers {
    type Response = Response;
    type Error = Failure;
    type Future = BoxFuture<Result<Response, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        drop(request);
        Box::pin(async { Ok(Response::new(Body::empty())) })
    }
}

impl Service<Request> for ByWayOf {
    type Response = Response;
    type Error = Failure;
    type Future = BoxFuture<Result<Response, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let cluster = Arc::clone(&self.0);
        Box::pin(async move {
            match cluster.policies() {
                Some(policies) => policies.around(Answers, request).await,
                None => Ok(Response::new(Body::empty())),
            }
        })
    }
}
