//! The admin port: for those inside the pod only.
//!
//! | request | does |
//! |---|---|
//! | `POST /drain?hold=5&longest=15` | drains; answers after `hold` seconds, or later once nothing is in flight |
//! | `GET /config` | the document in use, where it came from, and of its clusters endpoints and circuit breakers |

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::{get, post},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use trellis_resilience::breaker::Phase;

use crate::{
    configuration::Configuration,
    discovery::{Known, Origin},
    lifecycle::Lifecycle,
    snapshot::Source,
};

/// What the admin port speaks about.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) lifecycle: Arc<Lifecycle>,
}

#[derive(Debug, Deserialize)]
struct Hold {
    #[serde(default = "five")]
    hold: u64,
    #[serde(default)]
    longest: u64,
}

/// Answer of `GET /config`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    version: u64,
    digest: String,
    source: Option<Source>,
    stream: &'static str,
    in_flight: usize,
    endpoints: BTreeMap<String, ShownEndpoints>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownEndpoints {
    origin: Option<Origin>,
    addresses: Vec<SocketAddr>,
    /// What the circuit breaker of the cluster does.
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<&'static str>,
    /// What those of endpoints do that are not closed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    endpoint_breakers: BTreeMap<SocketAddr, &'static str>,
}

/// The routes of the admin port.
pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/drain", post(drain))
        .route("/config", get(config))
        .with_state(admin)
}

async fn drain(State(admin): State<Admin>, Query(Hold { hold, longest }): Query<Hold>) -> StatusCode {
    let (hold, longest) = (Duration::from_secs(hold), Duration::from_secs(longest.max(hold)));
    admin.lifecycle.drain_and_hold(hold, longest).await;
    StatusCode::NO_CONTENT
}

async fn config(State(admin): State<Admin>) -> Json<Shown> {
    let configuration = &admin.configuration;
    let in_use = configuration.in_use();
    let snapshot = configuration.snapshot.load_full();
    let known = configuration.discovery.all();
    let clusters = snapshot.iter().flat_map(|snapshot| &snapshot.clusters);
    let endpoints = clusters.map(|(name, cluster)| {
        let shown = ShownEndpoints {
            origin: known.get(name).map(|Known { origin, .. }| *origin),
            addresses: cluster.addresses(),
            breaker: cluster
                .policies()
                .and_then(|policies| policies.phase())
                .map(Phase::as_str),
            endpoint_breakers: cluster
                .endpoints()
                .iter()
                .filter_map(|endpoint| Some((endpoint.address, endpoint.phase()?)))
                .filter(|(_, phase)| *phase != Phase::Closed)
                .map(|(address, phase)| (address, phase.as_str()))
                .collect(),
        };
        (name.to_string(), shown)
    });
    Json(Shown {
        version: in_use.version,
        digest: in_use.digest,
        source: snapshot.as_ref().map(|snapshot| snapshot.source),
        stream: if configuration.discovery.is_stream_up() {
            "up"
        } else {
            "away"
        },
        in_flight: admin.lifecycle.inbound.count(),
        endpoints: endpoints.collect(),
    })
}

const fn five() -> u64 {
    5
}
