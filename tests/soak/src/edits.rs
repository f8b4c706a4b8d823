//! Changes of configuration, and how long each takes to reach every pod that it concerns.
//!
//! An edit gives a service another route, or its rate limit another number. Each gateway pod is asked for the new path, or each
//! pod of the service for its limits, directly and all the time, until its proxy answers by the edit. The time is from the
//! answer to the PATCH, when a user's `kubectl apply` returns, to the first changed answer of the last pod.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures::future::try_join_all;
use http::Request;
use http_body_util::Full;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use trellis_api::names::TARGET_PORT_PREFIX;

use crate::{
    line::{Line, Protocol},
    shop::Shop,
    traffic::Answer,
    wait::LONG,
};

/// Edits of a run.
const EDITS: u32 = 100;
/// Between two edits: people's do not come so close that the operator gathers them.
const CALM: Duration = Duration::from_millis(250);
/// A limit that no run comes near.
const PLENTY: u32 = 1_000_000;
/// Between two questions to a pod: the resolution of the figures, and little load.
const PAUSE: Duration = Duration::from_millis(4);
/// What a proxy says of a path that it does not know.
const NO_ROUTE: &str = "no_route";

/// Gives a service another route, again and again, and returns what each took to reach every gateway pod.
pub(crate) async fn of_a_route(shop: &Shop, service: &str, gateway: &str) -> Result<Vec<Duration>> {
    let own = shop.routes(service).await?;
    let gateways = lines(&shop.pods(gateway).await?)?;
    let run = format!("/soak-{:08x}", rand::random::<u32>());
    let mut times = Vec::new();
    for edit in 0..EDITS {
        let path = format!("{run}-{edit}");
        let mut routes = own.clone();
        routes.push(json!({"name": "soak", "path": path}));
        let change = shop.change(service, json!({"routes": routes}));
        let holds = |answer: &Answer| answer.reason.as_deref() != Some(NO_ROUTE);
        let took = edited(change, &gateways, &path, holds).await;
        times.push(took.with_context(|| format!("edit {edit}"))?);
        tokio::time::sleep(CALM).await;
    }
    shop.change(service, json!({"routes": own})).await?;
    Ok(times)
}

/// Gives a service's limit another number, again and again, and returns what each took to reach every pod of the service.
pub(crate) async fn of_a_limit(shop: &Shop, service: &str) -> Result<Vec<Duration>> {
    let pods = lines(&shop.pods(service).await?)?;
    let mut times = Vec::new();
    for edit in 0..=EDITS {
        let limit = PLENTY + edit;
        let told = format!("q={limit};");
        let change = shop.limit(service, limit);
        let holds = |answer: &Answer| {
            answer
                .limits
                .as_deref()
                .is_some_and(|limits| limits.contains(&told))
        };
        let took = edited(change, &pods, "/", holds).await;
        times.push(took.with_context(|| format!("edit {edit}"))?);
        tokio::time::sleep(CALM).await;
    }
    shop.unlimit().await?;
    // The first has made the policy.
    Ok(times.split_off(1))
}

async fn edited<T>(
    change: impl Future<Output = Result<T>>,
    pods: &[Line],
    path: &str,
    holds: impl Fn(&Answer) -> bool,
) -> Result<Duration> {
    let answered = async {
        change.await?;
        Ok(Instant::now())
    };
    let changed = try_join_all(pods.iter().map(|pod| first_change(pod, path, &holds)));
    let (answered, changed) = futures::try_join!(answered, changed)?;
    let last = changed.into_iter().max().unwrap_or(answered);
    // A pod may know before the API server's answer has arrived here.
    Ok(last.saturating_duration_since(answered))
}

async fn first_change(pod: &Line, path: &str, holds: impl Fn(&Answer) -> bool) -> Result<Instant> {
    let began = Instant::now();
    while began.elapsed() < LONG {
        let request = Request::get(path).body(Full::<Bytes>::default())?;
        let answer = pod.exchange(request).await?;
        if holds(&answer) {
            return Ok(Instant::now());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("a pod did not answer {path} by the edit after {LONG:?}")
}

fn lines(pods: &[Pod]) -> Result<Vec<Line>> {
    let line = |pod| Ok(Line::new(address(pod)?, Protocol::H1));
    pods.iter().map(line).collect()
}

/// Where a pod's proxy listens.
fn address(pod: &Pod) -> Result<SocketAddr> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let ip: IpAddr = ip.context("a pod has no address")?.parse()?;
    // A sidecar is an init container that goes on.
    let containers = pod.spec.iter().flat_map(|spec| {
        let before = spec.init_containers.iter().flatten();
        before.chain(&spec.containers)
    });
    let port = containers
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| {
            port.name
                .as_ref()
                .is_some_and(|name| name.starts_with(TARGET_PORT_PREFIX))
        })
        .context("a pod has no listener")?;
    Ok(SocketAddr::new(ip, u16::try_from(port.container_port)?))
}
