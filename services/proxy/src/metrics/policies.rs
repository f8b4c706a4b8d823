//! What the policies of each cluster do, read when somebody asks.
//!
//! Bounded by the document in use: a cluster that goes takes its figures along.

use std::{fmt, sync::Arc, sync::atomic::Ordering};

use arc_swap::ArcSwapOption;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet},
    metrics::MetricType,
};
use trellis_proxy_config::RateLimit;
use trellis_resilience::breaker::Phase;

use crate::{
    cluster::Cluster,
    limits::{Limits, Tallies},
    snapshot::Snapshot,
};

/// Figures of the clusters of the snapshot in use.
#[derive(Debug)]
pub(crate) struct OfPolicies(pub(crate) Arc<ArcSwapOption<Snapshot>>);

#[derive(Debug, Clone, EncodeLabelSet)]
struct ClusterLabels {
    cluster: String,
}

#[derive(Debug, Clone, EncodeLabelSet)]
struct EndpointLabels {
    cluster: String,
    endpoint: String,
}

#[derive(Debug, Clone, EncodeLabelSet)]
struct PortLabels {
    port: String,
}

#[derive(Debug, Clone, EncodeLabelSet)]
struct LimitLabels {
    policy: String,
    limit: String,
    route: String,
}

/// What a cluster is asked for.
type Figure<T> = fn(&Cluster) -> Option<T>;

/// What is asked of a bulkhead's load: who is in, and who waits.
type Load = fn((u32, usize)) -> i64;

/// What a limit is asked for: of what happened by it, how many counters it has and how many were forgotten.
type LimitFigure = fn(&Tallies, usize, u64) -> u64;

impl Collector for OfPolicies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let snapshot = self.0.load_full();
        let clusters: Vec<&Arc<Cluster>> = snapshot
            .iter()
            .flat_map(|snapshot| snapshot.clusters.values())
            .collect();
        let gauges: [(&str, &str, Figure<i64>); 3] = [
            (
                "circuit_breaker_state",
                "Circuit breaker of a cluster: 0 closed, 1 open, 2 half-open",
                |cluster| Some(number(cluster.policies()?.phase()?)),
            ),
            (
                "bulkhead_requests",
                "Requests under way, from choosing a target to the end of the response's body",
                |cluster| Some(cluster.policies()?.load().0.into()),
            ),
            ("bulkhead_waiting", "Requests that wait for a place", |cluster| {
                i64::try_from(cluster.policies()?.load().1).ok()
            }),
        ];
        for (name, help, figure) in gauges {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for cluster in &clusters {
                if let Some(figure) = figure(cluster) {
                    metric.encode_family(&labels(cluster))?.encode_gauge(&figure)?;
                }
            }
        }
        let counters: [(&str, &str, Figure<u64>); 4] = [
            (
                "circuit_breaker_opened",
                "Times that a circuit breaker opened",
                |cluster| Some(cluster.policies()?.counts().openings.load(Ordering::Relaxed)),
            ),
            ("retries", "Tries after the first", |cluster| {
                Some(cluster.policies()?.counts().retries.load(Ordering::Relaxed))
            }),
            (
                "retries_out_of_budget",
                "Tries that were worth it and for which there was no budget",
                |cluster| Some(cluster.policies()?.counts().out_of_budget.load(Ordering::Relaxed)),
            ),
            ("fallbacks", "Answers of the fallback", |cluster| {
                Some(cluster.policies()?.counts().fallbacks.load(Ordering::Relaxed))
            }),
        ];
        for (name, help, figure) in counters {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for cluster in &clusters {
                if let Some(figure) = figure(cluster) {
                    let labels = labels(cluster);
                    let mut member = metric.encode_family(&labels)?;
                    member.encode_counter::<NoLabelSet, _, u64>(&figure, None)?;
                }
            }
        }
        let mut metric = encoder.encode_descriptor(
            "endpoint_circuit_breaker_state",
            "Circuit breaker of an endpoint: 0 closed, 1 open, 2 half-open",
            None,
            MetricType::Gauge,
        )?;
        for cluster in &clusters {
            for endpoint in cluster.endpoints().iter() {
                if let Some(phase) = endpoint.phase() {
                    let labels = EndpointLabels {
                        cluster: cluster.name.to_string(),
                        endpoint: endpoint.address.to_string(),
                    };
                    metric.encode_family(&labels)?.encode_gauge(&number(phase))?;
                }
            }
        }
        encode_bulkheads(snapshot.as_deref(), &mut encoder)?;
        encode_limits(
            &snapshot.map(|snapshot| Arc::clone(&snapshot.limits)),
            &mut encoder,
        )
    }
}

fn encode_bulkheads(
    snapshot: Option<&Snapshot>,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let gauges: [(&str, &str, Load); 2] = [
        (
            "inbound_bulkhead_requests",
            "Requests that the app works on, to the end of the response's body",
            |(inside, _)| inside.into(),
        ),
        (
            "inbound_bulkhead_waiting",
            "Requests that wait for the app to be done with others",
            |(_, waiting)| i64::try_from(waiting).unwrap_or(i64::MAX),
        ),
    ];
    for (name, help, figure) in gauges {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for listener in snapshot.iter().flat_map(|snapshot| &snapshot.listeners) {
            let Some(bulkhead) = &listener.bulkhead else {
                continue;
            };
            let labels = PortLabels {
                port: listener.labels.route.to_string(),
            };
            metric
                .encode_family(&labels)?
                .encode_gauge(&figure(bulkhead.load()))?;
        }
    }
    Ok(())
}

fn encode_limits(
    limits: &Option<Arc<Limits>>,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let counters: [(&str, &str, LimitFigure); 3] = [
        (
            "rate_limit_refused",
            "Rates that refused a request",
            |tallies, _, _| tallies.refused.load(Ordering::Relaxed),
        ),
        (
            "rate_limit_shadow_refused",
            "Rates in shadow mode that would have refused a request",
            |tallies, _, _| tallies.in_shadow.load(Ordering::Relaxed),
        ),
        (
            "rate_limit_keys_evicted",
            "Counters that were forgotten because nothing in them still counted",
            |_, _, evicted| evicted,
        ),
    ];
    for (name, help, figure) in counters {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (settings, tallies, keys, evicted) in limits.iter().flat_map(|limits| limits.all()) {
            let labels = LimitLabels::of(settings);
            let mut member = metric.encode_family(&labels)?;
            member.encode_counter::<NoLabelSet, _, u64>(&figure(tallies, keys, evicted), None)?;
        }
    }
    let mut metric = encoder.encode_descriptor(
        "rate_limit_leased_keys",
        "Counters that are shared with other pods, of which this one has asked for its part",
        None,
        MetricType::Gauge,
    )?;
    for leased in limits.iter().flat_map(|limits| limits.leased()) {
        let labels = LimitLabels::of(leased.settings());
        let keys = i64::try_from(leased.leases.len()).unwrap_or(i64::MAX);
        metric.encode_family(&labels)?.encode_gauge(&keys)?;
    }
    let mut metric = encoder.encode_descriptor(
        "rate_limit_keys",
        "Counters that are kept apart",
        None,
        MetricType::Gauge,
    )?;
    for (settings, _, keys, _) in limits.iter().flat_map(|limits| limits.all()) {
        let labels = LimitLabels::of(settings);
        let keys = i64::try_from(keys).unwrap_or(i64::MAX);
        metric.encode_family(&labels)?.encode_gauge(&keys)?;
    }
    Ok(())
}

impl LimitLabels {
    fn of(settings: &RateLimit) -> Self {
        Self {
            policy: settings.policy.clone(),
            limit: settings.name.clone(),
            route: settings
                .route
                .as_ref()
                .map(|route| route.name.clone())
                .unwrap_or_default(),
        }
    }
}

fn labels(cluster: &Cluster) -> ClusterLabels {
    ClusterLabels {
        cluster: cluster.name.to_string(),
    }
}

const fn number(phase: Phase) -> i64 {
    match phase {
        Phase::Closed => 0,
        Phase::Open => 1,
        Phase::HalfOpen => 2,
    }
}
