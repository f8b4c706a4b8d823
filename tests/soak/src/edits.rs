//! Changes of configuration, and how long each takes to reach every gateway.
//!
//! An edit gives a service another route. Each gateway pod is asked for the new path, directly and all the time, until the
//! proxy stops answering that there is no such route. The time is from the answer to the PATCH, when a user's `kubectl
//! apply` returns, to the first changed answer of the last pod.

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
use serde_json::{Value, json};
use trellis_api::names::TARGET_PORT_PREFIX;

use crate::{
    line::{Line, Protocol},
    shop::Shop,
    wait::LONG,
};

/// Edits of a run.
const EDITS: usize = 100;
/// Between two questions to a pod: the resolution of the figures, and little load.
const PAUSE: Duration = Duration::from_millis(4);
/// What a proxy says of a path that it does not know.
const NO_ROUTE: &str = "no_route";

/// Makes the edits, one after the other, and returns what each took.
pub(crate) async fn make(shop: &Shop, service: &str, gateway: &str) -> Result<Vec<Duration>> {
    let own = shop.routes(service).await?;
    let pods = shop.pods(gateway).await?;
    let gateways: Vec<Line> = pods
        .iter()
        .map(|pod| Ok(Line::new(address(pod)?, Protocol::H1)))
        .collect::<Result<_>>()?;
    let run = format!("/soak-{:08x}", rand::random::<u32>());
    let mut times = Vec::new();
    for edit in 0..EDITS {
        let path = format!("{run}-{edit}");
        let mut routes = own.clone();
        routes.push(json!({"name": "soak", "path": path}));
        times.push(
            edited(shop, service, routes, &gateways, &path)
                .await
                .with_context(|| format!("edit {edit}"))?,
        );
    }
    shop.change(service, json!({"routes": own})).await?;
    Ok(times)
}

async fn edited(
    shop: &Shop,
    service: &str,
    routes: Vec<Value>,
    gateways: &[Line],
    path: &str,
) -> Result<Duration> {
    let answered = async {
        shop.change(service, json!({"routes": routes})).await?;
        Ok(Instant::now())
    };
    let changed = try_join_all(gateways.iter().map(|gateway| first_change(gateway, path)));
    let (answered, changed) = futures::try_join!(answered, changed)?;
    let last = changed.into_iter().max().unwrap_or(answered);
    // A gateway may know before the API server's answer has arrived here.
    Ok(last.saturating_duration_since(answered))
}

async fn first_change(gateway: &Line, path: &str) -> Result<Instant> {
    let began = Instant::now();
    while began.elapsed() < LONG {
        let request = Request::get(path).body(Full::<Bytes>::default())?;
        let answer = gateway.exchange(request).await?;
        if answer.reason.as_deref() != Some(NO_ROUTE) {
            return Ok(Instant::now());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("a gateway did not know the path {path} after {LONG:?}")
}

/// Where a gateway pod itself listens.
fn address(pod: &Pod) -> Result<SocketAddr> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let ip: IpAddr = ip.context("a gateway pod has no address")?.parse()?;
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let port = containers
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| {
            port.name
                .as_ref()
                .is_some_and(|name| name.starts_with(TARGET_PORT_PREFIX))
        })
        .context("a gateway pod has no listener")?;
    Ok(SocketAddr::new(ip, u16::try_from(port.container_port)?))
}
