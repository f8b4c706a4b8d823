//! Metrics of the connections of callers, by port.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use super::series::Series;
use crate::direction::Direction;

/// Metrics of connections; clones count into the same families.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connections {
    open: Series<PortLabels, Gauge>,
    full: Series<PortLabels, Counter>,
    refused: Series<RefusedLabels, Counter>,
}

/// A port that callers connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PortLabels {
    direction: &'static str,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    direction: &'static str,
    port: u16,
    reason: BadHead,
}

/// Why a head never became a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum BadHead {
    /// It is no HTTP.
    Malformed,
    /// It is larger than what is read.
    TooLarge,
}

impl BadHead {
    /// The word in logs and metric labels.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
        }
    }
}

impl EncodeLabelValue for BadHead {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl PortLabels {
    /// A port that serves one direction.
    pub(crate) const fn new(direction: Direction, port: u16) -> Self {
        Self {
            direction: direction.as_str(),
            port,
        }
    }
}

impl Connections {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let connections = Self::default();
        registry.register(
            "caller_connections",
            "Connections of callers that are open",
            connections.open.family(),
        );
        registry.register(
            "caller_connections_full",
            "Times that a port had as many connections as it may have, and callers had to wait",
            connections.full.family(),
        );
        registry.register(
            "refused_heads",
            "Heads of HTTP/1.1 requests that could not be read",
            connections.refused.family(),
        );
        connections
    }

    /// Connections that are open now.
    pub(crate) fn open(&self, port: &PortLabels) -> Gauge {
        self.open.member(port)
    }

    /// A port has as many connections as it may have.
    pub(crate) fn full(&self, port: &PortLabels) {
        self.full.member(port).inc();
    }

    /// A head could not be read.
    pub(crate) fn refused(&self, port: &PortLabels, reason: BadHead) {
        let PortLabels { direction, port } = *port;
        self.refused
            .member(&RefusedLabels {
                direction,
                port,
                reason,
            })
            .inc();
    }

    /// Forgets ports that `keep` does not want and that have no connection any more.
    pub(super) fn retain(&self, keep: impl Fn(u16) -> bool) {
        self.open.retain(|port, open| keep(port.port) || open.get() != 0);
        let open = self.open.family();
        self.full.retain(|port, _| open.get(port).is_some());
        self.refused.retain(|labels, _| {
            let RefusedLabels { direction, port, .. } = *labels;
            open.get(&PortLabels { direction, port }).is_some()
        });
    }
}
